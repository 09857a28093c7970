"""Runs benchmarks and prints one table of what they measure.

A subject is measured once per round, and the subjects of a row in turns. The table has the median
of each subject and half the distance between its quartiles. It compares two subjects by the median
of their ratios or differences, and has the 90 % confidence interval of that median. If the target
is within this interval, it is unclear whether it is reached. More rounds or a quieter machine can
tell. With fewer than five rounds, there is no interval, and the median alone decides.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks import report
from benchmarks.machine import describe
from benchmarks.measurement import Measurement

DEFAULT = ("requests", "creating", "messages", "stalls", "loading")
BENCHMARKS = {
    "requests": "requests to real servers, against the server's own session manager",
    "creating": "sessions with real kernels, against the kernels alone",
    "messages": "processor time that a server needs per message of a kernel",
    "stalls": "how long a server's event loop is blocked",
    "loading": "what the extension adds to the start of a server",
    "lookups": "single sessions among 100 and 100,000",
    "lookups_in_postgres": "the same in PostgreSQL",
    "memory": "the memory that sessions need",
    "sessions": "session managers in process, against the server's own",
    "event_loop": "how long they block an event loop, in process",
    "adoption": "what it costs to let kernels survive and to take them over",
    "keeper": "what the keeper costs, and noting each message",
    "postgres": "the PostgreSQL store with many namespaces and servers",
    "pages": "how pages come back after a crash of their server",
}


def run(names: list[str], rounds: int | None, folder: Path) -> Iterator[tuple[str, Measurement]]:
    """Yield what the benchmarks measure, with their names."""
    for name in names:
        benchmark = importlib.import_module(f"benchmarks.{name}")
        with tempfile.TemporaryDirectory(dir=folder) as place:
            for measurement in benchmark.measure(rounds or benchmark.ROUNDS, Path(place)):
                yield name, measurement


def main() -> int:
    listed = "\n".join(f"  {name:20} {what}" for name, what in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"benchmarks:\n{listed}\n\nwithout a name: {', '.join(DEFAULT)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a benchmark")
    parser.add_argument("--rounds", type=int, help="how often each subject is measured")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the values to this file")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="the file of an earlier run")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help="where files are written, to measure another file system",
    )
    arguments = parser.parse_args()
    names = arguments.names or list(DEFAULT)
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    machine = describe(arguments.folder)
    print(", ".join(f"{what} {value}" for what, value in machine.items()), end="\n\n")
    earlier = json.loads(arguments.compare.read_text()) if arguments.compare else None
    table = report.Table(earlier)
    table.begin()
    rows = []
    for name, measurement in run(names, arguments.rounds, arguments.folder):
        table.add(name, measurement)
        rows.append(report.as_row(name, measurement))
        if arguments.json:
            # Now, because a later benchmark may fail.
            report.write(arguments.json, machine, rows)
    verdicts = Counter(row["verdict"] for row in rows if row["verdict"])
    counts = (f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    print("\nTargets:", ", ".join(counts) or "none")
    return "missed" in verdicts


if __name__ == "__main__":
    sys.exit(main())
