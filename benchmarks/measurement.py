"""What benchmarks yield, and how its figures are computed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The values of one or two subjects, one value per round, and what they are compared by.

    The figure of two subjects is the ratio of their medians, the first to the second, or with
    ``difference`` the difference. The figure of one subject is its median.
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
    def figure(self) -> float:
        """The number that the target applies to, in the unit unless it is a ratio."""
        first, *others = self.medians
        if not others:
            return first
        if self.difference:
            return first - others[0]
        return first / others[0] if others[0] else math.nan

    @property
    def is_reached(self) -> bool | None:
        """Whether the target is reached, or None if there is none."""
        if self.at_least is None and self.at_most is None:
            return None
        above = self.at_least is None or self.figure >= self.at_least
        return above and (self.at_most is None or self.figure <= self.at_most)


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
