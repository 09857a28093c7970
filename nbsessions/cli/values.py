"""What the command line shows: kernels, with their sessions if they have any."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nbsessions.models import utcnow
from nbsessions.stores.inspection import StoredOwner

LOCAL = "local"
"""The location of kernels that are processes beside their server."""


class ServerState(str, enum.Enum):
    """Whether a kernel has a running server."""

    RUNNING = "running"
    UNREACHABLE = "unreachable"
    """The server is running, or may be, but could not be asked."""
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A session with its kernel, or a kernel alone, whose session fields are all None."""

    session_id: str | None
    path: str | None
    name: str | None
    type: str | None
    created: datetime | None
    kernel_id: str
    kernel_name: str | None
    kernel_location: str | None
    """``local``, the URL of the gateway that runs it, or the name of another provider."""
    state: str
    """The kernel's execution state. The last known one if its server could not be asked."""
    last_activity: datetime | None
    connections: int | None
    pid: int | None
    memory: int | None
    """Of the kernel's process and its descendants, in bytes."""
    server: ServerState
    server_url: str | None
    root_dir: str | None
    namespace: str | None
    owner: StoredOwner | None
    """The run of a server that has it, as far as the store tells."""

    @property
    def label(self) -> str:
        """Its name in messages: path, session id or kernel id."""
        return self.path or self.session_id or f"kernel {self.kernel_id}"

    @property
    def idle_seconds(self) -> float | None:
        """How long the kernel has been idle. None if it is not idle, or that is unknown."""
        if self.state != "idle" or self.last_activity is None:
            return None
        return max(0.0, (utcnow() - self.last_activity).total_seconds())

    def to_json(self) -> Mapping[str, Any]:
        """Return what ``list --json`` prints. Its keys are a public interface."""
        idle, owner = self.idle_seconds, self.owner
        age = None if owner is None else owner.silent_for
        return {
            "id": self.session_id,
            "path": self.path,
            "name": self.name,
            "type": self.type,
            "kernel_id": self.kernel_id,
            "kernel_name": self.kernel_name,
            "kernel_location": self.kernel_location,
            "state": self.state,
            "last_activity": _isoformat(self.last_activity),
            "idle_seconds": None if idle is None else round(idle, 3),
            "pid": self.pid,
            "memory_bytes": self.memory,
            "server": self.server.value,
            "server_url": self.server_url,
            "namespace": self.namespace,
            "owner": None if owner is None else owner.owner.owner_id,
            "host": None if owner is None else owner.owner.host,
            "owner_state": None if owner is None else owner.state.value,
            "heartbeat_age_seconds": None if age is None else round(age.total_seconds(), 3),
        }

    def to_full_json(self) -> Mapping[str, Any]:
        """Return what ``show --json`` prints: everything known, except secrets."""
        return {
            **self.to_json(),
            "created": _isoformat(self.created),
            "connections": self.connections,
            "root_dir": self.root_dir,
        }


def _isoformat(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
