"""Where the sockets of a kernel are, and whether the keeper knows how to reach them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TRANSPORTS = {"tcp", "ipc"}


def can_follow(connection_info: Mapping[str, Any]) -> bool:
    """Return whether the keeper knows how to connect to such a kernel.

    A kernel that is about to be launched has no port yet.
    """
    return has_known_transport(connection_info) and bool(connection_info.get("iopub_port"))


def has_known_transport(connection_info: Mapping[str, Any]) -> bool:
    """Return whether the keeper knows how such a kernel transports its messages."""
    return connection_info.get("transport") in _TRANSPORTS


def address_of(connection_info: Mapping[str, Any], channel: str) -> str:
    """Return the address of one of the kernel's channels."""
    info = connection_info
    separator = "-" if info["transport"] == "ipc" else ":"
    return f"{info['transport']}://{info['ip']}{separator}{info[f'{channel}_port']}"
