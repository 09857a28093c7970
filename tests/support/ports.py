"""Keeps apart the ports of kernels that several processes start at the same moment."""

from __future__ import annotations

import socket
from typing import Any


def reserve_ports(cache_class: type[Any]) -> None:
    """Have jupyter_client's ``LocalPortCache`` hold the ports that it finds for kernels.

    It knows the ports of one process only: until a kernel has bound its own, those look free to
    all others, of which tests run many. A kernel that is given another's ports ends.
    """
    held: dict[int, socket.socket] = {}
    return_port = cache_class.return_port

    def find_available_port(self: Any, ip: str) -> int:
        holder = socket.socket()
        # With this option, and since nobody listens, the kernel's own socket can bind it, too.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((ip, 0))
        port: int = holder.getsockname()[1]
        held[port] = holder
        self.currently_used_ports.add(port)
        return port

    def let_go(self: Any, port: int) -> None:
        if port in held:
            held.pop(port).close()
        return_port(self, port)

    cache_class.find_available_port = find_available_port
    cache_class.return_port = let_go
