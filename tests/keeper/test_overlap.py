"""Which messages two keepers have both received."""

from __future__ import annotations

import pytest

from nbsessions.keeper import overlap
from nbsessions.keeper.messages import DELIMITER, HEADER, SIGNATURE, key_of
from nbsessions.keeper.overlap import Overlap
from support.spools import make_message

MESSAGES = [[b"topic", DELIMITER, *make_message("stream")] for _ in range(6)]
KEYS = [key_of(each[2 + SIGNATURE], each[2 + HEADER]) for each in MESSAGES]


def test_what_follows_the_last_message_in_common_is_new() -> None:
    assert Overlap(KEYS[:4]).following(MESSAGES[2:]) == MESSAGES[4:]


def test_what_the_earlier_keeper_has_left_out_stays_out() -> None:
    assert Overlap([KEYS[0], KEYS[3]]).following(MESSAGES) == MESSAGES[4:]


@pytest.mark.parametrize("keys", [[], KEYS[:2]])
def test_all_is_new_if_nothing_is_in_common(keys: list[bytes]) -> None:
    assert Overlap(keys).following(MESSAGES[2:]) == MESSAGES[2:]


def test_messages_that_come_late_are_recognized() -> None:
    both = Overlap(KEYS[:4])
    assert both.following(MESSAGES[:2]) == []
    assert not both.is_over
    assert [both.has(each) for each in MESSAGES[2:]] == [True, True, False, False]
    assert both.is_over


def test_nonsense_is_new() -> None:
    assert not Overlap(KEYS).has([b"nonsense"])


def test_the_overlap_ends_although_the_last_message_never_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(overlap, "_LATE", 0.0)
    assert Overlap(KEYS).is_over
