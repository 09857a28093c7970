"""The benchmarks can be run, and their results compared."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from preparation.commands import ROOT


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def cells(line: str) -> list[str]:
    """Return the cells of a line of the table."""
    return [cell.strip() for cell in line.strip("|").split("|")]


def read(file: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(file.read_text())["rows"]
    return rows


def test_a_run_prints_a_table_and_can_be_compared_with_an_earlier_one(tmp_path: Path) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    done = run("loading", "--rounds", "1", "--json", first, "--folder", tmp_path)
    rows = read(first)
    # Whether the targets are reached depends on the machine.
    assert done.returncode == any(row["verdict"] == "missed" for row in rows), done.stderr
    assert [list(row["values"]) for row in rows] == [["ours", "stock"]] * len(rows)

    compared = ("--compare", first, "--json", second)
    done = run("loading", "--rounds", "1", *compared, "--folder", tmp_path)
    assert len(read(second)) == len(rows), done.stderr
    table = [cells(line) for line in done.stdout.splitlines() if line.startswith("|")]
    titles, _, *lines = table
    column = titles.index("first: new / old")
    for line, old, new in zip(lines, rows, read(second), strict=True):
        assert line[0] == f"loading: {old['name']}"
        expected = new["medians"]["ours"] / old["medians"]["ours"]
        assert line[column] == f"{expected:.2f}"


def test_each_benchmark_can_be_imported() -> None:
    code = (
        "import importlib\n"
        "from benchmarks.__main__ import BENCHMARKS\n"
        "for name in BENCHMARKS:\n"
        "    module = importlib.import_module(f'benchmarks.{name}')\n"
        "    assert module.ROUNDS > 0 and callable(module.measure), name\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("first", "second", "figure", "interval", "verdict"),
    [
        # Four rounds are too few for an interval, so the median alone decides.
        ([12, 11, 13, 25], [1, 1, 1, 1], 11.5, None, "reached"),
        ([19, 18, 17, 16, 15], [1, 1, 1, 1, 1], 16, [14, 18], "reached"),
        ([19, 18, 17, 16, 25], [1, 1, 1, 1, 1], 17, [15, 24], "unclear"),
        ([22, 23, 24, 25, 26], [1, 1, 1, 1, 1], 23, [21, 25], "missed"),
        # The machine became ten times slower, which changes the values but not the differences.
        ([11, 11, 11, 120, 120], [1, 1, 1, 110, 110], 10, [10, 10], "reached"),
        # Of eight rounds, the lowest and the highest are left out.
        ([101, 2, 3, 4, 5, 6, 7, -99], [1] * 8, 3.5, [1, 6], "reached"),
    ],
)
def test_a_verdict_needs_rounds_that_agree(
    first: list[float],
    second: list[float],
    figure: float,
    interval: list[float] | None,
    verdict: str,
) -> None:
    code = (
        "import json\n"
        "from benchmarks.measurement import Measurement\n"
        "from benchmarks.report import as_row\n"
        f"values = {{'ours': {first}, 'stock': {second}}}\n"
        "measurement = Measurement(\n"
        "    name='', unit='ms', values=values, difference=True, at_most=20.0\n"
        ")\n"
        "print(json.dumps(as_row('', measurement)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    row = json.loads(done.stdout)
    assert (row["figure"], row["interval"], row["verdict"]) == (figure, interval, verdict)


def test_an_unknown_name_is_told() -> None:
    done = run("nothing")
    assert done.returncode == 2
    assert "no such benchmark: nothing" in done.stderr
