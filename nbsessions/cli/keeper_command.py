"""``jupyter nbsessions keeper``."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from nbsessions.cli.command import ALL_NAMESPACES_FLAG, FLAGS, JSON_FLAG
from nbsessions.cli.dispatcher import Dispatcher
from nbsessions.cli.errors import CommandError
from nbsessions.cli.keeper.kept import kept_table, list_kept
from nbsessions.cli.keeper.state import KeeperState, read_state
from nbsessions.cli.keeper.stop import StopKeeperCommand
from nbsessions.cli.output import format_bytes, format_duration, format_size, plain, write_json
from nbsessions.keeper.asking import OtherVersion
from nbsessions.models import utcnow

_FLAGS = {**FLAGS, **JSON_FLAG, **ALL_NAMESPACES_FLAG}
_SUBCOMMANDS = {"stop": (StopKeeperCommand, "Stop the keeper.")}


class KeeperCommand(Dispatcher):
    """Shows the keeper. Its subcommand stops it."""

    name = "jupyter-nbsessions-keeper"
    description = """Show the keeper, the process that keeps what kernels say while nobody can
    receive it, and how much it keeps of each kernel. Clients are pages and the like. `waiting` is
    what is kept for clients that are away. Replies are kept for clients whose server is dead. The
    exit code is 1 if a keeper should run and does not answer.

    With --json, the output is an object with the keys running, needed (whether a keeper should
    run), problem (a sentence or null), pid, started (ISO 8601), protocol (its version),
    memory_bytes, kept_bytes and limit_bytes (what the files of all kernels have, and may have at
    most) and kernels. That is an array of objects with the keys kernel_id, paths (of its
    sessions), kept_bytes, connected, away (both count clients), away_seconds (of the client that
    has been away for the longest time), waiting_bytes and keeps_replies. Unknown values are null.
    """
    examples = """
jupyter nbsessions keeper
jupyter nbsessions keeper --json
jupyter nbsessions keeper stop
"""
    flags = _FLAGS
    subcommands = _SUBCOMMANDS

    def run(self) -> int:
        """Print what is known."""
        if self.extra_args:
            raise CommandError("`keeper` takes no arguments except `stop`")
        overview = self.overview()
        state = read_state(self.runtime_path, overview.kernels)
        kept = list(list_kept(state, overview))
        if self.json:
            write_json({**_to_json(state), "kernels": [each.to_json() for each in kept]})
        elif state.status is None:
            self._tell_why_there_is_none(state)
        else:
            self.out.print(plain(_headline(state)))
            if state.is_outdated:
                self.say(f"It is of an earlier release. {state.remedy}")
            if kept:
                self.out.print(plain(_sum(state)))
                self.out.print()
                self.out.print(kept_table(kept))
        return 1 if state.problem and state.needed else 0

    def _tell_why_there_is_none(self, state: KeeperState) -> None:
        if state.problem is None:
            self.say(state.absence)
            return
        self.say(state.problem)
        if state.remedy is not None:
            self.say(state.remedy)


def _to_json(state: KeeperState) -> dict[str, Any]:
    version = state.trouble.version if isinstance(state.trouble, OtherVersion) else None
    return {
        "running": state.pid is not None,
        "needed": bool(state.needed),
        "problem": state.problem,
        "pid": state.pid,
        "started": None if state.status is None else _started(state.status.started).isoformat(),
        "protocol": version if state.status is None else state.status.version,
        "memory_bytes": state.memory,
        "kept_bytes": None if state.status is None else state.kept_bytes,
        "limit_bytes": None if state.status is None else state.status.total_limit or None,
    }


def _headline(state: KeeperState) -> str:
    assert state.status is not None
    started = _started(state.status.started)
    ago = format_duration((utcnow() - started).total_seconds())
    return (
        f"Process {state.pid} runs since {started.astimezone():%Y-%m-%d %H:%M:%S} ({ago}), "
        f"with version {state.status.version} of the protocol and {format_bytes(state.memory)} "
        "of memory"
    )


def _sum(state: KeeperState) -> str:
    assert state.status is not None
    limit = state.status.total_limit
    most = f" of at most {format_size(limit)}" if limit else ""
    return f"The files of all kernels have {format_size(state.kept_bytes)}{most}"


def _started(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)
