"""What servers and the keeper say to each other, over a Unix socket.

Each message is a JSON object, preceded by its length (4 bytes, big-endian). A server sends
requests and gets one reply to each. A message may come with a file descriptor (SCM_RIGHTS).

A keeper serves the servers of its own version of the protocol and of every earlier one. A server
that finds a keeper of an earlier version has it replaced, see ``replacing``. Both sides ignore the
fields that they do not know. So a field may be added without a new version, with a default that
means what its absence has meant before.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
from typing import Annotated, Any, TypeAlias

import msgspec

VERSION = 1
"""Increased when a keeper of the earlier version cannot serve the servers of this one."""

Name: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[^/\0]{1,255}$")]
"""What may be part of the name of a file."""

_LENGTH = struct.Struct("!I")
_LONGEST = 1_000_000
_DESCRIPTORS = 8
_CHUNK = 65536


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The first request. The reply has the keeper's version and pid."""

    version: int
    server_id: str | None = None
    """None if the sender is not a server, but asks for the status."""
    process: str = ""
    """The key of the server's process, see ``identity.process_key``."""


class Watch(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Listen to a kernel, whose record has been written."""

    kernel_id: Name


class Attach(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A client is connected. The reply says what it has been sent already.

    The request comes with a duplicate of the client's TCP socket if ``base`` is not None.
    """

    kernel_id: Name
    client: str
    """The client's session id, which is also its routing identity at the kernel."""
    connection: Name
    """A name of the connection, also that of the file with its mark."""
    base: int | None
    """How many bytes were sent on the socket before those that the mark counts."""


class Detach(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A client's connection has ended, and the server goes on."""

    kernel_id: Name
    client: str
    connection: Name


class Flush(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Write what the kernel has said so far. The reply comes afterwards."""

    kernel_id: Name


class Status(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Describe what is kept."""


class Stop(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Write everything and end. Then the connection ends as well."""

    hand_over: bool = False
    """Whether a keeper asks that follows. It gets a reply for the connection of each client."""


Request: TypeAlias = Hello | Watch | Attach | Detach | Flush | Status | Stop


class Handed(msgspec.Struct, frozen=True, kw_only=True):
    """A client's connection that a keeper hands over to the one that follows.

    It comes with a duplicate of the client's TCP socket.
    """

    connection: Name
    base: int
    ended: bool
    """Whether the client has been told that nothing follows."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """The reply to one request."""

    error: str | None = None
    version: int | None = None
    pid: int | None = None
    position: int | None = None
    """For Attach: the position of the last message that the client has been sent. None if this
    client is new."""
    lines: int = 0
    """For Attach: how many lines the kernel had printed there."""
    answered: list[str] = []
    """For Attach: the keys of the newest requests that the client has got a reply to."""
    status: dict[str, Any] | None = None
    handed: Handed | None = None


class ProtocolError(OSError):
    """The other side has sent something that is not a message."""


class Channel:
    """One side of a connection. Reading never blocks, sending may."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._received = bytearray()
        self._descriptors: list[int] = []

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self.connection.fileno()

    def send(self, message: Request | Reply, descriptor: int | None = None) -> None:
        """Send a message. Raises OSError."""
        data = msgspec.json.encode(message)
        data = _LENGTH.pack(len(data)) + data
        sent = 0
        if descriptor is not None:
            rights = array.array("i", [descriptor])
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
            sent = self.connection.sendmsg([data], ancillary)
        self.connection.sendall(data[sent:])

    def receive(self) -> bool:
        """Read what is there. Return False at the end. Raises OSError."""
        data, descriptors, _, _ = socket.recv_fds(self.connection, _CHUNK, _DESCRIPTORS)
        self._descriptors.extend(descriptors)
        self._received += data
        return bool(data)

    def next_request(self) -> Request | None:
        """Return a request that has been received whole. Raises ProtocolError."""
        request: Request | None = self._next(Request)
        return request

    def next_reply(self) -> Reply | None:
        """Return a reply that has been received whole. Raises ProtocolError."""
        reply: Reply | None = self._next(Reply)
        return reply

    def _next(self, kind: Any) -> Any:
        if len(self._received) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._received)
        if length > _LONGEST:
            raise ProtocolError(f"a message of {length} bytes")
        end = _LENGTH.size + length
        if len(self._received) < end:
            return None
        data = bytes(self._received[_LENGTH.size : end])
        del self._received[:end]
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.DecodeError, ValueError) as error:
            raise ProtocolError(str(error)) from error

    def take_descriptor(self) -> int | None:
        """Return the descriptor that came with the last message, which the caller closes."""
        return self._descriptors.pop(0) if self._descriptors else None

    def close(self) -> None:
        """Close the connection and the descriptors that nobody has taken."""
        self.connection.close()
        while self._descriptors:
            with contextlib.suppress(OSError):
                os.close(self._descriptors.pop())
