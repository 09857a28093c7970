"""For how long the answers of a gateway are used."""

from __future__ import annotations

import pytest

from nbsessions.kernels.gateway import answers as answers_module
from nbsessions.kernels.gateway.answers import Answer, Answers

MODEL = {"id": "a"}


class Clock:
    """The time for answers, which only a test moves on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(answers_module, "monotonic", clock)
    return clock


def is_new(answers: Answers, clock: Clock, kernel_id: str = "a") -> bool:
    """Return whether a caller who asks now need not wait for another answer."""
    return answers.find_new(kernel_id, clock.now) is not None


@pytest.mark.parametrize(("took", "usable_for"), [(1.0, 7.0), (2.0, 30.0)])
def test_an_answer_is_used_while_the_next_one_is_late_and_longer_if_it_took_long(
    clock: Clock, took: float, usable_for: float
) -> None:
    answers = Answers(max_age=2.0)
    answers.add("a", Answer(came=clock.now, took=took, model=MODEL))
    clock.now += 1.9
    assert is_new(answers, clock)
    clock.now += 0.2
    assert not is_new(answers, clock)
    clock.now = 1000.0 + usable_for - 0.1
    assert answers.find_usable("a") == MODEL
    clock.now += 0.2
    assert answers.find_usable("a") is None


def test_a_list_is_used_while_the_next_one_is_late_only_if_it_took_long(clock: Clock) -> None:
    answers = Answers(max_age=1.0)
    models = {str(number): MODEL for number in range(2000)}
    answers.replace(models, without={"1": None}, took=2.0)
    assert answers.find_usable("0") == MODEL
    assert answers.find_usable("1") is None
    clock.now += 29.9  # however many kernels it has told about
    assert answers.find_usable("0") == MODEL
    clock.now += 0.2
    assert answers.find_usable("0") is None
    answers.replace(models, without={}, took=2.0)
    answers.replace(models, without={}, took=1.0)
    assert answers.find_usable("0") is None


def test_with_many_kernels_only_what_is_alive_is_used_for_longer(clock: Clock) -> None:
    answers = Answers(max_age=1.0)
    for number in range(198):
        answers.add(str(number), Answer(came=clock.now, took=1.0, model=MODEL))
    answers.add("dead", Answer(came=clock.now, took=1.0, is_dead=True))
    answers.add("unknown", Answer(came=clock.now, took=1.0))
    clock.now += 0.9
    assert is_new(answers, clock, "dead")
    assert is_new(answers, clock, "unknown")
    clock.now += 0.2
    assert not is_new(answers, clock, "dead")
    assert not is_new(answers, clock, "unknown")
    clock.now = 1009.9
    assert is_new(answers, clock, "0")
    clock.now += 0.2
    assert not is_new(answers, clock, "0")


def test_answers_that_nobody_asks_for_any_more_are_forgotten(clock: Clock) -> None:
    answers = Answers(max_age=1.0)
    for number in range(200):
        answers.add(str(number), Answer(came=clock.now, took=1.0, model=MODEL))
    clock.now += 60.0
    answers.add("a", Answer(came=clock.now, took=1.0, model=MODEL))
    assert list(answers._answers) == ["a"]
