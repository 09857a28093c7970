"""The store on other versions of PostgreSQL than the one that all other tests use."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from preparation.programs import POSTGRESQL, list_postgresql
from support.postgres import FAST, packaged_programs, running_cluster, shared_cluster
from support.store_life import live
from support.stores import Stores

OTHERS = list_postgresql()
NEWEST = "newest"


def version(programs: Path) -> str:
    """Return the major version, for example ``15``."""
    command = [programs / "postgres", "--version"]
    return subprocess.check_output(command, text=True).split()[2].partition(".")[0]


def test_there_is_another_version() -> None:
    others = set(map(version, OTHERS)) - {version(packaged_programs())}
    assert others, f"This test needs another version of PostgreSQL: apt-get install {POSTGRESQL}"


@pytest.fixture
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty database."""
    if request.param == NEWEST:
        yield shared_cluster().make_schema()
        return
    with running_cluster(request.param, **FAST) as cluster:
        yield cluster.url


@pytest.mark.parametrize(
    "url", [NEWEST, *OTHERS], indirect=True, ids=[NEWEST, *(each.parent.name for each in OTHERS)]
)
@pytest.mark.parametrize("stores", ["postgres"], indirect=True)
@pytest.mark.gen_test
async def test_all_operations_work(stores: Stores, url: str) -> None:
    stores.url = url
    await live(stores)
    stores.close()  # before the database ends
