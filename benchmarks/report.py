"""The table of measurements, and the JSON file that a later run can be compared with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measurement import Measurement

_COLUMNS = {
    "measurement": 48,
    "unit": 4,
    "first": 24,
    "second": 22,
    "ratio": 26,
    "target": 6,
}
_COMPARED = {"first: new / old": 16, "ratio: new / old": 16}
_LAST = {"": 7}


class Table:
    """Prints a line per measurement, in Markdown."""

    def __init__(self, earlier: dict[str, Any] | None) -> None:
        self._earlier = None if earlier is None else {key(row): row for row in earlier["rows"]}
        compared = {} if earlier is None else _COMPARED
        self._columns = {**_COLUMNS, **compared, **_LAST}

    def begin(self) -> None:
        self._print(list(self._columns))
        self._print(["-" * width for width in self._columns.values()])

    def add(self, benchmark: str, measurement: Measurement) -> None:
        row = as_row(benchmark, measurement)
        cells = [f"{benchmark}: {measurement.name}", measurement.unit, *_subjects(measurement)]
        cells += [_figure(measurement), _target(measurement)]
        if self._earlier is not None:
            cells += _compare(row, self._earlier.get(key(row)))
        cells.append("; ".join(filter(None, [measurement.verdict, measurement.note])))
        self._print(cells)

    def _print(self, cells: Sequence[str]) -> None:
        widths = self._columns.values()
        padded = [f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)]
        print(f"| {' | '.join(padded)} |", flush=True)


def _subjects(measurement: Measurement) -> list[str]:
    """Return a cell for each of two subjects: its median and its spread."""
    cells = []
    for (name, values), median, spread in zip(
        measurement.values.items(), measurement.medians, measurement.spreads, strict=True
    ):
        percent = f" ±{spread / abs(median):.0%}" if len(values) > 1 and median else ""
        cells.append(f"{name} {number(median)}{percent}")
    return [*cells, ""][:2]


def _figure(measurement: Measurement) -> str:
    """Return how two subjects compare, with the confidence interval."""
    if len(measurement.values) == 1:
        return ""
    shown = "{:+.3g}".format if measurement.difference else number
    unit = f" {measurement.unit}" if measurement.difference else ""
    interval = measurement.interval
    between = "" if interval is None else f" ({' to '.join(map(shown, interval))})"
    return f"{shown(measurement.figure)}{unit}{between}"


def _target(measurement: Measurement) -> str:
    if measurement.at_least is not None:
        return f"≥ {number(measurement.at_least)}"
    return "" if measurement.at_most is None else f"≤ {number(measurement.at_most)}"


def number(value: float) -> str:
    """Return three digits, or all digits before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _compare(row: dict[str, Any], earlier: dict[str, Any] | None) -> list[str]:
    if earlier is None:
        return ["", ""]
    first = next(iter(row["values"]))
    new, old = row["medians"][first], earlier["medians"].get(first)
    ratios = [(new, old), (row["figure"], earlier["figure"])]
    return [f"{new / old:.2f}" if old else "" for new, old in ratios]


def key(row: dict[str, Any]) -> tuple[str, ...]:
    """Return what tells the same row in two runs."""
    return (row["benchmark"], row["name"], row["unit"], *row["values"])


def as_row(benchmark: str, measurement: Measurement) -> dict[str, Any]:
    """Return the measurement for the JSON file."""
    return {
        "benchmark": benchmark,
        "name": measurement.name,
        "unit": measurement.unit,
        "values": {name: list(values) for name, values in measurement.values.items()},
        "medians": dict(zip(measurement.values, measurement.medians, strict=True)),
        "figure": measurement.figure,
        "at_least": measurement.at_least,
        "at_most": measurement.at_most,
        "interval": measurement.interval,
        "verdict": measurement.verdict,
        "note": measurement.note,
    }


def write(file: Path, machine: dict[str, str], rows: Sequence[dict[str, Any]]) -> None:
    """Write what a later run can be compared with."""
    content = {"machine": machine, "rows": rows}
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
