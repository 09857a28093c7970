"""The sessions of one scope in memory, and which state of the store they show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nbsessions.models import Session

Version = tuple[int, int]
"""Which file (counted by openings) and which revision in it."""


class SessionCache:
    """Sessions by id, oldest first, and by document. Changed on the event loop only.

    The contents outlive their version: a store that cannot be read is answered from here.
    """

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._by_document: dict[str, dict[str, Session]] = {}
        self._version: Version | None = None
        self._written: Version = (0, 0)

    def is_at(self, version: Version) -> bool:
        """Return whether the contents are those of this version."""
        return self._version == version

    def list_sessions(self) -> list[Session]:
        """Return all sessions, oldest first. From any thread."""
        return list(self._sessions.values())

    def find(self, session_id: str) -> Session | None:
        """Return the session of this id."""
        return self._sessions.get(session_id)

    def find_by_document(self, document: str) -> Session | None:
        """Return the oldest session of this document."""
        group = self._by_document.get(document)
        return min(group.values(), key=lambda session: session.seq) if group else None

    def replace(self, version: Version, sessions: Iterable[Session]) -> None:
        """Show what was read from the store, unless our own writes have gone on since.

        They are all here; what was read before them would take them back until the next look,
        which may fail.
        """
        if version < self._written:
            return
        read = SessionCache()
        for session in sessions:
            read.put(session)
        # At once: the writer's thread may be listing them, to write them to a new file.
        self._sessions = read._sessions
        self._by_document = read._by_document
        self._version = version

    def apply(
        self, generation: int, before: int, after: int, changed: Mapping[str, Session | None]
    ) -> None:
        """Show what a write of our own changed (None: removed), from revision to revision.

        When others wrote in between, the contents are read again at the next look.
        """
        self._written = max(self._written, (generation, after))
        if self._version is not None and self._version >= (generation, after):
            return
        self._version = (generation, after) if self._version == (generation, before) else None
        newest = next(reversed(self._sessions.values()), None)
        adopted = False
        for session_id, session in changed.items():
            if session is None:
                self.drop(session_id)
            else:
                is_older = newest is not None and session.seq < newest.seq
                adopted = adopted or (is_older and session_id not in self._sessions)
                self.put(session)
        if adopted:
            self._sort()

    def put(self, session: Session) -> None:
        """Add the session, or replace the one of its id."""
        before = self._sessions.get(session.session_id)
        if before is not None and before.document != session.document:
            self._drop_document(before)
        self._sessions[session.session_id] = session
        if session.document is not None:
            self._by_document.setdefault(session.document, {})[session.session_id] = session

    def drop(self, session_id: str) -> None:
        """Remove the session, if it is there."""
        session = self._sessions.pop(session_id, None)
        if session is not None:
            self._drop_document(session)

    def _sort(self) -> None:
        self._sessions = dict(sorted(self._sessions.items(), key=lambda item: item[1].seq))

    def _drop_document(self, session: Session) -> None:
        if session.document is not None:
            group = self._by_document[session.document]
            del group[session.session_id]
            if not group:
                del self._by_document[session.document]
