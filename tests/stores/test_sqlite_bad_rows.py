"""Invalid rows: each is left out, reported once, and stays in the file."""

from __future__ import annotations

import logging

import pytest

from nbsessions.errors import KernelConflict, StoreUnavailable
from nbsessions.models import Session
from nbsessions.stores.sqlite.inspection import examine, read_contents
from support.stores import SQLITE_KINDS, Stores, ids, insert_many, recover, rows
from support.values import make_id, make_owner, make_session, make_start

pytestmark = pytest.mark.parametrize("stores", SQLITE_KINDS, indirect=True)

SPOILED = {
    "a timestamp that cannot be read": "created = 'yesterday'",
    "a timestamp without a zone": "last_activity = '2024-01-01T00:00:00'",
    "a timestamp that is a number": "created = 5",
    "a byte that is not UTF-8": "name = CAST(X'FF41' AS TEXT)",
    "an id that is not UTF-8": "kernel_id = CAST(X'FF41' AS TEXT)",
    "a path that is not text": "path = X'00'",
}


def spoil(stores: Stores, session: Session, change: str) -> tuple[object, ...]:
    """Damage the session's row and return the damaged row."""
    # Increment the revision too, as a write by another server would do.
    rows(stores.path, "UPDATE nbsessions_namespace SET revision = revision + 1")
    rows(
        stores.path,
        f"UPDATE nbsessions_session SET {change} WHERE session_id = ?",
        session.session_id,
    )
    return raw(stores, session)


def raw(stores: Stores, session: Session) -> tuple[object, ...]:
    """Return the row from the file, without the columns that name its owner."""
    (row,) = rows(
        stores.path,
        """SELECT CAST(path AS BLOB), CAST(name AS BLOB), CAST(kernel_id AS BLOB), created,
        last_activity FROM nbsessions_session WHERE session_id = ?""",
        session.session_id,
    )
    return row


@pytest.mark.gen_test
@pytest.mark.parametrize("change", SPOILED.values(), ids=SPOILED.keys())
async def test_a_session_that_cannot_be_read_is_left_out_and_kept_and_named_once(
    stores: Stores, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = await stores.open()
    first, bad, last = await insert_many(store, 3)
    row = spoil(stores, bad, change)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            rows(stores.path, "UPDATE nbsessions_namespace SET revision = revision + 1")
            assert ids(await store.list_sessions()) == ids([first, last])
    assert await store.find_session(bad.session_id) is None
    assert await store.list_by_document(str(bad.document)) == []
    await store.delete(last.session_id, stop_token=make_id())
    assert await store.rename_document("0.ipynb", "new.ipynb")
    assert raw(stores, bad) == row
    (warning,) = caplog.messages
    assert "nbsessions_session" in warning
    assert str(stores.path) in warning


@pytest.mark.gen_test
@pytest.mark.parametrize("change", SPOILED.values(), ids=SPOILED.keys())
async def test_a_bad_row_keeps_no_other_session_of_a_dead_owner_from_being_taken_over(
    stores: Stores, change: str
) -> None:
    store = await stores.open(make_owner("earlier"))
    first, bad, last = await insert_many(store, 3, "earlier")
    store.close([each.kernel_id for each in (first, bad, last)])
    row = spoil(stores, bad, change)
    store = await stores.open(make_owner("next"))
    orphans = await store.find_orphans()
    assert ids(orphans.sessions) == ids([first, last])
    await recover(store, orphans, [first.session_id])
    assert ids(await store.list_sessions()) == [first.session_id]
    assert raw(stores, bad) == row


@pytest.mark.gen_test
async def test_a_document_is_found_behind_a_bad_row(stores: Stores) -> None:
    store = await stores.open()
    bad = await store.insert(make_session("a.ipynb"))
    good = await store.insert(make_session("a.ipynb"))
    spoil(stores, bad, "created = ''")
    assert await store.acquire(make_start("a.ipynb")) == good
    assert (await store.attach(make_session("a.ipynb"))).session_id == good.session_id


@pytest.mark.gen_test
async def test_an_intent_of_a_newer_release_is_neither_absent_nor_in_the_way(
    stores: Stores,
) -> None:
    store = await stores.open()
    kernel_id = make_id()
    start = make_start("a.ipynb", kernel_id=kernel_id)
    await store.acquire(start)
    rows(stores.path, "UPDATE nbsessions_intent SET verb = 'pause'")
    assert list(await store.list_intents()) == []
    with pytest.raises(StoreUnavailable):
        await store.find_intent(start.token)
    with pytest.raises(KernelConflict):
        await store.attach(make_session("b.ipynb", kernel_id=kernel_id))
    assert await store.acquire(make_start("c.ipynb")) is None
    store.close([kernel_id])
    store = await stores.open(make_owner("next"))
    await recover(store, await store.find_orphans())
    assert rows(stores.path, "SELECT verb FROM nbsessions_intent") == [("pause",)]


@pytest.mark.gen_test
@pytest.mark.parametrize("heartbeat", ["'now'", "CAST(X'FF' AS TEXT)", "0"])
async def test_an_owner_whose_heartbeat_cannot_be_read_is_silent_without_its_lock(
    stores: Stores, heartbeat: str
) -> None:
    store = await stores.open(make_owner("theirs"))
    session = await store.insert(make_session(scope="theirs"))
    store.close([session.kernel_id])
    change = f"UPDATE nbsessions_owner SET stopped = NULL, heartbeat = {heartbeat}"
    rows(stores.path, change)
    store = await stores.open(make_owner("judge"))
    assert (await store.find_orphans()).owners == {}
    stores.path.with_name(f"{stores.path.name}.owner-theirs").touch()
    assert (await store.find_orphans()).owners.keys() == {"theirs"}


@pytest.mark.gen_test
async def test_bad_rows_are_told_by_who_looks_into_the_file(stores: Stores) -> None:
    store = await stores.open()
    good, bad = await insert_many(store, 2)
    await store.acquire(make_start("new.ipynb"))
    store.close([good.kernel_id, bad.kernel_id])
    spoil(stores, bad, "created = 'yesterday'")
    rows(stores.path, "UPDATE nbsessions_owner SET heartbeat = 'today'")
    contents = read_contents(stores.path)
    assert [each.session.session_id for each in contents.sessions] == [good.session_id]
    assert [each.silent_for for each in contents.owners] == [None]
    problems = examine(stores.path).unreadable
    assert len(problems) == 2
    assert any("yesterday" in each for each in problems)
