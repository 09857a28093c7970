"""Keeps processes that start kernels at the same time from choosing the same ports."""

from __future__ import annotations

import random
import socket
from typing import Any

_FIRST, _LAST = 61000, 65536
"""Above the range from which Linux assigns ports to outgoing connections."""


def reserve_ports(cache_class: type[Any]) -> None:
    """Make jupyter_client's ``LocalPortCache`` hold the ports that it finds for kernels.

    The cache only knows the ports of its own process. Until a kernel has bound its ports, they
    look free to all other processes, and tests run many of them. A kernel that is given the ports
    of another kernel ends.

    The ports lie outside the range that the system assigns to connections. When a server is
    killed, it no longer holds its ports. A connection could then take one before the kernel has
    bound it.
    """
    held: dict[int, socket.socket] = {}
    return_port = cache_class.return_port

    def find_available_port(self: Any, ip: str) -> int:
        while True:
            port = random.randrange(_FIRST, _LAST)
            if port in self.currently_used_ports:
                continue  # It belongs to a kernel of this process that is being restarted.
            holder = socket.socket()
            try:
                # Without SO_REUSEADDR, the probe fails for ports that other processes hold.
                with socket.socket() as probe:
                    probe.bind((ip, port))
                # With SO_REUSEADDR, and since nobody listens, the kernel can bind the port, too.
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                holder.bind((ip, port))
            except OSError:
                holder.close()
                continue
            held[port] = holder
            self.currently_used_ports.add(port)
            return port

    def let_go(self: Any, port: int) -> None:
        if port in held:
            held.pop(port).close()
        return_port(self, port)

    cache_class.find_available_port = find_available_port
    cache_class.return_port = let_go
