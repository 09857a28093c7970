"""The clients of a kernel, and what each of them has been sent."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from nbsessions.keeper import marks
from nbsessions.keeper.delivery import Delivery
from nbsessions.keeper.records import Kind
from nbsessions.keeper.sockets import Socket
from nbsessions.keeper.spool import Spool
from nbsessions.private import PrivateFolder

MOST_AWAY = 20
"""How many clients of a kernel may be away. The replies to others are no longer kept."""
_MOST_ANSWERED = 100
_ALL = 2**63


class ClientState(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored of a client, for a keeper that follows this one."""

    position: int
    lines: int = 0
    answered: list[str] = []
    connection: str | None = None
    away_since: float | None = None
    stood_in_for: bool = False
    server_id: str | None = None
    server_process: str = ""


@dataclass(kw_only=True)
class Client:
    """A client of a kernel."""

    session_id: str
    position: int
    """The position of the last message that it has been sent, before its present connection."""
    lines: int = 0
    """How many lines the kernel had printed there."""
    answered: list[str] = field(default_factory=list)
    """The keys of the newest requests that it has got a reply to."""
    connection: str | None = None
    """The name of its connection, and of the mark. None if it has none."""
    settling: list[str] = field(default_factory=list)
    """The names of connections that have ended, until it is known what was sent on them."""
    delivery: Delivery | None = None
    server_id: str | None = None
    """Its server, as far as that is known and not dead."""
    server_process: str = ""
    """The key of that server's process."""
    away_since: float | None = None
    then: list[Callable[[], None]] = field(default_factory=list)
    """What waits until it is known what the client was sent."""
    stood_in_for: bool = False
    """Whether the keeper receives the replies to it, because no server does."""
    stand_ins: dict[Kind, Socket] = field(default_factory=dict)

    def take_over(self, name: str, found: Sent) -> None:
        """Note what the client was sent on a connection that has ended."""
        self.settling.remove(name)
        if found.position > self.position:
            self.position, self.lines = found.position, found.lines
        self.answered = [*self.answered, *found.answered][-_MOST_ANSWERED:]

    def state(self) -> ClientState:
        """Return what has to be stored."""
        return ClientState(
            position=self.position,
            lines=self.lines,
            answered=self.answered,
            connection=self.connection or next(iter(self.settling), None),
            away_since=self.away_since,
            stood_in_for=self.stood_in_for,
            server_id=self.server_id,
            server_process=self.server_process,
        )


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What a client was sent on one connection."""

    position: int = 0
    lines: int = 0
    key: bytes = b""
    """The key of the message at the position."""
    answered: tuple[str, ...] = ()


def examine(
    mark: bytes, accepted: int | None, spool: Spool, *, newest: bool, earlier: Sent | None = None
) -> Sent | None:
    """Return what a mark says. Raises OSError and ValueError.

    With ``newest``, return None if the newest message is not in the spool. It may come yet.
    ``earlier`` is what the mark has said before. It helps if the message has left the spool since.
    """
    messages = marks.delivered(mark, accepted)
    answered = [key.decode() for kind, key in messages if kind == marks.ANSWERED]
    keys = _keys(messages)
    key = keys[0] if keys else b""
    found = spool.find(key) if keys else (0, 0)
    if found is None and newest:
        return None
    if found is None:
        index = spool.index()
        present = next((each for each in keys if each in index), b"")
        found = index.get(present) or _count_from(earlier, key, mark)
        key = present or key
    position, lines = found
    return Sent(position=position, lines=lines, key=key, answered=tuple(reversed(answered)))


def _keys(messages: Iterable[tuple[int, bytes]]) -> list[bytes]:
    return [key for kind, key in messages if kind != marks.ANSWERED]


def _count_from(earlier: Sent | None, key: bytes, mark: bytes) -> tuple[int, int]:
    """Return the position of a message by that of another one, and the lines of the latter."""
    keys = _keys(marks.delivered(mark, _ALL))
    if earlier is None or earlier.key not in keys:
        return 0, 0
    later = keys.index(earlier.key) - keys.index(key)
    return earlier.position + later, earlier.lines


def examine_file(
    folder: PrivateFolder,
    name: str,
    accepted: int | None,
    spool: Spool,
    *,
    newest: bool,
    earlier: Sent | None = None,
) -> Sent | None:
    """Return what the mark in a file says, like ``examine``. Raises OSError."""
    with open(folder.open(name, os.O_RDONLY), "rb") as file:
        data = file.read()
    try:
        return examine(data, accepted, spool, newest=newest, earlier=earlier)
    except ValueError as error:
        raise OSError(f"{name} cannot be used: {error}") from error


class ClientFile:
    """Stores the clients of kernels, one file for each kernel. All methods block."""

    def __init__(self, folder: PrivateFolder) -> None:
        self._folder = folder

    def read(self, kernel_id: str) -> Iterator[Client]:
        """Yield the clients that were stored, if they can be read."""
        with contextlib.suppress(OSError, msgspec.DecodeError):
            descriptor = self._folder.open(_name(kernel_id), os.O_RDONLY)
            with open(descriptor, "rb") as file:
                states = msgspec.json.decode(file.read(), type=dict[str, ClientState])
            for session_id, state in states.items():
                yield Client(session_id=session_id, **msgspec.structs.asdict(state))

    def write(self, kernel_id: str, data: bytes) -> None:
        """Store clients that ``encode`` has encoded. Raises OSError."""
        draft = f"{_name(kernel_id)}.draft"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with open(self._folder.open(draft, flags), "wb") as file:
            file.write(data)
        self._folder.replace(draft, _name(kernel_id))

    def remove(self, kernel_id: str) -> None:
        """Forget the clients of a kernel. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            self._folder.remove(_name(kernel_id))


def encode(clients: Collection[Client]) -> bytes:
    """Return the clients as they are stored."""
    return msgspec.json.encode({each.session_id: each.state() for each in clients})


def _name(kernel_id: str) -> str:
    return f"{kernel_id}.json"


def first_needed(clients: Collection[Client]) -> int | None:
    """Return the position after which messages are kept for clients that are away.

    A client does not count until it is known what it has been sent. None if no other is away.
    """
    settled = (each for each in clients if each.connection is None and not each.settling)
    return min((each.position for each in settled if each.away_since is not None), default=None)


def longest_away(clients: Collection[Client]) -> list[Client]:
    """Return the clients that are too many, those that were away for the longest time."""
    away = [each for each in clients if each.away_since is not None]
    away.sort(key=lambda each: each.away_since or time.time())
    return away[: max(0, len(away) - MOST_AWAY)]
