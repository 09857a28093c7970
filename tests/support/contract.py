"""Helpers that several contract tests of stores share."""

from __future__ import annotations

from nbsessions.models import Session
from nbsessions.stores.base import SessionStore
from support.values import make_id, make_session


async def state(store: SessionStore) -> tuple[list[Session], list[tuple[str, str, str | None]]]:
    """Return everything in the store, to check that an operation has changed nothing."""
    intents = await store.list_intents()
    return (
        list(await store.list_sessions()),
        sorted((intent.token, intent.verb.value, intent.kernel_id) for intent in intents),
    )


async def stopped(store: SessionStore, *, finished: bool = False) -> str:
    """Return the id of a kernel that is being stopped, or has been if ``finished``."""
    session = await store.insert(make_session("stopped.ipynb"))
    token = make_id()
    await store.delete(session.session_id, stop_token=token)
    if finished:
        await store.finish_stop(token)
    return session.kernel_id
