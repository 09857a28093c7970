"""Finds the user's running servers by the files that they leave in the runtime directory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

_PATTERNS = ("jpserver-*.json", "nbserver-*.json")
_ANY_ADDRESS = {"", "*", "0.0.0.0", "::"}


@dataclass(frozen=True, kw_only=True)
class RunningServer:
    """A server of either kind, with what it takes to talk to it."""

    url: str
    """Its base URL, without the token."""
    pid: int
    root_dir: str | None
    host: str
    port: int
    base_url: str
    secure: bool
    socket: str | None
    """The path of its Unix socket, where it listens on one."""
    token: str = field(repr=False)


def list_running_servers(runtime_dir: Path) -> Iterator[RunningServer]:
    """Go through the servers of our user whose process is there. Deletes no file."""
    for pattern in _PATTERNS:
        for path in sorted(runtime_dir.glob(pattern)):
            try:
                server = _from_info(json.loads(path.read_bytes()))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue  # It is being written or removed, or is no such file.
            if _is_ours(server.pid):
                yield server


def _from_info(info: Mapping[str, Any]) -> RunningServer:
    url = urlsplit(info["url"])
    socket = info.get("sock") or None
    any_address = info.get("hostname") in _ANY_ADDRESS
    return RunningServer(
        url=info["url"],
        pid=int(info["pid"]),
        root_dir=info.get("root_dir") or info.get("notebook_dir"),
        # Its name for the network need not be known here, where it runs.
        host="localhost" if socket or any_address else url.hostname or "localhost",
        port=0 if socket else int(info["port"]),
        base_url=info["base_url"],
        secure=bool(info.get("secure")) or url.scheme == "https",
        socket=socket,
        token=info.get("token") or "",
    )


def _is_ours(pid: int) -> bool:
    """Return whether a process of our user has the id: its token is for nobody else."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return not hasattr(os, "geteuid") or process.uids().effective == os.geteuid()
    except psutil.Error:
        return False
