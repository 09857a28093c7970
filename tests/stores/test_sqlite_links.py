"""A store opened through a symbolic link, and a log that grew during a long read."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from nbsessions.stores.sqlite import database
from nbsessions.stores.sqlite.inspection import examine, read_contents
from support.stores import Stores, ids, rows
from support.values import make_owner, make_session


@pytest.mark.gen_test
@pytest.mark.parametrize("there", [True, False])
async def test_all_that_belongs_to_a_linked_file_is_beside_the_file(
    tmp_path: Path, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(database, "is_local", lambda folder: asked.append(folder) or True)
    real, links = tmp_path / "real", tmp_path / "links"
    for folder in (real, links):
        folder.mkdir()
    file, link = real / "sessions.db", links / "link.db"
    if there:
        file.touch(0o600)
    link.symlink_to(file)

    by_link = await Stores("sqlite-wal", link).open()
    session = await by_link.insert(make_session())
    by_name = await Stores("sqlite-wal", file).open(make_owner("by name"))
    other = await by_name.insert(make_session(scope="by name"))

    assert set(asked) == {real}
    assert list(links.iterdir()) == [link]
    assert {"sessions.db", "sessions.db-wal", "sessions.db.lock"} <= {
        path.name for path in real.iterdir()
    }
    assert (await by_name.find_orphans()).owners == {}
    for path in (file, link):
        found = [each.session for each in read_contents(path).sessions]
        assert ids(found) == ids([session, other])
        assert examine(path).damage is None
    by_link.close()
    by_name.close()
    assert list(links.iterdir()) == [link]


@pytest.mark.gen_test
@pytest.mark.parametrize("stores", ["sqlite-wal"], indirect=True)
@pytest.mark.parametrize("at_rest", [True, False])
async def test_a_log_that_grew_under_a_long_reader_is_truncated_when_that_is_gone(
    stores: Stores, at_rest: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_LARGEST_LOG", 1_000_000)
    log = stores.path.with_name(f"{stores.path.name}-wal")
    store = await stores.open()
    with closing(sqlite3.connect(stores.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT COUNT(*) FROM nbsessions_session").fetchall()
        for number in range(30):
            await store.insert(make_session(f"{number}{'x' * 50_000}"))
        await store.ensure_intact()
        assert log.stat().st_size > 1_000_000
    for _ in range(1 if at_rest else database._CHECKPOINT_AFTER + 1):
        await (store.ensure_intact() if at_rest else store.heartbeat())
    assert log.stat().st_size < 1_000_000
    assert len(rows(stores.path, "SELECT seq FROM nbsessions_session")) == 30
