"""What benchmarks yield, and how its figures are computed."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

CONFIDENCE = 0.9
"""How likely the interval of a measurement contains the median of infinitely many rounds."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The values of one or two subjects, one value per round, and what they are compared by.

    Two subjects are compared within each round, because the speed of a machine changes from one
    to the next: by the ratio of the first to the second, or with ``difference`` by the difference.
    """

    name: str
    unit: str
    values: Mapping[str, Sequence[float]]
    difference: bool = False
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def medians(self) -> list[float]:
        """The median of each subject."""
        return [statistics.median(values) for values in self.values.values()]

    @property
    def spreads(self) -> list[float]:
        """Half the distance between the quartiles of each subject's values."""
        spreads = []
        for values in self.values.values():
            # One value has no quartiles.
            low, _, high = statistics.quantiles([*values, *values], n=4, method="inclusive")
            spreads.append((high - low) / 2)
        return spreads

    @property
    def comparisons(self) -> list[float]:
        """The value, ratio or difference of each round."""
        first, *others = self.values.values()
        if not others:
            return list(first)
        rounds = zip(first, others[0], strict=True)
        if self.difference:
            return [one - other for one, other in rounds]
        return [one / other if other else math.nan for one, other in rounds]

    @property
    def figure(self) -> float:
        """The median of the rounds, which the target applies to."""
        return statistics.median(self.comparisons)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The confidence interval of the figure, see CONFIDENCE. None with fewer than five rounds.

        It does not depend on how the values are distributed: each round is as likely to be above
        the median of infinitely many rounds as below it.
        """
        values = sorted(self.comparisons)
        count = len(values)
        # How likely at most 0, 1, ... of the rounds are below that median.
        below = list(accumulate(math.comb(count, each) / 2**count for each in range(count)))
        left_out = bisect_right(below, (1 - CONFIDENCE) / 2)
        return (values[left_out - 1], values[-left_out]) if left_out else None

    @property
    def verdict(self) -> str:
        """Whether the target is "reached", "missed" or "unclear". Empty if there is none."""
        if self.at_least is None and self.at_most is None:
            return ""
        low = -math.inf if self.at_least is None else self.at_least
        high = math.inf if self.at_most is None else self.at_most
        found = [low <= each <= high for each in self.interval or [self.figure]]
        if all(found):
            return "reached"
        return "unclear" if any(found) else "missed"


def in_turns(rounds: int, subjects: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Measure all subjects in each round, in every other round in the reverse order."""
    values: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(rounds):
        turns = list(subjects.items())
        for name, measure in turns if number % 2 else reversed(turns):
            values[name].append(measure())
    return values


def choose(values: Mapping[str, Sequence[float]], *names: str) -> dict[str, Sequence[float]]:
    """Return the values of these subjects only."""
    return {name: values[name] for name in names}
