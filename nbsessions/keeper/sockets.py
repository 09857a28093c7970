"""Connects to the sockets of kernels, as clients of jupyter_client do."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import zmq

from nbsessions.keeper.addresses import address_of
from nbsessions.keeper.records import CHANNELS, Kind

_RECONNECT_INTERVAL = 10
"""Milliseconds. A restarted kernel soon publishes at the same port."""

_UNTIL_NOTICED = 0.2

Socket: TypeAlias = "zmq.Socket[bytes]"
Context: TypeAlias = "zmq.Context[Socket]"


def subscribe(context: Context, connection_info: Mapping[str, Any]) -> Socket:
    """Return a socket that receives all that the kernel publishes from now on."""
    subscriber = _subscriber(context, connection_info)
    subscriber.connect(address_of(connection_info, "iopub"))
    return subscriber


def _subscriber(context: Context, connection_info: Mapping[str, Any]) -> Socket:
    subscriber = _socket(context, zmq.SUB, connection_info)
    subscriber.reconnect_ivl = _RECONNECT_INTERVAL
    subscriber.subscribe(b"")
    return subscriber


class Subscription:
    """Tells when the kernel has noticed that a socket is subscribed."""

    def __init__(self, context: Context, connection_info: Mapping[str, Any]) -> None:
        """Begin to connect. Raises ZMQError."""
        self.connection_info = connection_info
        self.is_effective = False
        """Whether the kernel has noticed it, as far as is known."""
        self.socket = _subscriber(context, connection_info)
        self._monitor = self.socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        try:
            self.socket.connect(address_of(connection_info, "iopub"))
        except zmq.ZMQError:
            self.close()
            raise

    def wait_for_handshake(self, timeout: float) -> None:
        """Wait until the kernel knows the socket. Call this once."""
        self.is_effective = bool(self._monitor.poll(int(timeout * 1000)))
        self.socket.disable_monitor()

    def close(self) -> None:
        """Stop receiving. Idempotent."""
        if not self.socket.closed:
            self.socket.disable_monitor()
            self.socket.close()


def wait_until_effective(subscriptions: Iterable[Subscription], timeout: float) -> None:
    """Wait until the kernels have noticed subscriptions, no longer than some seconds for all."""
    deadline = time.monotonic() + timeout
    for each in subscriptions:
        each.wait_for_handshake(max(0.0, deadline - time.monotonic()))
    # What is subscribed to is sent right after the handshake. A kernel reads it before it
    # publishes the next message, unless it has looked a moment ago.
    time.sleep(_UNTIL_NOTICED)


def stand_ins(
    context: Context, connection_info: Mapping[str, Any], client: str
) -> dict[Kind, Socket]:
    """Return sockets that receive the kernel's replies to a client. Raises OSError.

    Once a server has connected for the client, they get no more replies. They never connect
    again, because that would take the replies away from the server.
    """
    made: dict[Kind, Socket] = {}
    try:
        for kind in (Kind.SHELL, Kind.STDIN):
            made[kind] = _stand_in(context, connection_info, CHANNELS[kind], client)
    except zmq.ZMQError as error:
        while made:
            made.popitem()[1].close()
        raise OSError(error.errno, error.strerror) from error
    return made


def _stand_in(
    context: Context, connection_info: Mapping[str, Any], channel: str, client: str
) -> Socket:
    dealer = _socket(context, zmq.DEALER, connection_info)
    dealer.identity = client.encode()
    dealer.reconnect_ivl = -1
    dealer.connect(address_of(connection_info, channel))
    return dealer


def _socket(context: Context, kind: int, info: Mapping[str, Any]) -> Socket:
    made = context.socket(kind)
    made.linger = 0
    # A subscriber that stops to receive would make the kernel's memory grow.
    made.rcvhwm = 0
    if "curve_publickey" in info and "curve_secretkey" in info:
        made.curve_publickey = info["curve_publickey"].encode()
        made.curve_secretkey = info["curve_secretkey"].encode()
        made.curve_serverkey = made.curve_publickey
    return made


def received(source: Socket, most: int) -> Iterator[list[bytes]]:
    """Yield at most so many messages that have arrived, without waiting."""
    for _ in range(most):
        try:
            yield source.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return
