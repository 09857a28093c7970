"""Finds the session that an argument names: by id, beginning of an id, or path."""

from __future__ import annotations

from collections.abc import Sequence

from nbsessions.cli.errors import CommandError
from nbsessions.cli.overview import Overview
from nbsessions.cli.values import Entry
from nbsessions.models import document_of


def select_one(overview: Overview, wanted: str) -> Entry:
    """Return the one session or orphan that ``wanted`` names. Raises CommandError.

    A kernel without a session is named by the kernel's id.
    """
    without_session = [entry for entry in overview.orphans if entry.session_id is None]
    candidates = (*overview.sessions, *without_session)
    for matches in (_is_exactly, _is_at_path, _begins_with):
        found = [entry for entry in candidates if matches(entry, wanted)]
        if len(found) > 1:
            raise CommandError(f"{wanted!r} is ambiguous, it matches:\n{_lines(found)}")
        if found:
            return found[0]
    known = "" if overview.store_is_known else " of a running server"
    raise CommandError(f"no session{known} has the id or path {wanted!r}")


def _is_exactly(entry: Entry, wanted: str) -> bool:
    return _id(entry) == wanted


def _is_at_path(entry: Entry, wanted: str) -> bool:
    return entry.path is not None and document_of(entry.path) == document_of(wanted)


def _begins_with(entry: Entry, wanted: str) -> bool:
    return bool(wanted) and _id(entry).startswith(wanted)


def _id(entry: Entry) -> str:
    return entry.session_id or entry.kernel_id


def _lines(entries: Sequence[Entry]) -> str:
    return "\n".join(
        f"  {_id(entry)}  {entry.label}  ({entry.server_url or entry.server.value})"
        for entry in entries
    )
