"""Finds the user's running servers by their info files in the runtime directory."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from nbsessions.private import Untrusted, open_file

_INFO_FILE = re.compile(r"(jpserver|nbserver)-.*\.json")
_NO_INFO = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)
_ANY_ADDRESS = {"", "*", "0.0.0.0", "::"}


@dataclass(frozen=True, kw_only=True)
class RunningServer:
    """A running Jupyter Server or classic Notebook, and how to reach it."""

    url: str
    """Its base URL, without the token."""
    pid: int
    root_dir: str | None
    host: str
    port: int
    base_url: str
    secure: bool
    socket: str | None
    """The path of its Unix socket, if it listens on one."""
    token: str = field(repr=False)


def find_running_servers(runtime_dir: Path) -> tuple[list[RunningServer], list[OSError]]:
    """Return the running servers of our user, and why some of them may be missing.

    Stale info files are skipped, not deleted, and so are those of other users.
    """
    try:
        names = sorted(os.listdir(runtime_dir))
        owners = _trusted_owners(runtime_dir.stat())
    except FileNotFoundError:
        return [], []
    except OSError as error:
        return [], [error]
    servers, problems = [], []
    for name in filter(_INFO_FILE.fullmatch, names):
        path = runtime_dir / name
        try:
            server = _read(path, owners)
        except (FileNotFoundError, Untrusted, *_NO_INFO):
            continue  # It is being written or removed, or is not a server info file of ours.
        except OSError as error:
            problems.append(error)
        else:
            servers += [] if server is None else [server]
    return servers, problems


def _trusted_owners(folder: os.stat_result) -> set[int]:
    """Return the owners whose files we trust in the folder."""
    # Some network file systems show the same owner for all files, whoever created them.
    owners = set() if folder.st_mode & stat.S_IWOTH else {folder.st_uid}
    return owners | ({os.geteuid()} if hasattr(os, "geteuid") else set())


def _read(path: Path, owners: Collection[int]) -> RunningServer | None:
    """Return the server, or None if it does not run any more."""
    # In a runtime directory that others can write to, they can create such files, too.
    descriptor = open_file(path, os.O_RDONLY, trusts=lambda status: status.st_uid in owners)
    with open(descriptor, "rb") as file:
        server = _from_info(json.load(file))
    return server if _is_ours(server.pid) else None


def _from_info(info: Mapping[str, Any]) -> RunningServer:
    url = urlsplit(info["url"])
    if not isinstance(info["base_url"], str):
        raise TypeError("base_url is not a string")
    socket = info.get("sock") or None
    any_address = info.get("hostname") in _ANY_ADDRESS
    return RunningServer(
        url=info["url"],
        pid=int(info["pid"]),
        root_dir=info.get("root_dir") or info.get("notebook_dir"),
        # The machine may be unable to resolve its own network name.
        host="localhost" if socket or any_address else url.hostname or "localhost",
        port=0 if socket else int(info["port"]),
        base_url=info["base_url"],
        secure=bool(info.get("secure")) or url.scheme == "https",
        socket=socket,
        token=info.get("token") or "",
    )


def _is_ours(pid: int) -> bool:
    """Return whether this process is ours: the token must not go to another user's process."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return not hasattr(os, "geteuid") or process.uids().effective == os.geteuid()
    except psutil.NoSuchProcess:
        return False
    except psutil.Error as error:
        raise PermissionError(f"process {pid} cannot be examined: {error}") from error
