"""How much the files of all kernels may have together."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nbsessions.keeper.reading import LIMIT, SpoolReader
from nbsessions.keeper.sharing import LEAST, fair_level, shared_limit
from support.keepers import FakeKernel, RunningKeeper, Server, kept
from support.spools import EVERYTHING, make_message
from support.waiting import wait_until

MakeKernel = Callable[..., FakeKernel]
sizes = st.lists(st.integers(0, 10**9), max_size=20)


# The level


@given(sizes, st.integers(0, 10**10))
@example([], 0)
@example([5, 5], 10)
def test_the_level_uses_what_there_is(sizes: list[int], most: int) -> None:
    level = fair_level(sizes, most)
    if level is None:
        assert sum(sizes) <= most
    else:
        shrunk = sum(min(size, level) for size in sizes)
        assert sum(sizes) > most >= shrunk
        # Nothing more could be kept fairly.
        assert sum(min(size, level + 1) for size in sizes) > most


def test_the_largest_shrink_first() -> None:
    assert fair_level([1, 2, 10, 20], 13) == 5
    assert fair_level([1, 2, 10, 20], 33) is None
    assert fair_level([4, 4, 4], 10) == 3


def test_no_limit_is_raised_and_none_is_tiny() -> None:
    assert shared_limit(20_000_000, None) == 20_000_000
    assert shared_limit(20_000_000, 60_000_000) == 20_000_000
    assert shared_limit(20_000_000, 12_000_000) == 10_000_000
    assert shared_limit(20_000_000, 0) == LEAST
    assert shared_limit(500_000, 0) == 500_000


# A keeper with several kernels


@pytest.fixture
def websocket() -> Iterator[socket.socket]:
    """The server's end of a connection."""
    server, client = socket.socketpair()
    with server, client:
        yield server


class Kernels:
    """Kernels of a server, each with a client."""

    def __init__(
        self, keeper: RunningKeeper, server: Server, make: MakeKernel, websocket: socket.socket
    ) -> None:
        self._keeper = keeper
        self._server = server
        self._make = make
        self._websocket = websocket
        self._said: dict[str, int] = {}

    def start(self, **limits: int) -> FakeKernel:
        """Start a kernel that keeps 10 MB, unless the limits are others."""
        kernel = self._make(self._server.servers.server_id, **{"limit": 10_000_000, **limits})
        self._server.link.watch(kernel.kernel_id)
        kernel.wait_for_keeper()
        self._server.attach(kernel.kernel_id, kernel.kernel_id, self._websocket)
        return kernel

    def say(self, kernel: FakeKernel, count: int) -> None:
        """Publish so many messages of 100 kB, and wait until they are kept."""
        kernel.publish(*[make_message("stream", 100_000, lines=1) for _ in range(count)])
        said = self._said[kernel.kernel_id] = self._said.get(kernel.kernel_id, 0) + count

        def is_kept() -> bool:
            self._server.link.flush(kernel.kernel_id).result(30)
            found = kept(self._keeper, kernel)
            return bool(found) and found[-1].position == said

        wait_until(is_kept, "everything is kept")

    def size(self, kernel: FakeKernel) -> int:
        """Return how many bytes are kept."""
        return int(self._keeper.status()["kernels"][kernel.kernel_id]["bytes"])


@pytest.fixture
def kernels(
    keeper: RunningKeeper, server: Server, make_kernel: MakeKernel, websocket: socket.socket
) -> Kernels:
    return Kernels(keeper, server, make_kernel, websocket)


def test_the_largest_shrinks_at_once_although_its_kernel_is_quiet(
    keeper: RunningKeeper, kernels: Kernels
) -> None:
    small, large = (kernels.start(total=12_000_000) for _ in range(2))
    kernels.say(small, 20)
    kernels.say(large, 90)
    assert kernels.size(large) > 9_000_000
    other = kernels.start(total=12_000_000)
    kernels.say(other, 30)
    wait_until(lambda: kernels.size(large) <= 7_000_000, "the largest shrinks")
    assert kernels.size(small) > 2_000_000
    assert kernels.size(other) > 3_000_000
    assert sum(map(kernels.size, (small, large, other))) <= 12_000_000
    assert kernels.size(large) > 5_000_000
    # What is missing is counted, and the newest is there.
    reader = SpoolReader(keeper.folder.spools, large.kernel_id, 0, 0)
    found = reader.read(EVERYTHING)
    assert [each.position for each in found] == list(range(91 - len(found), 91))
    assert reader.losses.messages == reader.losses.lines == 90 - len(found)
    assert reader.losses.reason == LIMIT
    reader.close()


def test_there_is_more_room_when_a_kernel_has_ended(
    keeper: RunningKeeper, kernels: Kernels
) -> None:
    first, second = (kernels.start(total=8_000_000) for _ in range(2))
    kernels.say(first, 60)
    kernels.say(second, 60)
    wait_until(lambda: kernels.size(first) + kernels.size(second) <= 8_000_000, "both have shrunk")
    first.end()
    wait_until(lambda: len(keeper.status()["kernels"]) == 1, "the kernel has gone")
    kernels.say(second, 40)
    wait_until(lambda: kernels.size(second) > 6_500_000, "the other one keeps more")


def test_the_smallest_limit_of_several_servers_counts(
    keeper: RunningKeeper, kernels: Kernels
) -> None:
    kernels.start(total=0)
    assert keeper.status()["total_limit"] == 0
    kernels.start(total=3_000_000)
    kernels.start(total=2_000_000)
    assert keeper.status()["total_limit"] == 2_000_000


def test_a_few_messages_of_each_kernel_are_kept_in_any_case(kernels: Kernels) -> None:
    few = [kernels.start(total=1_000_000) for _ in range(3)]
    for each in few:
        kernels.say(each, 30)
    wait_until(lambda: max(map(kernels.size, few)) <= 1.1 * LEAST, "all have shrunk")
    assert min(map(kernels.size, few)) > LEAST // 2
