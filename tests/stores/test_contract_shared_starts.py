"""The contract of session stores, continued: starts that several requests can share."""

from __future__ import annotations

from datetime import timedelta

import pytest

from nbsessions.errors import StartInProgress, StartLost
from nbsessions.models import Changes, Intent, Kernel, Session, Sharing
from nbsessions.stores import transaction
from nbsessions.stores.base import LONGEST_LEASE, SessionStore
from nbsessions.stores.memory import MemorySessionStore
from support.contract import state
from support.stores import KINDS, Stores, turn_back_clock
from support.values import LAPSED, make_id, make_session, make_start, to_kernel

pytestmark = [pytest.mark.parametrize("stores", KINDS, indirect=True), pytest.mark.gen_test]

SHARING = Sharing(document="d/a.ipynb", kernel_name="python3")
OTHERS = (
    Sharing(document="d/a.ipynb", kernel_name="other"),
    Sharing(document="d/a.ipynb", kernel_name=None),
    Sharing(document="a.ipynb", kernel_name="python3"),
)


def make_placeholder(**more: str) -> Session:
    """Return the session of a window that has just opened the document."""
    return make_session(f"d/{make_id()}", name="a.ipynb", **more)


async def start(store: SessionStore, session: Session) -> Intent:
    """Begin to start a kernel for the session."""
    intent = make_start(session.document, scope=session.scope)
    assert await store.acquire(intent, sharing=SHARING) is None
    return intent


async def started(store: SessionStore, session: Session) -> Session:
    """Start a kernel for the session, and return the session."""
    intent = await start(store, session)
    return await store.commit(intent.token, session, sharing=SHARING)


async def ask(store: SessionStore, sharing: Sharing | None = SHARING) -> object:
    """Return what another window gets that opens the document."""
    another = make_placeholder()
    return await store.acquire(make_start(another.document), sharing=sharing)


def count_shared(stores: Stores, store: SessionStore) -> int:
    """Return how many starts the store remembers because they could be shared."""
    if isinstance(store, MemorySessionStore):
        return len(store._tables.shared)
    ((count,),) = stores.rows("SELECT COUNT(*) FROM nbsessions_shared")
    return int(count)


async def test_while_one_start_is_running_those_that_can_share_it_wait(
    store: SessionStore,
) -> None:
    await start(store, make_placeholder())
    before = await state(store)
    with pytest.raises(StartInProgress):
        await ask(store)
    assert await state(store) == before


async def test_a_kernel_that_was_just_started_is_shared(store: SessionStore) -> None:
    session = await started(store, make_placeholder())
    before = await state(store)
    expected = Kernel(
        kernel_id=session.kernel_id, kernel_name=session.kernel_name, provider=session.provider
    )
    assert await ask(store) == expected
    assert await state(store) == before


async def test_a_kernel_whose_start_took_very_long_is_shared(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_placeholder()
    with monkeypatch.context() as patch:
        turn_back_clock(patch, LONGEST_LEASE + timedelta(minutes=1))
        intent = await start(store, session)
    await store.commit(intent.token, session, sharing=SHARING)
    found = await ask(store)
    assert isinstance(found, Kernel)
    assert found.kernel_id == session.kernel_id


async def test_what_is_not_the_same_is_not_shared(store: SessionStore) -> None:
    await started(store, make_placeholder())
    for sharing in (*OTHERS, None):
        assert await ask(store, sharing) is None


async def test_a_document_that_has_a_session_gets_that_one(store: SessionStore) -> None:
    session = await started(store, make_placeholder())
    assert await store.acquire(make_start(session.document), sharing=SHARING) == session


async def test_a_start_that_was_not_shared_is_not_handed_out(store: SessionStore) -> None:
    session = make_placeholder()
    intent = make_start(session.document)
    await store.acquire(intent)
    await store.commit(intent.token, session)
    assert await ask(store) is None


async def test_a_start_that_was_given_up_bars_nothing(store: SessionStore) -> None:
    intent = await start(store, make_placeholder())
    await store.drop_start(intent.token)
    assert await ask(store) is None


@pytest.mark.parametrize("lease", [LAPSED, LONGEST_LEASE + timedelta(minutes=1)])
async def test_a_start_whose_lease_lapsed_bars_nothing(
    store: SessionStore, lease: timedelta
) -> None:
    first, second = make_placeholder(), make_placeholder()
    slow = make_start(first.document)
    await store.acquire(slow, sharing=SHARING, lease=lease)
    intent = await start(store, second)
    with pytest.raises(StartInProgress):
        await ask(store)
    # The slow one goes on, but it is not what the next window gets.
    await store.commit(slow.token, first, sharing=SHARING)
    with pytest.raises(StartInProgress):
        await ask(store)
    await store.commit(intent.token, second, sharing=SHARING)
    found = await ask(store)
    assert isinstance(found, Kernel)
    assert found.kernel_id == second.kernel_id


async def test_a_start_that_was_lost_is_not_handed_out(store: SessionStore) -> None:
    session = make_placeholder()
    intent = await start(store, session)
    await store.insert(make_session(session.path))
    with pytest.raises(StartLost):
        await store.commit(intent.token, session, sharing=SHARING)
    assert await ask(store) is None


async def test_a_kernel_is_shared_for_a_moment_only(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(transaction, "SHARED_FOR", timedelta(seconds=-1))
        await started(store, make_placeholder())
    assert await ask(store) is None


async def test_a_kernel_is_shared_while_a_session_of_the_document_has_it(
    store: SessionStore,
) -> None:
    session = await started(store, make_placeholder())
    await store.update(session.session_id, Changes(path="d/a.ipynb"), stop_token=make_id())
    assert isinstance(await ask(store), Kernel)
    moved = Changes(path="d/b.ipynb", name="b.ipynb")
    await store.update(session.session_id, moved, stop_token=make_id())
    assert await ask(store) is None


async def test_a_kernel_that_was_let_go_is_not_shared(store: SessionStore) -> None:
    session = await started(store, make_placeholder())
    await store.update(session.session_id, to_kernel(make_id()), stop_token=make_id())
    assert await ask(store) is None


async def test_a_kernel_that_is_being_stopped_is_not_shared(store: SessionStore) -> None:
    session = await started(store, make_placeholder())
    await store.delete(session.session_id, stop_token=make_id())
    assert await ask(store) is None


async def test_starts_that_can_no_longer_be_shared_are_forgotten(
    store: SessionStore, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(transaction, "SHARED_FOR", timedelta(seconds=-1))
        for number in range(3):
            sharing = Sharing(document=f"{number}.ipynb", kernel_name=None)
            session = make_session(f"{number}.ipynb")
            intent = make_start(session.document)
            await store.acquire(intent, sharing=sharing)
            await store.commit(intent.token, session, sharing=sharing)
    await started(store, make_placeholder())
    assert count_shared(stores, store) == 1
