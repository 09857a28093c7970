"""Sends a client what it has missed, until it can follow its kernel by itself."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any, Protocol

from nbsessions.keeper.link import Attached, KeeperLink
from nbsessions.keeper.messages import DELIMITER, HEADER, SIGNATURE, key_of
from nbsessions.keeper.reading import SpoolReader
from nbsessions.keeper.records import Kind, Record
from nbsessions.kernels.surviving.missed import MissedOutput

NOT_KNOWN = "the process that keeps output did not answer"
NOT_READABLE = "the files with the output cannot be read"
_ATTACH_TIMEOUT = 5.0
_AT_ONCE = 250_000
"""Bytes sent before other clients have their turn."""
_MOST_HELD = 10_000
_FIRST_LOOK, _LAST_LOOK = 0.1, 1.0
_LATE_LOOKS = 40
"""How often the keeper is asked for a message that the server has got already."""
_LATE_INTERVAL = 0.05
_LATE = 2.0
"""Seconds that a message may come later from the kernel than from the spool."""
_LOOKED_BACK = 200
_QUIET_LOOKS = 10
_REMEMBERED = 1000
"""Messages that may come from a kernel that has been quiet, after they were in the spool."""


class Recipient(Protocol):
    """The connection of a client."""

    kernel_id: str
    session: Any
    log: Any

    def attached(self, attached: Attached) -> None:
        """Begin to note what is sent."""

    def see(self, record: Record) -> None:
        """Note what the client has been sent before."""

    def send(self, channel: str, frames: list[Any]) -> None:
        """Send a message that came from the kernel."""

    def send_kept(self, record: Record) -> None:
        """Send a message from the spool."""

    def send_made_up(self, channel: str, frames: list[bytes]) -> None:
        """Send a message that no kernel has sent."""

    async def drained(self) -> None:
        """Wait until a slow client has taken most of what was sent."""


class CatchingUp:
    """Feeds a client from the spool, and holds what comes from the kernel in the meantime.

    A new subscription begins at an unknown moment. The client is fed from the spool until a
    message from the kernel is found there. From that message on, the kernel's own messages are
    complete.
    """

    def __init__(self, recipient: Recipient, keeper: KeeperLink, missed: MissedOutput) -> None:
        self._recipient = recipient
        self._keeper = keeper
        self._missed = missed
        self._held: list[tuple[str, list[Any]]] = []
        self._published = asyncio.Event()
        """Set while a message is held that the kernel has published."""
        self._sent: dict[bytes, None] = {}
        """The keys of messages from the spool, in order."""
        self._has_all_replies = False

    def holds(self, channel: str, frames: list[Any]) -> bool:
        """Hold a message. Return False if it has to be sent at once."""
        if channel != "iopub" and self._has_all_replies:
            return False
        self._held.append((channel, frames))
        if channel == "iopub":
            self._published.set()
        if len(self._held) > _MOST_HELD:
            self._drop_published()
        return True

    def _drop_published(self) -> None:
        # All of them are in the spool.
        self._held = [each for each in self._held if each[0] != "iopub"]
        self._published.clear()

    def release(self) -> None:
        """Send what was held."""
        held, self._held = self._held, []
        for channel, frames in held:
            self._recipient.send(channel, frames)

    async def run(self, attaching: Future[Attached]) -> None:
        """Send what the client has missed. What is held afterwards follows that."""
        recipient = self._recipient
        try:
            attached = await asyncio.wait_for(asyncio.wrap_future(attaching), _ATTACH_TIMEOUT)
        except (OSError, asyncio.TimeoutError) as error:
            recipient.log.warning(
                "What a client of kernel %s has missed is not known: %r",
                recipient.kernel_id,
                error,
            )
            self._missed.fail(NOT_KNOWN)
            return
        recipient.attached(attached)
        known = attached.known
        if known is None or known.position is None:
            self._missed.is_complete = True
            return
        reader = self._reader(known.position, known.lines)
        try:
            await self._look_back(known.position)
            await self._follow(reader)
        except (OSError, ValueError) as error:
            recipient.log.warning(
                "What a client of kernel %s has missed cannot be read: %s",
                recipient.kernel_id,
                error,
            )
            self._missed.fail(NOT_READABLE)
        finally:
            reader.close()

    def _reader(self, position: int, lines: int = 0) -> SpoolReader:
        return SpoolReader(self._keeper.folder.spools, self._recipient.kernel_id, position, lines)

    async def _look_back(self, position: int) -> None:
        """Let the recipient see the last messages that the client has been sent.

        They may tell of the end of a cell whose reply was lost.
        """
        reader = self._reader(max(0, position - _LOOKED_BACK))
        try:
            for record in await asyncio.to_thread(reader.read, _AT_ONCE):
                if record.position <= position and self._concerns(record):
                    self._recipient.see(record)
        finally:
            reader.close()

    def _concerns(self, record: Record) -> bool:
        return record.kind is Kind.IOPUB or record.client == self._recipient.session.session

    async def _follow(self, reader: SpoolReader) -> None:
        pause, late, quiet = _FIRST_LOOK, 0, 0
        while late < _LATE_LOOKS:
            quiet = 0 if await self._send_all(reader) else quiet + 1
            self._missed.is_complete = True
            self._release_replies()
            if await self._join():
                return
            if not self._published.is_set():
                if quiet > _QUIET_LOOKS:
                    self._forget_all_but_newest()
                await self._wait(pause)
                pause = min(2 * pause, _LAST_LOOK)
                continue
            if late:
                await asyncio.sleep(_LATE_INTERVAL)
            late += 1
            await asyncio.wrap_future(self._keeper.flush(self._recipient.kernel_id))
        self._recipient.log.warning(
            "A client of kernel %s may miss messages, because the keeper did not have those that "
            "the kernel has published last",
            self._recipient.kernel_id,
        )

    async def _send_all(self, reader: SpoolReader) -> bool:
        """Send what is in the spool. Return whether there was anything."""
        position = reader.position
        while records := await asyncio.to_thread(reader.read, _AT_ONCE):
            for record in records:
                self._missed.take_losses(reader, record)
                if record.kind is Kind.IOPUB:
                    self._sent[record.key] = None
                if self._concerns(record):
                    self._send(record)
            await self._recipient.drained()
        return reader.position > position

    def _send(self, record: Record) -> None:
        line = self._missed.line_before(record, self._recipient.session)
        if line is not None:
            self._recipient.send_made_up("iopub", line)
        self._missed.count(record)
        self._recipient.send_kept(record)

    def _release_replies(self) -> None:
        self._has_all_replies = True
        held, self._held = self._held, []
        for channel, frames in held:
            if channel == "iopub":
                self._held.append((channel, frames))
            else:
                self._recipient.send(channel, frames)

    async def _join(self) -> bool:
        """Drop what is held and was sent from the spool. Return whether nothing is missing.

        The kernel's messages come in the order of the spool, but the spool may be ahead.
        """
        if not self._held or _key_of(self._held[0]) not in self._sent:
            return False
        newest = next(reversed(self._sent))
        seen = 0
        while seen <= len(self._held):
            for number in range(seen, len(self._held)):
                if _key_of(self._held[number]) == newest:
                    del self._held[: number + 1]
                    return True
            seen = len(self._held)
            self._published.clear()
            if not await self._wait(_LATE):
                break
        return False

    def _forget_all_but_newest(self) -> None:
        for key in list(self._sent)[:-_REMEMBERED]:
            del self._sent[key]

    async def _wait(self, seconds: float) -> bool:
        """Wait until the kernel has published something. Return False if that takes too long."""
        try:
            await asyncio.wait_for(self._published.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        return True


def _key_of(held: tuple[str, list[Any]]) -> bytes:
    _, frames = held
    start = frames.index(DELIMITER) + 1
    return key_of(frames[start + SIGNATURE], frames[start + HEADER])
