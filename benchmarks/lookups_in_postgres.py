"""Gets single sessions in PostgreSQL, among 100 and among 100,000.

The PostgreSQL server is one of the tests, so this needs the environment of the tests.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))

from benchmarks.lookups import Lookups  # noqa: E402
from benchmarks.measurement import Measurement  # noqa: E402
from benchmarks.setting import our_manager_with  # noqa: E402
from support.postgres import FAST, running_cluster  # noqa: E402  # found by the lines before

ROUNDS = 15


def measure(rounds: int, folder: Path) -> Iterator[Measurement]:
    with running_cluster(**FAST) as cluster:
        managers = [
            our_manager_with(store_url=cluster.make_schema(), namespace="benchmark")
            for _ in range(2)
        ]
        yield from Lookups("PostgreSQL", *managers).measure(rounds)
