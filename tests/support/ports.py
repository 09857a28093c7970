"""Keeps apart the ports of kernels that several processes start at the same moment."""

from __future__ import annotations

import random
import socket
from typing import Any

_FIRST, _LAST = 61000, 65536
"""Above the ports that Linux gives to connections by itself."""


def reserve_ports(cache_class: type[Any]) -> None:
    """Have jupyter_client's ``LocalPortCache`` hold the ports that it finds for kernels.

    It knows the ports of one process only: until a kernel has bound its own, those look free to
    all others, of which tests run many. A kernel that is given another's ports ends. They are
    none of those that the system gives to connections: a server that is killed holds its ports
    no more, and a connection could take one before the kernel has bound it.
    """
    held: dict[int, socket.socket] = {}
    return_port = cache_class.return_port

    def find_available_port(self: Any, ip: str) -> int:
        while True:
            port = random.randrange(_FIRST, _LAST)
            if port in self.currently_used_ports:
                continue  # A kernel of ours has it that is being restarted.
            holder = socket.socket()
            try:
                # Without the option: only so are the ports of other holders refused.
                with socket.socket() as probe:
                    probe.bind((ip, port))
                # With it, and since nobody listens, the kernel's own socket can bind it, too.
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
