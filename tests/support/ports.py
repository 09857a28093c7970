"""Keeps processes that choose ports at the same time from choosing the same ones."""

from __future__ import annotations

import random
import socket
from typing import Any

_KERNEL_PORTS = range(61000, 65536)
"""Above the range from which Linux assigns ports to outgoing connections."""

_SERVER_PORTS = range(10000, 32000)
"""Below that range."""


def reserve(address: tuple[str, int]) -> socket.socket | None:
    """Reserve a TCP address for another process, until the socket is closed.

    A process that sets SO_REUSEADDR, as servers and kernels do, can listen there. All other calls
    of this function return None, as does one for an address that is in use.
    """
    holder = socket.socket()
    try:
        # Without SO_REUSEADDR, this fails if anybody has the address.
        holder.bind(address)
    except OSError:
        holder.close()
        return None
    # Since nobody listens here, a socket with the same option can now take the address, too.
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return holder


def reserve_server_port() -> socket.socket:
    """Reserve a port of the loopback interface for a server."""
    while True:
        holder = reserve(("127.0.0.1", random.choice(_SERVER_PORTS)))
        if holder is not None:
            return holder


def reserve_ports(cache_class: type[Any]) -> None:
    """Make jupyter_client's ``LocalPortCache`` reserve the ports that it finds for kernels.

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
            port = random.choice(_KERNEL_PORTS)
            if port in self.currently_used_ports:
                continue  # It belongs to a kernel of this process that is being restarted.
            holder = reserve((ip, port))
            if holder is not None:
                held[port] = holder
                self.currently_used_ports.add(port)
                return port

    def let_go(self: Any, port: int) -> None:
        if port in held:
            held.pop(port).close()
        return_port(self, port)

    cache_class.find_available_port = find_available_port
    cache_class.return_port = let_go
