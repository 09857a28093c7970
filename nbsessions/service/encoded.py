"""Sessions as JSON, which is kept and mended by what has changed."""

from __future__ import annotations

import asyncio
import uuid
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import chain, compress, count
from operator import attrgetter, is_not

from nbsessions.kernels.noted import ModelChanges
from nbsessions.models import LiveSession, Session
from nbsessions.replies import Encoded, encode, encode_list, encode_session, join_list
from nbsessions.service.kernels import UNKNOWN
from nbsessions.service.lookups import Lookups
from nbsessions.stores.base import SessionStore
from nbsessions.tasks import SharedRun

_MOST_LISTINGS = 3
"""How often a list is made at the most. Sessions may keep coming."""


class EncodedSessions:
    """Sessions in replies. Used on one event loop.

    The JSON of each session in the last list is kept until the session or the model of its kernel
    changes. That of a session whose kernel is not plainly alive is never kept, so that each read
    asks for the kernel.
    """

    def __init__(self, store: SessionStore, lookups: Lookups, changes: ModelChanges) -> None:
        self._store = store
        self._lookups = lookups
        self._changes = changes
        self._turn = asyncio.Lock()
        self._asking = SharedRun(self._ask)
        self._sessions: Sequence[Session] = []
        """The sessions that the store listed last."""
        self._kept: list[bytes | None] = []
        """The JSON of each of these sessions. None if it has to be made."""
        self._is_whole = True
        """Whether the last list consists of all that is kept, and nothing has to be made."""
        self._told: tuple[list[Session], bytes] | None = None
        """The sessions and kernel models of the last list, if all kernels were asked for it."""
        self._content = b"[]"
        self._number = 0
        """Increases when the content changes."""
        self._name = uuid.uuid4().hex
        """Distinguishes the numbers from those of other servers, and of this one's last run."""

    async def read_one(self, session_id: str) -> Encoded:
        """Return a session with its kernel. Raises SessionNotFound. See Lookups.get."""
        if self._changes.complete:
            session = await self._store.find_session(session_id)
            async with self._turn:
                content = await self._read_kept(session) if self._changes.complete else None
            if content is not None:
                # Python computes the hash of a bytes object only once.
                return Encoded(content, f"{self._name}-{hash(content) % 2**64:x}")
        found = await self._lookups.get(session_id=session_id)
        return Encoded(encode_session(*found), None)

    async def read(self) -> Encoded:
        """Return all sessions with their kernels, oldest first. See Lookups.list_sessions."""
        if self._changes.complete:
            sessions = await self._store.list_sessions()
            # A second reader would find the changes taken, but the list not mended yet.
            async with self._turn:
                if self._changes.complete:
                    await self._mend(sessions)
                    return self._listed()
        await self._asking.run()
        return self._listed()

    async def _read_kept(self, session: Session | None) -> bytes | None:
        """Return the JSON of the session. None if there is none, or if its kernel is dead."""
        if session is None:
            return None
        self._drop_changed()
        place = bisect_left(self._sessions, session.seq, key=attrgetter("seq"))
        is_listed = self._sessions[place : place + 1] == [session]
        kept = self._kept[place] if is_listed else None
        if kept is None:
            for _, model in await self._lookups.living([session]):
                kept = encode_session(session, model)
                if is_listed and model.get("execution_state") != UNKNOWN:
                    self._kept[place] = kept
        return kept

    def _listed(self) -> Encoded:
        return Encoded(self._content, f"{self._name}-{self._number}")

    async def drop_changed(self) -> None:
        """Drop what is outdated, so that changes do not pile up while nobody reads the list."""
        async with self._turn:
            self._drop_changed()

    async def _mend(self, sessions: Sequence[Session]) -> None:
        """Make only the JSON of what has changed."""
        # Drop it before it is made again: if this is cancelled, the next reader makes it.
        self._drop_changed()
        self._keep(sessions)
        if self._is_whole:
            return
        kept, shown = self._kept, self._kept.copy()
        places = {id(sessions[place]): place for place, each in enumerate(kept) if each is None}
        outdated = [sessions[place] for place in places.values()]
        for session, model in await self._lookups.living(outdated):
            place = places[id(session)]
            shown[place] = encoded = encode_session(session, model)
            if model.get("execution_state") != UNKNOWN:
                kept[place] = encoded
        self._is_whole = all(kept[place] is not None for place in places.values())
        self._set_content(join_list(filter(None, shown)))

    def _drop_changed(self) -> None:
        changed = self._changes.take()
        if changed:
            self._is_whole = False
            for place, session in enumerate(self._sessions):
                if session.kernel_id in changed:
                    self._kept[place] = None

    def _keep(self, sessions: Sequence[Session]) -> None:
        """Keep what is there of these sessions, and forget the others."""
        before, kept = self._sessions, self._kept
        if sessions is before:
            return
        # Nearly all sessions are the same objects as before, mostly in a row from either end.
        first = _common_length(before, sessions)
        most = min(len(before), len(sessions)) - first
        last = min(_common_length(reversed(before), reversed(sessions)), most)
        middle = slice(first, len(before) - last)
        found = dict(zip(map(id, before[middle]), kept[middle], strict=True))
        new = sessions[first : len(sessions) - last]
        self._kept = [*kept[:first], *map(found.get, map(id, new)), *kept[middle.stop :]]
        self._sessions = sessions
        self._is_whole = False

    async def _ask(self) -> None:
        """Ask for the models of all kernels, and make the list if any of them has changed."""
        living = await self._ask_for_all()
        # Their JSON, because a kernel manager may change the models that it has returned.
        told = [session for session, _ in living], encode([model for _, model in living])
        if told != self._told:
            self._set_content(encode_list(living), told)

    async def _ask_for_all(self) -> list[LiveSession]:
        """Return all sessions with their kernels.

        A session may come while a gateway is being asked. A page that has just got it drops it if
        it is not in the list.
        """
        sessions = await self._store.list_sessions()
        for _ in range(_MOST_LISTINGS):
            living = list(await self._lookups.living(sessions))
            asked, sessions = sessions, await self._store.list_sessions()
            if sessions is asked or _ids(sessions) <= _ids(asked):
                break
        return living

    def _set_content(
        self, content: bytes, told: tuple[list[Session], bytes] | None = None
    ) -> None:
        self._told = told
        if content != self._content:
            self._content = content
            self._number += 1


def _ids(sessions: Iterable[Session]) -> set[str]:
    return {session.session_id for session in sessions}


def _common_length(one: Iterable[Session], other: Iterable[Session]) -> int:
    """Return with how many of the same objects both begin."""
    different = map(is_not, one, other)
    return next(compress(count(), chain(different, [True])))
