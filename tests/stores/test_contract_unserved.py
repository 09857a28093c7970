"""The contract of session stores, continued: shared scopes that no server serves any more."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import timedelta

import psycopg
import pytest

from nbsessions.models import ABANDONED_AFTER, EndReason, Session, Takeover, Verb, utcnow
from nbsessions.stores.base import SessionStore
from nbsessions.stores.sqlite.rows import timestamp
from support.stores import NAMESPACE, OTHER_NAMESPACE, SQL_KINDS, Stores, ids, rows
from support.values import make_id, make_owner, make_session, make_start

pytestmark = [pytest.mark.parametrize("stores", SQL_KINDS, indirect=True), pytest.mark.gen_test]

SHARED = "gateway:http://somewhere"
NOW = timedelta(0)
HOUR = timedelta(hours=1)


async def open_server(
    stores: Stores, owner_id: str, namespace: str = NAMESPACE, scope: str = SHARED
) -> SessionStore:
    return await stores.open(make_owner(owner_id, shared_scope=scope), namespace)


async def leave(
    stores: Stores, *paths: str, owner_id: str = "gone", namespace: str = OTHER_NAMESPACE
) -> list[Session]:
    """Leave sessions of a server that was stopped."""
    store = await open_server(stores, owner_id, namespace)
    sessions = [await store.insert(make_session(each, scope=SHARED)) for each in paths]
    store.close()
    return sessions


async def visit(
    stores: Stores, owner_id: str = "visitor", namespace: str = OTHER_NAMESPACE
) -> SessionStore:
    """Return the store of an owner that serves no shared scope."""
    return await stores.open(make_owner(owner_id), namespace)


def let_pass(stores: Stores, by: timedelta) -> None:
    """Let everything that owners have written be of this long ago."""
    if stores.kind == "postgres":
        with psycopg.connect(stores.url) as connection:
            for column, condition in (("heartbeat", ""), ("stopped", "WHERE stopped IS NOT NULL")):
                connection.execute(
                    f"UPDATE nbsessions_owner SET {column} = now() - %s {condition}",  # type: ignore[arg-type]
                    [by],
                )
            connection.execute("UPDATE nbsessions_session SET last_activity = now() - %s", [by])
        return
    then = timestamp(utcnow() - by)
    rows(stores.path, "UPDATE nbsessions_owner SET heartbeat = ?", then)
    rows(stores.path, "UPDATE nbsessions_owner SET stopped = ? WHERE stopped IS NOT NULL", then)
    rows(stores.path, "UPDATE nbsessions_session SET last_activity = ?", then)


def revive(stores: Stores, owner_id: str) -> None:
    """Let an owner look as if it had not stopped. Nobody can see whether it runs."""
    statement = f"UPDATE nbsessions_owner SET stopped = NULL WHERE owner = '{owner_id}'"
    if stores.kind == "postgres":
        with psycopg.connect(stores.url) as connection:
            connection.execute(statement)  # type: ignore[arg-type]
    else:
        rows(stores.path, statement)


def owners(stores: Stores) -> set[str]:
    return {row[0] for row in stores.rows("SELECT owner FROM nbsessions_owner")}


def kernels(sessions: Collection[Session]) -> set[str]:
    return {session.kernel_id for session in sessions}


# Finding


async def test_what_a_server_has_left_in_another_namespace_is_found_after_that_time(
    stores: Stores,
) -> None:
    sessions = await leave(stores, "a", "b")
    observer = await open_server(stores, "observer")
    assert await observer.find_unserved(NOW) == {OTHER_NAMESPACE: kernels(sessions)}
    assert await observer.find_unserved(HOUR) == {}
    let_pass(stores, 2 * HOUR)
    assert await observer.find_unserved(HOUR) == {OTHER_NAMESPACE: kernels(sessions)}
    assert await observer.find_unserved(3 * HOUR) == {}


async def test_the_own_namespace_and_other_scopes_are_not_found(stores: Stores) -> None:
    await leave(stores, "a", namespace=NAMESPACE)
    await leave(stores, "a", owner_id="elsewhere")
    observer = await open_server(stores, "observer")
    assert set(await observer.find_unserved(NOW)) == {OTHER_NAMESPACE}
    for owner_id, scope in (("far", "gateway:http://elsewhere"), ("private", "")):
        other = await open_server(stores, owner_id, scope=scope)
        assert await other.find_unserved(NOW) == {}


async def test_a_namespace_in_which_a_server_runs_is_not_found(stores: Stores) -> None:
    await leave(stores, "a")
    await open_server(stores, "one", OTHER_NAMESPACE)
    two = await open_server(stores, "two", OTHER_NAMESPACE)
    observer = await open_server(stores, "observer")
    two.close()
    assert await observer.find_unserved(NOW) == {}


async def test_a_server_that_may_still_run_counts_as_running(stores: Stores) -> None:
    await leave(stores, "a")
    revive(stores, "gone")
    observer = await open_server(stores, "observer")
    assert await observer.find_unserved(NOW) == {}
    assert await (await visit(stores)).take_unserved(SHARED) is None


async def test_a_server_with_kernels_of_its_own_does_not_serve_the_shared_scope(
    stores: Stores,
) -> None:
    sessions = await leave(stores, "a")
    private = await stores.open(make_owner("private"), OTHER_NAMESPACE)
    assert not (await private.find_orphans()).owners
    observer = await open_server(stores, "observer")
    assert await observer.find_unserved(NOW) == {OTHER_NAMESPACE: kernels(sessions)}


async def test_the_time_begins_with_the_last_of_several_servers(stores: Stores) -> None:
    sessions = await leave(stores, "a")
    let_pass(stores, 2 * HOUR)
    await leave(stores, owner_id="later")
    observer = await open_server(stores, "observer")
    assert await observer.find_unserved(HOUR) == {}
    let_pass(stores, 2 * HOUR)
    assert await observer.find_unserved(HOUR) == {OTHER_NAMESPACE: kernels(sessions)}


async def test_without_a_record_of_the_last_server_nothing_is_found(stores: Stores) -> None:
    await leave(stores, "a")
    let_pass(stores, 2 * HOUR)
    if stores.kind == "postgres":
        with psycopg.connect(stores.url) as connection:
            connection.execute("DELETE FROM nbsessions_owner")
    else:
        rows(stores.path, "DELETE FROM nbsessions_owner")
    observer = await open_server(stores, "observer")
    assert await observer.find_unserved(NOW) == {}
    # Whoever ends them by hand need not know it.
    taken = await (await visit(stores)).take_unserved(SHARED)
    assert taken is not None
    assert len(taken.sessions) == 1


# The record of the last server


async def test_the_last_server_is_remembered_as_long_as_it_has_left_sessions(
    stores: Stores,
) -> None:
    one, two = [await open_server(stores, each) for each in ("one", "two")]
    session = await one.insert(make_session("a", scope=SHARED))
    one.close()
    two.close()
    assert "two" in owners(stores)
    three = await open_server(stores, "three")
    await three.recover(await three.find_orphans())
    assert owners(stores) == {"three"}
    await three.delete(session.session_id, stop_token="stop")
    await three.finish_stop("stop")
    four = await open_server(stores, "four")
    three.close()
    await four.recover(await four.find_orphans(), undone=await four.list_intents())
    four.close()
    assert owners(stores) == set()


async def test_a_server_that_goes_on_makes_the_record_of_a_later_one_needless(
    stores: Stores,
) -> None:
    one, two = [await open_server(stores, each) for each in ("one", "two")]
    await one.insert(make_session("a", scope=SHARED))
    two.close()
    assert owners(stores) == {"one", "two"}
    await one.recover(await one.find_orphans())
    assert owners(stores) == {"one"}
    assert not await one.find_orphans()


async def test_sessions_and_the_last_server_are_kept_however_long_ago_that_was(
    stores: Stores,
) -> None:
    (session,) = await leave(stores, "a")
    store = await open_server(stores, "another", OTHER_NAMESPACE)
    store.close()
    let_pass(stores, ABANDONED_AFTER + HOUR)  # at the same moment for both
    observer = await open_server(stores, "observer")
    (await visit(stores)).close()
    assert await observer.find_unserved(ABANDONED_AFTER) == {OTHER_NAMESPACE: {session.kernel_id}}
    back = await open_server(stores, "back", OTHER_NAMESPACE)
    assert ids(await back.list_sessions()) == [session.session_id]


async def test_a_start_that_was_cut_short_is_found_without_a_session_however_old_it_is(
    stores: Stores,
) -> None:
    store = await open_server(stores, "gone", OTHER_NAMESPACE)
    start = make_start("a", scope=SHARED, kernel_id=make_id())
    await store.acquire(start)
    store.close()
    let_pass(stores, ABANDONED_AFTER + HOUR)
    observer = await open_server(stores, "observer")
    left = {OTHER_NAMESPACE: {start.kernel_id}}
    assert await observer.find_unserved(ABANDONED_AFTER) == left
    visitor = await visit(stores)
    taken = await visitor.take_unserved(SHARED, after=ABANDONED_AFTER)
    assert taken == Takeover(intents=(start,))
    await visitor.drop_start(start.token)
    visitor.close()
    assert await observer.find_unserved(NOW) == {}
    (await open_server(stores, "back", OTHER_NAMESPACE)).close()
    assert owners(stores) == {"observer"}


# Taking


async def test_what_is_taken_is_ended_under_intents(stores: Stores) -> None:
    sessions = await leave(stores, "a", "b")
    visitor = await visit(stores)
    taken = await visitor.take_unserved(SHARED, after=NOW)
    assert taken is not None
    assert ids(taken.sessions) == ids(sessions)
    assert {intent.kernel_id for intent in taken.intents} == kernels(sessions)
    assert {(intent.verb, intent.scope) for intent in taken.intents} == {(Verb.STOP, SHARED)}
    back = await open_server(stores, "back", OTHER_NAMESPACE)
    assert list(await back.list_sessions()) == []
    endings = await back.find_endings(ids(sessions))
    assert [endings[each].reason for each in ids(sessions)] == [EndReason.DIED] * 2
    for intent in taken.intents:
        await visitor.finish_stop(intent.token)
    assert {intent.verb for intent in await back.list_intents()} == {Verb.ENDED}


async def test_a_namespace_that_is_served_again_loses_nothing(stores: Stores) -> None:
    sessions = await leave(stores, "a")
    visitor = await visit(stores)
    back = await open_server(stores, "back", OTHER_NAMESPACE)
    assert await visitor.take_unserved(SHARED) is None
    assert ids(await back.list_sessions()) == ids(sessions)
    assert list(await back.list_intents()) == []


async def test_a_server_that_registers_at_the_same_time_has_everything_or_nothing(
    stores: Stores,
) -> None:
    for number in range(6):
        sessions = await leave(stores, "a", "b", owner_id=f"gone {number}")
        visitor = await visit(stores, f"visitor {number}")
        back, taken = await asyncio.gather(
            open_server(stores, f"back {number}", OTHER_NAMESPACE),
            visitor.take_unserved(SHARED, after=NOW),
        )
        left = await back.list_sessions()
        assert ids(left) == ([] if taken else ids(sessions))
        assert ids(taken.sessions if taken else left) == ids(sessions)
        for session in left:
            await back.delete(session.session_id, stop_token=make_id())
        for store in (back, visitor):
            store.close()


async def test_nothing_is_taken_before_its_time(stores: Stores) -> None:
    await leave(stores, "a")
    visitor = await visit(stores)
    assert await visitor.take_unserved(SHARED, after=HOUR) is None
    let_pass(stores, 2 * HOUR)
    assert await visitor.take_unserved(SHARED, after=HOUR) is not None


async def test_one_of_several_takes_everything(stores: Stores) -> None:
    sessions = await leave(stores, "a", "b", "c")
    visitors = [await visit(stores, f"visitor {number}") for number in range(4)]
    outcomes = await asyncio.gather(*(each.take_unserved(SHARED) for each in visitors))
    (taken,) = filter(None, outcomes)
    assert ids(taken.sessions) == ids(sessions)


async def test_only_the_given_sessions_are_taken_and_shared_kernels_stay(stores: Stores) -> None:
    one, two = await leave(stores, "a", "b")
    store = await open_server(stores, "later", OTHER_NAMESPACE)
    sharing = make_session("c", scope=SHARED, kernel_id=one.kernel_id)
    await store.insert(sharing)
    store.close()
    visitor = await visit(stores)
    taken = await visitor.take_unserved(SHARED, session_ids=[one.session_id])
    assert taken is not None
    assert (ids(taken.sessions), taken.intents) == ([one.session_id], ())
    taken = await visitor.take_unserved(SHARED, session_ids=[sharing.session_id])
    assert taken is not None
    assert [intent.kernel_id for intent in taken.intents] == [one.kernel_id]
    back = await open_server(stores, "back", OTHER_NAMESPACE)
    assert ids(await back.list_sessions()) == [two.session_id]


async def test_starts_and_stops_that_were_cut_short_are_taken_too(stores: Stores) -> None:
    store = await open_server(stores, "gone", OTHER_NAMESPACE)
    start = make_start("a", scope=SHARED, kernel_id=make_id())
    await store.acquire(start)
    session = await store.insert(make_session("b", scope=SHARED))
    await store.delete(session.session_id, stop_token="stop")
    store.close()
    observer = await open_server(stores, "observer")
    left = {start.kernel_id, session.kernel_id}
    assert await observer.find_unserved(NOW) == {OTHER_NAMESPACE: left}
    taken = await (await visit(stores)).take_unserved(SHARED, after=NOW)
    assert taken is not None
    assert {intent.token for intent in taken.intents} == {start.token, "stop"}
    # What the visitor has begun is its own as long as it runs.
    assert await observer.find_unserved(NOW) == {}


@pytest.mark.parametrize("follower", ["server", "visitor"])
async def test_what_was_taken_and_not_completed_is_completed_by_others(
    stores: Stores, follower: str
) -> None:
    (session,) = await leave(stores, "a")
    visitor = await visit(stores)
    taken = await visitor.take_unserved(SHARED, after=NOW)
    assert taken is not None
    (stop,) = taken.intents
    visitor.close()
    observer = await open_server(stores, "observer")
    assert await observer.find_unserved(NOW) == {OTHER_NAMESPACE: {session.kernel_id}}
    if follower == "server":
        back = await open_server(stores, "back", OTHER_NAMESPACE)
        intents = (await back.find_orphans()).intents
        assert [each.token for each in await back.claim(intents)] == [stop.token]
    else:
        other = await visit(stores, "another visitor")
        again = await other.take_unserved(SHARED, after=NOW)
        assert again == Takeover(intents=(stop,))


async def test_the_store_of_another_namespace_is_in_the_same_place(stores: Stores) -> None:
    sessions = await leave(stores, "a")
    observer = await open_server(stores, "observer")
    beside = observer.for_namespace(OTHER_NAMESPACE)
    try:
        await beside.open(make_owner("back", shared_scope=SHARED))
        assert ids(await beside.list_sessions()) == ids(sessions)
    finally:
        beside.close()
