"""A cache of the sessions of one scope, which knows the version of the store it reflects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter

from nbsessions.models import Session

Version = tuple[int, int]
"""The generation (how many times a file was opened) and the revision in that file."""


class SessionCache:
    """Sessions by id, oldest first, by document and by kernel. Changed only on the event loop.

    The contents remain available after their version is outdated, because they are returned
    while the store cannot be read.
    """

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._by_document = _Groups()
        self._by_kernel = _Groups()
        self._snapshot: list[Session] | None = None
        """All sessions, if they have been listed since they changed last."""
        self._version: Version | None = None
        self._written: Version = (0, 0)

    def is_at(self, version: Version) -> bool:
        """Return whether the contents reflect this version."""
        return self._version == version

    def list_sessions(self) -> list[Session]:
        """Return all sessions, oldest first. Safe to call from any thread."""
        return list(self._sessions.values())

    def snapshot(self) -> Sequence[Session]:
        """Return all sessions, oldest first: the same object for as long as nothing changes."""
        if self._snapshot is None:
            self._snapshot = self.list_sessions()
        return self._snapshot

    def find(self, session_id: str) -> Session | None:
        """Return the session with this id, or None."""
        return self._sessions.get(session_id)

    def list_by_document(self, document: str) -> Sequence[Session]:
        """Return the sessions of this document, oldest first."""
        return self._by_document.oldest_first(document)

    def list_by_kernel(self, kernel_id: str) -> Sequence[Session]:
        """Return the sessions of this kernel, oldest first."""
        return self._by_kernel.oldest_first(kernel_id)

    def replace(self, version: Version, sessions: Iterable[Session]) -> bool:
        """Replace the contents with what was read from the store, unless it is outdated.

        It is outdated if this server has written since. The cache has these writes already.
        The older contents would undo them until the next read, which may fail. Returns whether
        the contents were replaced. If not, writes of other servers may be missing.
        """
        if version < self._written:
            return False
        read = SessionCache()
        for session in sessions:
            before = self._sessions.get(session.session_id)
            # An unchanged session stays the same object, so that what was made of it can be kept.
            read.put(before if before is not None and before == session else session)
        if self._snapshot != read.list_sessions():
            self._snapshot = None
        # Replace the whole dictionary, because the writer thread may be listing the old one to
        # write the sessions to a new file.
        self._sessions = read._sessions
        self._by_document = read._by_document
        self._by_kernel = read._by_kernel
        self._version = version
        return True

    def apply(
        self, generation: int, before: int, after: int, changed: Mapping[str, Session | None]
    ) -> None:
        """Apply a write of this server that led from revision ``before`` to ``after``.

        A value of None in ``changed`` means that the session was removed. If other servers wrote
        in between, the contents are read again on the next refresh.
        """
        self._written = max(self._written, (generation, after))
        if self._version is not None and self._version >= (generation, after):
            return
        self._version = (generation, after) if self._version == (generation, before) else None
        newest = next(reversed(self._sessions.values()), None)
        is_unordered = False
        for session_id, session in changed.items():
            if session is None:
                self.drop(session_id)
            else:
                # Adopted sessions are older than this server's own, and come in any order.
                is_older = newest is not None and session.seq < newest.seq
                is_unordered = is_unordered or (is_older and session_id not in self._sessions)
                newest = newest if is_older else session
                self.put(session)
        if is_unordered:
            self._sort()

    def put(self, session: Session) -> None:
        """Add the session, or replace the session with the same id."""
        before = self._sessions.get(session.session_id)
        if before is not None:
            self._drop_from_groups(before)
        self._snapshot = None
        self._sessions[session.session_id] = session
        self._by_document.put(session.document, session)
        self._by_kernel.put(session.kernel_id, session)

    def drop(self, session_id: str) -> None:
        """Remove the session, if it exists."""
        session = self._sessions.pop(session_id, None)
        if session is not None:
            self._snapshot = None
            self._drop_from_groups(session)

    def _sort(self) -> None:
        self._sessions = dict(sorted(self._sessions.items(), key=lambda item: item[1].seq))

    def _drop_from_groups(self, session: Session) -> None:
        self._by_document.drop(session.document, session)
        self._by_kernel.drop(session.kernel_id, session)


class _Groups:
    """Groups of sessions that have a value in common. None is not such a value."""

    def __init__(self) -> None:
        # Lists, because nearly all groups have one session, and a dict of it is twice as large.
        self._groups: dict[str, list[Session]] = {}

    def oldest_first(self, value: str) -> Sequence[Session]:
        """Return the sessions with this value."""
        return sorted(self._groups.get(value, ()), key=attrgetter("seq"))

    def put(self, value: str | None, session: Session) -> None:
        if value is not None:
            self._groups.setdefault(value, []).append(session)

    def drop(self, value: str | None, session: Session) -> None:
        if value is not None:
            group = self._groups[value]
            group.remove(session)
            if not group:
                del self._groups[value]
