"""What the gateway has last told about kernels, and for how long that may be used."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from time import monotonic

from nbsessions.models import KernelModel

PATIENCE = 1.5
"""Seconds that a caller waits for an answer. A gateway that takes longer is slow."""

_MAY_BE_LATE = 5.0
"""Seconds for which an answer that is not new any more is used while the next one is late."""

_SLOW_MAY_BE_LATE = 30.0
"""Seconds for which the answer of a slow gateway is used at least while the next one is late."""

_PER_SECOND = 20
"""For how many kernels to ask per second on average, if the gateway does not list them."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the gateway has told about a kernel. Without a model, a kernel is dead or unknown."""

    came: float
    """The time when it came."""
    took: float
    """The seconds from the request to the answer."""
    model: KernelModel | None = None
    is_dead: bool = False
    is_listed: bool = False
    """Whether one answer has told about all kernels."""


class Answers:
    """The last answer about each kernel.

    An answer about a kernel that was started or has ended after the request must not be added.
    """

    def __init__(self, *, max_age: float) -> None:
        """``max_age``: how many seconds an answer is new, or longer if there are many kernels."""
        self._max_age = max_age
        self._answers: dict[str, Answer] = {}
        """The last ones are at the end."""

    def add(self, kernel_id: str, answer: Answer) -> None:
        """Add an answer that has just come, in place of the last one about the kernel."""
        self.forget(kernel_id)
        self._answers[kernel_id] = answer
        usable_for = max(self._paced_max_age + _MAY_BE_LATE, _SLOW_MAY_BE_LATE)
        oldest = next(iter(self._answers))
        while self._answers[oldest].came + usable_for < answer.came:
            del self._answers[oldest]
            oldest = next(iter(self._answers))

    def replace(
        self, models: Mapping[str, KernelModel], *, without: Collection[str], took: float
    ) -> None:
        """Forget all answers. Add the models of a list that has just come, if that took long.

        What a list has told in time is used only as long as the list is new.
        """
        came = monotonic()
        self._answers = {
            kernel_id: Answer(came=came, took=took, model=models[kernel_id], is_listed=True)
            for kernel_id in (models.keys() - set(without) if took > PATIENCE else ())
        }

    def forget(self, kernel_id: str) -> None:
        """Forget the answer about a kernel."""
        self._answers.pop(kernel_id, None)

    def find_new(self, kernel_id: str, asked: float) -> Answer | None:
        """Return the answer if it was new when a caller asked, or has come since."""
        answer = self._answers.get(kernel_id)
        if answer is None or answer.came + self._max_age_of(answer) <= asked:
            return None
        return answer

    def find_usable(self, kernel_id: str) -> KernelModel | None:
        """Return the model that may be used while the next answer is late. It may be old."""
        answer = self._answers.get(kernel_id)
        if answer is None:
            return None
        usable_for = self._max_age_of(answer) + _MAY_BE_LATE
        if answer.took > PATIENCE:
            usable_for = max(usable_for, _SLOW_MAY_BE_LATE)
        return answer.model if monotonic() < answer.came + usable_for else None

    def _max_age_of(self, answer: Answer) -> float:
        # From an old answer, nothing is dead.
        is_paced = answer.model is not None and not answer.is_listed
        return self._paced_max_age if is_paced else self._max_age

    @property
    def _paced_max_age(self) -> float:
        """How long single answers are new, so that the gateway is not asked too often."""
        return max(self._max_age, len(self._answers) // _PER_SECOND)
