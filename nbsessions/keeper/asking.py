"""What a server or a command asks the keeper for over a connection of its own."""

from __future__ import annotations

import msgspec

from nbsessions.keeper.folder import KeeperFolder
from nbsessions.keeper.protocol import (
    VERSION,
    Channel,
    Hello,
    ProtocolError,
    Reply,
    Request,
    Status,
    Stop,
)
from nbsessions.keeper.status import KeeperStatus

_TIMEOUT = 5.0


class Refused(OSError):
    """The keeper cannot do what it was asked for."""


class OtherVersion(OSError):
    """The keeper and we have different versions of the protocol."""

    def __init__(self, version: int | None, pid: int | None) -> None:
        super().__init__(f"it has version {version} of the protocol, and we have {VERSION}")
        self.version = version
        self.pid = pid


def exchange(channel: Channel, request: Request, descriptor: int | None = None) -> Reply:
    """Return the keeper's reply. Raises OSError, which is Refused if the reply is an error."""
    channel.send(request, descriptor)
    while (reply := channel.next_reply()) is None:
        if not channel.receive():
            raise ConnectionResetError("the keeper has ended the connection")
    if reply.error is not None:
        raise Refused(reply.error)
    return reply


def ask_keeper(folder: KeeperFolder) -> KeeperStatus:
    """Return what the keeper says about itself, whatever version of the protocol it has.

    Raises OSError. That is OtherVersion if what a keeper of another version says makes no sense.
    """
    channel = Channel(folder.connect(_TIMEOUT))
    try:
        greeting = exchange(channel, Hello(version=VERSION))
        try:
            return _ask(channel)
        except OSError as error:
            if greeting.version != VERSION:
                raise OtherVersion(greeting.version, greeting.pid) from error
            raise
    finally:
        channel.close()


def _ask(channel: Channel) -> KeeperStatus:
    try:
        return msgspec.convert(exchange(channel, Status()).status, KeeperStatus)
    except msgspec.ValidationError as error:
        raise ProtocolError(str(error)) from error


def stop_keeper(folder: KeeperFolder) -> None:
    """Stop the keeper, and wait until it has written everything. Raises OSError."""
    channel = Channel(folder.connect(_TIMEOUT))
    try:
        channel.send(Stop())
        while channel.receive():
            pass
    finally:
        channel.close()
