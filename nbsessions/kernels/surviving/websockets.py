"""A client's websocket, over which it gets everything that its kernel has said."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any

from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from tornado.escape import utf8
from tornado.websocket import WebSocketClosedError

from nbsessions.keeper import marks
from nbsessions.keeper.delivery import sent_bytes
from nbsessions.keeper.link import Attached
from nbsessions.keeper.messages import (
    DELIMITER,
    HEADER,
    PARENT,
    SIGNATURE,
    key_of,
    key_of_request,
    type_of,
)
from nbsessions.keeper.records import CHANNELS, Kind, Record
from nbsessions.kernels import internals
from nbsessions.kernels.surviving.asking import KernelInfoRequests
from nbsessions.kernels.surviving.catching_up import CatchingUp
from nbsessions.kernels.surviving.handshakes import Handshakes
from nbsessions.kernels.surviving.reconnecting import ClientReconnector, remember_sent
from nbsessions.kernels.surviving.unanswered import Unanswered
from nbsessions.tasks import Tasks

_LONGEST_QUEUE = 1_000_000
"""Bytes that may wait for a client before it gets more of what it has missed."""
_STOP_TIMEOUT = 5.0
"""Seconds that cancelled tasks have to end when the server stops."""


class SurvivingConnection(ZMQChannelsWebsocketConnection):
    """Connects a client, and notes what it has been sent.

    A client that was connected before first gets what it has missed: while its server was dead,
    while it was away, or because its server was killed before it had sent everything.
    """

    if TYPE_CHECKING:
        kernel_id: str
        kernel_manager: Any
        multi_kernel_manager: Any
        session: Any
        log: Any
        channels: dict[str, Any]
        limit_rate: bool
        subprotocol: str | None
        websocket_handler: Any

    _mark: marks.Mark | None = None
    _name: str | None = None
    _catching_up: CatchingUp | None = None
    _handshakes: Handshakes | None = None
    _unanswered: Unanswered | None = None
    _has_ended = False
    _noting: tuple[int, bytes] | None = None
    """The kind and the key of the message that is being sent."""

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self._tasks = Tasks()

    @classmethod
    async def close_all(cls) -> None:
        """Close all connections, and wait until their tasks are done."""
        # Python logs a traceback of tasks that are not done when the event loop stops.
        connections = [each for each in cls._open_sockets if isinstance(each, SurvivingConnection)]
        await super().close_all()  # type: ignore[no-untyped-call]
        for each in connections:
            await each.wait_for_tasks()

    async def _register_session(self) -> None:
        previous = internals.open_websocket(f"{self.kernel_id}:{self.session.session}")
        await super()._register_session()  # type: ignore[no-untyped-call]
        if isinstance(previous, SurvivingConnection):
            previous.let_go()

    def connect(self) -> asyncio.Future[None] | None:  # type: ignore[override]  # as in the base
        """Connect the client, and begin to send what it has missed."""
        keeper = self.multi_kernel_manager.keeper_of(self.kernel_id)
        if keeper is None:
            connected: asyncio.Future[None] | None = super().connect()
            return connected
        self._caught_up = asyncio.Event()
        self._keeper = keeper
        self._stream = internals.websocket_stream(self.websocket_handler)
        missed = self.multi_kernel_manager.missed.begin(self.session.session)
        self._catching_up = CatchingUp(self, keeper, missed)
        connected = super().connect()
        if connected is not None:
            self._tasks.spawn(self._catch_up(self._catching_up))
            if self._handshakes is not None:
                self._tasks.spawn(self._make_heard(connected))
        return connected

    def create_stream(self) -> None:
        """Connect to the kernel. It may know the client from a connection to another server."""
        super().create_stream()  # type: ignore[no-untyped-call]
        if self._catching_up is not None and self.multi_kernel_manager.is_adopted(self.kernel_id):
            self._handshakes = Handshakes(self.channels[channel] for channel in ("shell", "stdin"))
            remember_sent(self.channels)

    async def _make_heard(self, connected: asyncio.Future[None]) -> None:
        """Make sure that a kernel that an earlier server has started receives the messages."""
        # Before that, nobody receives replies on these sockets. An intercepted one would be lost.
        await asyncio.wait([connected])
        requests = KernelInfoRequests(self.kernel_manager, log=self.log)
        reconnector = ClientReconnector(self.kernel_manager, requests)
        await reconnector.reconnect([self.channels])
        await self._caught_up.wait()
        unanswered = self._unanswered
        if unanswered is None:
            return
        ended = unanswered.ended()
        if ended:
            # Kernels send a reply before they publish that the cell has ended. It would come
            # before the answer to another request.
            await reconnector.reconnect([self.channels])
        self._unanswered = None
        for frames in unanswered.make_up(ended, self.session):
            self.send("shell", frames)

    async def _catch_up(self, catching_up: CatchingUp) -> None:
        limit_rate, self.limit_rate = self.limit_rate, False
        try:
            if self._handshakes is not None:
                # From now on, replies arrive here. Until then, the keeper receives them.
                await self._handshakes.wait()
            self._name, attaching = self._keeper.attach(
                self.kernel_id, self.session.session, *self._duplicate()
            )
            await catching_up.run(attaching)
        finally:
            self.limit_rate = limit_rate
            self._catching_up = None
            catching_up.release()
            self._caught_up.set()

    def _duplicate(self) -> tuple[int | None, int | None]:
        """Return a duplicate of the client's socket, and how many bytes are not counted in it."""
        if not internals.is_plain(self._stream):
            return None, None
        connection: socket.socket = self._stream.socket
        total = sent_bytes(connection)
        if total is None:
            return None, None
        _, done = internals.written_bytes(self._stream)
        return os.dup(connection.fileno()), total - done

    def attached(self, attached: Attached) -> None:
        """Begin to note what is sent."""
        self._mark = attached.mark
        if attached.known is not None and self._handshakes is not None:
            self._unanswered = Unanswered(self.session.session, attached.known.answered)

    def see(self, record: Record) -> None:
        """Note what the client has been sent before."""
        if self._unanswered is not None:
            self._unanswered.see(CHANNELS[record.kind], record.frames)

    # Messages of the kernel

    def handle_outgoing_message(self, stream: Any, frames: list[Any]) -> None:
        """Send a message of the kernel, or hold it until the client has what it has missed."""
        if self._catching_up is not None and self._catching_up.holds(stream.channel, frames):
            return
        self.send(stream.channel, frames)

    def send(self, channel: str, frames: list[Any]) -> None:
        """Send a message that came from the kernel."""
        start = frames.index(DELIMITER) + 1
        if channel == "iopub":
            kind = marks.IOPUB
            key = key_of(frames[start + SIGNATURE], frames[start + HEADER])
        else:
            kind, key = marks.ANSWERED, key_of_request(frames[start + PARENT])
        if channel == "shell":
            self._send_lost_before(key)
        self._send(channel, frames, kind, key)

    def _send_lost_before(self, key: bytes) -> None:
        """Send the replies that should have come before the reply to this request.

        Kernels answer in order, and clients rely on that. What has not come by now is lost.
        """
        if self._unanswered is not None:
            lost = self._unanswered.ended_before(key)
            for frames in self._unanswered.make_up(lost, self.session):
                start = frames.index(DELIMITER) + 1
                self._send("shell", frames, marks.ANSWERED, key_of_request(frames[start + PARENT]))

    def send_kept(self, record: Record) -> None:
        """Send a message from the spool."""
        # A reply to another request may be older than the end of a cell that is known already,
        # because the keeper reads several sockets. Cells end in the order of their replies.
        if record.kind is Kind.SHELL and type_of(record.frames[HEADER]) == "execute_reply":
            self._send_lost_before(key_of_request(record.frames[PARENT]))
        kind = marks.IOPUB if record.kind is Kind.IOPUB else marks.REPLY
        self._send(CHANNELS[record.kind], [DELIMITER, *record.frames], kind, record.key)

    def send_made_up(self, channel: str, frames: list[bytes]) -> None:
        """Send a message that no kernel has sent. It is not noted."""
        stream = self.channels.get(channel)
        if stream is None:
            return  # The connection has ended.
        try:
            super().handle_outgoing_message(stream, frames)
        except WebSocketClosedError:
            # The client has gone a moment ago. It gets the message when it is back.
            self.log.debug("A message for a client of kernel %s is kept", self.kernel_id)

    def _send(self, channel: str, frames: list[Any], kind: int, key: bytes) -> None:
        if self._unanswered is not None and channel in self.channels:
            self._unanswered.see(channel, frames[frames.index(DELIMITER) + 1 :])
        self._noting = (kind, key)
        try:
            self.send_made_up(channel, frames)
        finally:
            self._noting = None

    @property
    def write_message(self) -> Any:
        """What the base class sends all messages to the client with."""
        return self._write_message

    def _write_message(self, message: Any, binary: bool = False) -> Any:
        if self._mark is None or self._noting is None:
            return self.websocket_handler.write_message(message, binary)
        data = utf8(message)
        written, done = internals.written_bytes(self._stream)
        size = internals.frame_size(self.websocket_handler, len(data))
        if size is not None:
            # Before it is sent, because this process may be killed right after that.
            self._note(written + size, done)
        sending = self.websocket_handler.write_message(data, binary)
        if size is None:
            self._note(*internals.written_bytes(self._stream))
        return sending

    def _note(self, end: int, done: int) -> None:
        assert self._mark is not None
        assert self._noting is not None
        try:
            self._mark.note(*self._noting, end, done)
        except OSError as error:
            self.log.warning("What a client is sent is no longer noted: %s", error)
            self._mark = None

    async def drained(self) -> None:
        """Wait until a slow client has taken most of what was sent."""
        written, done = internals.written_bytes(self._stream)
        if written - done > _LONGEST_QUEUE:
            # Not cancelled with this task, because Tornado would log that as an error.
            await asyncio.wait([self._stream.write(b"")])

    # The end of the connection

    def let_go(self) -> None:
        """Send nothing any more. The replies to the client are kept until it is back."""
        keeper, name = getattr(self, "_keeper", None), self._name
        if keeper is None:
            return
        self._keeper = None
        self._mark = None
        self._tasks.cancel()
        if self._handshakes is not None:
            self._handshakes.close()
        if name is not None:
            keeper.detach(name)
        channels, self.channels = self.channels, {}
        self.multi_kernel_manager.keep_replies(self.kernel_id, self.session_key, channels)

    def disconnect(self) -> None:  # type: ignore[override]  # as in the base
        """End the connection. Another one of the same client may have replaced it."""
        if self._has_ended:
            return  # A server that stops ends all, those too that are just ending by themselves.
        self._has_ended = True
        self.let_go()
        super().disconnect()  # type: ignore[no-untyped-call]

    async def wait_for_tasks(self) -> None:
        """Wait until the tasks of a connection that has ended are done."""
        await self._tasks.wait(_STOP_TIMEOUT)
