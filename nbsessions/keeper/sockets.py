"""Connects to the sockets of kernels, as clients of jupyter_client do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import zmq

from nbsessions.keeper.addresses import address_of
from nbsessions.keeper.records import CHANNELS, Kind

_RECONNECT_INTERVAL = 10
"""Milliseconds. A restarted kernel soon publishes at the same port."""

Socket: TypeAlias = "zmq.Socket[bytes]"
Context: TypeAlias = "zmq.Context[Socket]"


def subscribe(context: Context, connection_info: Mapping[str, Any]) -> Socket:
    """Return a socket that receives all that the kernel publishes from now on."""
    subscriber = _socket(context, zmq.SUB, connection_info)
    subscriber.reconnect_ivl = _RECONNECT_INTERVAL
    subscriber.subscribe(b"")
    subscriber.connect(address_of(connection_info, "iopub"))
    return subscriber


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
