"""What the operating system sees: the file is synced before a client is answered."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from support.server import StartServer, strace_or_fail

PATH = "a-path-that-can-be-found-in-a-trace.ipynb"
SYNCING = ("fsync", "fdatasync")
SENDING = ("write", "writev", "sendto", "sendmsg")
CALLS = ",".join([*SYNCING, *SENDING, "pwrite64", "pwritev"])

_LINE = re.compile(r"^(?P<thread>\d+) +(?P<rest>.*)$")
_CALL = re.compile(r"^(?P<name>\w+)\(\d+<(?P<file>[^>]*)>(?P<arguments>.*)$")


class Call(NamedTuple):
    """One system call, at the moment when it returned."""

    name: str
    file: str
    arguments: str


def test_a_created_session_is_synced_before_its_201(start_server: StartServer) -> None:
    calls = _trace_of_a_create(start_server)

    answered = next(
        index
        for index, call in enumerate(calls)
        if call.name in SENDING and "HTTP/1.1 201" in call.arguments
    )
    # The intent holds the path too: what counts is the last write before the answer.
    written = max(
        index
        for index, call in enumerate(calls[:answered])
        if call.name.startswith("pwrite") and "sessions.db" in call.file and PATH in call.arguments
    )
    synced = [
        call.file
        for call in calls[written:answered]
        if call.name in SYNCING and call.arguments.endswith("= 0")
    ]
    assert calls[written].file in synced


def _trace_of_a_create(start_server: StartServer) -> list[Call]:
    server = start_server(start=False)
    trace = server.folder / "trace"
    options = ["-D", "-f", "-y", "-s", "100000", "-e", f"trace={CALLS}", "-o", str(trace)]
    server.wrapper = [strace_or_fail(), *options]
    server.start()
    server.create(PATH)
    server.stop()
    return list(_calls(trace))


def _calls(trace: Path) -> Iterator[Call]:
    """Yield the calls in the order in which they returned."""
    unfinished: dict[str, str] = {}
    for line in trace.read_text(errors="replace").splitlines():
        matched = _LINE.match(line)
        if matched is None:
            continue
        thread, rest = matched["thread"], matched["rest"]
        if rest.endswith("<unfinished ...>"):
            unfinished[thread] = rest.removesuffix("<unfinished ...>")
            continue
        resumed = re.match(r"<\.\.\. \w+ resumed>(.*)$", rest)
        if resumed is not None:
            rest = unfinished.pop(thread, "") + resumed[1]
        call = _CALL.match(rest)
        if call is not None:
            yield Call(call["name"], call["file"], call["arguments"])
