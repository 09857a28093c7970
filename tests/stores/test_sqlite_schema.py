"""Versions of the schema: new files, newer compatible releases and incompatible ones."""

from __future__ import annotations

import pytest

from nbsessions.errors import StoreTooNew
from nbsessions.stores.sqlite.schema import MIGRATIONS, OLDEST_COMPATIBLE
from support.stores import SQLITE_KINDS, Stores, ids, rows
from support.values import make_owner, make_session

pytestmark = pytest.mark.parametrize("stores", SQLITE_KINDS, indirect=True)

NEWEST = len(MIGRATIONS)


def meta(stores: Stores) -> dict[str, int]:
    return dict(rows(stores.path, "SELECT key, value FROM nbsessions_meta"))


def set_meta(stores: Stores, **values: int) -> None:
    for key, value in values.items():
        rows(stores.path, "UPDATE nbsessions_meta SET value = ? WHERE key = ?", value, key)


@pytest.mark.gen_test
async def test_a_new_file_gets_the_newest_schema(stores: Stores) -> None:
    await stores.open()
    assert meta(stores) == {"schema": NEWEST, "oldest_compatible": OLDEST_COMPATIBLE}


@pytest.mark.gen_test
async def test_an_empty_file_gets_the_newest_schema(stores: Stores) -> None:
    stores.path.touch()
    await stores.open()
    assert meta(stores)["schema"] == NEWEST


@pytest.mark.gen_test
async def test_tables_of_others_are_left_alone(stores: Stores) -> None:
    rows(stores.path, "CREATE TABLE other (value)")
    rows(stores.path, "INSERT INTO other VALUES (1)")
    await stores.open()
    assert rows(stores.path, "SELECT * FROM other") == [(1,)]


@pytest.mark.gen_test
async def test_opening_again_changes_no_schema(stores: Stores) -> None:
    (await stores.open()).close()
    before = rows(stores.path, "SELECT * FROM sqlite_master")
    await stores.open()
    assert rows(stores.path, "SELECT * FROM sqlite_master") == before


@pytest.mark.gen_test
async def test_every_migration_starts_where_the_one_before_ended(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    (await stores.open()).close()
    newer = (*MIGRATIONS, ("ALTER TABLE nbsessions_session ADD COLUMN later TEXT",))
    monkeypatch.setattr("nbsessions.stores.sqlite.schema.MIGRATIONS", newer)
    store = await stores.open()
    assert meta(stores)["schema"] == NEWEST + 1
    session = await store.insert(make_session())
    assert rows(stores.path, "SELECT session_id, later FROM nbsessions_session") == [
        (session.session_id, None)
    ]


@pytest.mark.gen_test
async def test_a_migration_that_fails_leaves_the_file_as_it_was(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await stores.open()
    session = await store.insert(make_session())
    store.close([session.kernel_id])
    before = rows(stores.path, "SELECT * FROM sqlite_master"), meta(stores)
    with monkeypatch.context() as patch:
        newer = (*MIGRATIONS, ("CREATE TABLE later (value)", "NOT SQL"))
        patch.setattr("nbsessions.stores.sqlite.schema.MIGRATIONS", newer)
        with pytest.raises(Exception, match="syntax error"):
            await stores.open()
    assert (rows(stores.path, "SELECT * FROM sqlite_master"), meta(stores)) == before
    orphans = await (await stores.open(make_owner("next"))).find_orphans()
    assert ids(orphans.sessions) == [session.session_id]


@pytest.mark.gen_test
async def test_a_newer_schema_that_says_it_is_compatible_is_used(stores: Stores) -> None:
    (await stores.open()).close()
    set_meta(stores, schema=NEWEST + 5, oldest_compatible=NEWEST)
    rows(stores.path, "ALTER TABLE nbsessions_session ADD COLUMN later TEXT DEFAULT 'later'")
    store = await stores.open()
    session = await store.insert(make_session())
    assert list(await store.list_sessions()) == [session]
    assert meta(stores) == {"schema": NEWEST + 5, "oldest_compatible": NEWEST}


@pytest.mark.gen_test
async def test_a_schema_that_is_too_new_is_refused_and_left_alone(stores: Stores) -> None:
    (await stores.open()).close()
    set_meta(stores, schema=NEWEST + 2, oldest_compatible=NEWEST + 1)
    before = list(rows(stores.path, "SELECT * FROM nbsessions_owner"))
    with pytest.raises(StoreTooNew, match="Upgrade nbsessions") as error:
        await stores.open(make_owner("old"))
    assert str(NEWEST + 2) in str(error.value)
    assert rows(stores.path, "SELECT * FROM nbsessions_owner") == before
    assert not list(stores.path.parent.glob("*.owner-*"))


@pytest.mark.gen_test
async def test_a_file_that_became_too_new_while_open_is_still_written(stores: Stores) -> None:
    store = await stores.open()
    set_meta(stores, schema=NEWEST + 2, oldest_compatible=NEWEST + 1)
    await store.insert(make_session())
    assert len(await store.list_sessions()) == 1
