"""Writes output: tables and messages for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nbsessions.cli.values import LOCAL, Entry, ServerState
from nbsessions.stores.inspection import OwnerState

_UNLIMITED_WIDTH = 4096
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def make_console(*, stderr: bool = False) -> Console:
    """Return a console. Output to a pipe or a file is not wrapped."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _UNLIMITED_WIDTH
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def write_json(value: Any) -> None:
    """Write one JSON document to stdout, in ASCII."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def plain(text: str | None) -> Text:
    """Return text from a client, with control characters replaced for safe display."""
    characters = (
        each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text or ""
    )
    return Text("".join(characters), overflow="fold")


def session_table(entries: Sequence[Entry], *, namespaces: bool = False) -> Table:
    """Return the table that ``list`` prints, with or without a column of namespaces.

    Where kernels run is shown only if not all of them are local.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    is_remote = any(each.kernel_location not in (None, LOCAL) for each in entries)
    for column in ("id", "path", "type", "kernel"):
        table.add_column(column)
    if is_remote:
        table.add_column("runs at")
    table.add_column("state")
    table.add_column("idle for", justify="right")
    for column in ("pid", "memory"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("owner")
    table.add_column("server")
    if namespaces:
        table.add_column("namespace")
    for entry in entries:
        table.add_row(
            plain((entry.session_id or entry.kernel_id)[:8]),
            plain(entry.path),
            plain(entry.type),
            plain(entry.kernel_name),
            *([plain(entry.kernel_location)] if is_remote else []),
            plain(entry.state),
            format_duration(entry.idle_seconds),
            "" if entry.pid is None else str(entry.pid),
            format_bytes(entry.memory),
            plain(owner_label(entry)),
            plain(server_label(entry)),
            *([plain(entry.namespace)] if namespaces else []),
        )
    return table


def owner_label(entry: Entry) -> str:
    """Return the host of the owner, and whether it is known to be alive."""
    if entry.owner is None:
        return ""
    host, state = entry.owner.owner.host, entry.owner.state
    return host if state is OwnerState.LIVE else f"{host} ({state.value})"


def server_label(entry: Entry) -> str:
    """Return the server's URL, and whether it is unreachable."""
    if entry.server is ServerState.NONE:
        return "none"
    if entry.server is ServerState.UNREACHABLE:
        return f"{entry.server_url} (unreachable)" if entry.server_url else "unreachable"
    return entry.server_url or ""


def format_duration(seconds: float | None) -> str:
    """Return a duration in the largest unit that fits."""
    if seconds is None:
        return ""
    for size, unit in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def format_size(count: int) -> str:
    """Return the size of files in kB, MB or GB."""
    if count < 1_000_000:
        return f"{count / 1000:.0f} kB"
    return f"{count / 1e6:.1f} MB" if count < 1_000_000_000 else f"{count / 1e9:.1f} GB"


def format_bytes(count: int | None) -> str:
    """Return a size in MB or GB."""
    if count is None:
        return ""
    megabytes = count / 1e6
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"
