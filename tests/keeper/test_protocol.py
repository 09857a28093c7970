"""What servers and the keeper send each other arrives whole, and nonsense does no harm."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nbsessions.keeper.protocol import (
    Attach,
    Channel,
    Detach,
    Flush,
    Hello,
    ProtocolError,
    Reply,
    Request,
    Status,
    Stop,
    Watch,
)

one_pair = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=50
)
requests = st.one_of(
    st.builds(Hello, version=st.integers(0, 9), server_id=st.none() | names, process=names),
    st.builds(Watch, kernel_id=names),
    st.builds(
        Attach,
        kernel_id=names,
        client=names,
        connection=names,
        base=st.none() | st.integers(0, 2**63),
    ),
    st.builds(Detach, kernel_id=names, client=names, connection=names),
    st.builds(Flush, kernel_id=names),
    st.just(Status()),
    st.just(Stop()),
)


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    """Both ends of a connection."""
    first, second = map(Channel, socket.socketpair())
    yield first, second
    first.close()
    second.close()


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def wire(request: Request) -> bytes:
    data = msgspec.json.encode(request)
    return struct.pack("!I", len(data)) + data


@one_pair
@given(st.lists(requests, max_size=5), st.lists(st.integers(1, 200)))
def test_requests_arrive_in_pieces_of_any_size(
    ends: tuple[Channel, Channel], requests: list[Request], sizes: list[int]
) -> None:
    theirs, ours = ends
    data = b"".join(map(wire, requests))
    received = []
    for size in [*sizes, len(data)]:
        piece, data = data[:size], data[size:]
        if piece:
            theirs.connection.sendall(piece)
            assert ours.receive()
        while (request := ours.next_request()) is not None:
            received.append(request)
    assert received == requests


@one_pair
@given(requests)
def test_a_request_is_answered(ends: tuple[Channel, Channel], request_: Request) -> None:
    theirs, ours = ends
    theirs.send(request_)
    assert ours.receive()
    assert ours.next_request() == request_
    reply = Reply(position=3, answered=["a"], status={"request": 1})
    ours.send(reply)
    assert theirs.receive()
    assert theirs.next_reply() == reply
    assert theirs.next_reply() is ours.next_request() is None


def test_a_descriptor_comes_with_its_request(ends: tuple[Channel, Channel]) -> None:
    theirs, ours = ends
    before = open_descriptors()
    with open(os.devnull, "rb") as file:
        theirs.send(Watch(kernel_id="k"), file.fileno())
        assert ours.receive()
        assert ours.next_request() == Watch(kernel_id="k")
        taken = ours.take_descriptor()
        assert taken is not None
        assert os.path.samestat(os.fstat(taken), os.fstat(file.fileno()))
        os.close(taken)
    assert ours.take_descriptor() is None
    assert open_descriptors() == before


def test_descriptors_that_nobody_has_taken_are_closed() -> None:
    before = open_descriptors()
    theirs, ours = map(Channel, socket.socketpair())
    with open(os.devnull, "rb") as file:
        socket.send_fds(theirs.connection, [b"nonsense"], [file.fileno()] * 5)
        socket.send_fds(theirs.connection, [b"nonsense"], [file.fileno()] * 3)
        while len(ours._descriptors) < 8:
            assert ours.receive()
    ours.close()
    ours.close()
    theirs.close()
    assert open_descriptors() == before


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("!I", 2**32 - 1),
        struct.pack("!I", 3) + b"abc",
        struct.pack("!I", 2) + b"{}",
        struct.pack("!I", 2) + b"[]",
        struct.pack("!I", 0),
        struct.pack("!I", 14) + b'{"type":"Nope"}',
        struct.pack("!I", 900_000) + b"[" * 900_000,
        *(
            struct.pack("!I", len(body)) + body
            for body in (
                b'{"type":"Watch"}',
                b'{"type":"Watch","kernel_id":1}',
                b'{"type":"Watch","kernel_id":""}',
                b'{"type":"Watch","kernel_id":"../k"}',
                b'{"type":"Flush","kernel_id":"k\\u0000"}',
                b'{"type":"Watch","kernel_id":"\\ud800"}',
                b'{"type":"Watch","kernel_id":"\xff"}',
                b'{"type":"Detach","kernel_id":"k","client":"c","connection":"a/b"}',
                b'{"type":"Hello","version":"1"}',
            )
        ),
    ],
    ids=lambda data: repr(data[:40]),
)
def test_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        receive_all(data)


def receive_all(data: bytes) -> Request | None:
    """Return the request in the data that a connection has brought."""
    first, second = map(Channel, socket.socketpair())
    first.connection.setblocking(False)
    try:
        request = None
        while data and request is None:
            data = data[first.connection.send(data[:10_000]) :]
            assert second.receive()
            request = second.next_request()
        return request
    finally:
        first.close()
        second.close()


@given(st.binary(min_size=1, max_size=100))
def test_random_bytes_are_refused_or_incomplete(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        assert receive_all(data) is None


def test_the_end_is_noticed(ends: tuple[Channel, Channel]) -> None:
    theirs, ours = ends
    theirs.close()
    assert not ours.receive()
    assert ours.next_reply() is None
