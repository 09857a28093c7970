"""Fixtures for the tests of the keeper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nbsessions.keeper.spool import Spool
from nbsessions.private import PrivateFolder
from support.spools import KERNEL, Story


@pytest.fixture
def folder(tmp_path: Path) -> PrivateFolder:
    """A folder for spools or marks."""
    made = PrivateFolder(tmp_path / "files")
    made.make()
    return made


@pytest.fixture
def spool(folder: PrivateFolder) -> Iterator[Spool]:
    """A spool that keeps 100 kB."""
    made = Spool(folder, KERNEL, 100_000)
    yield made
    made.close()


@pytest.fixture
def story(spool: Spool) -> Story:
    """What a kernel says into the spool."""
    return Story(spool)
