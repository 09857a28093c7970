"""A kernel that prints numbered lines, and clients that read them over crashes of the server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import websocket

from support.channel import V1, Address, Channel
from support.server import Server
from support.waiting import wait_until

COUNTING = """
import os, time
number, begun = 0, time.perf_counter()
while not os.path.exists("enough"):
    number += 1
    print(number, flush=not number % {flush})
    ahead = begun + number / {rate} - time.perf_counter()
    if ahead > 0.002:
        time.sleep(ahead)
print("all", number)
"""
"""Prints so many numbered lines a second, some in each message, until there is a file."""


class Reader(threading.Thread):
    """A client that reads all it can, and connects again whenever it is cut off."""

    def __init__(self, server: Address, kernel_id: str, *, pause: float = 0.0) -> None:
        """``pause``: how many seconds it takes for each message."""
        super().__init__(daemon=True)
        self.messages: list[dict[str, Any]] = []
        self.connections = 0
        self._server = server
        self.kernel_id = kernel_id
        self._pause = pause
        self.session_id: str | None = None
        self._stopped = threading.Event()
        self._requests: list[str] = []
        self.connected = threading.Event()
        self._away = threading.Event()
        self._has_all = False

    def run(self) -> None:
        """Connect and read until ``stop`` is called."""
        while not self._stopped.is_set():
            if self._away.is_set():
                time.sleep(0.05)
                continue
            try:
                self._read()
            except (OSError, websocket.WebSocketException):
                time.sleep(0.05)

    def _read(self) -> None:
        channel = Channel(self._server, self.kernel_id, self.session_id, busy=True, protocol=V1)
        self.session_id = channel.session_id
        self.connections += 1
        try:
            while self._requests:
                channel.start(self._requests.pop())
            self.connected.set()
            goes = False
            while not self._stopped.is_set():
                if self._away.is_set() and not goes:
                    goes = True
                    channel.say_goodbye()
                message = channel.receive()
                if message is not None:
                    self.messages.append(message)
                    self._has_all |= "all" in message["content"].get("text", "")
                    time.sleep(self._pause)
        finally:
            self.connected.clear()
            channel.close()

    def go_away(self) -> None:
        """Disconnect after all that the server has sent. ``come_back`` connects again."""
        self._away.set()
        wait_until(lambda: not self.connected.is_set(), "the client is away")

    def come_back(self) -> None:
        """Connect again."""
        self._away.clear()
        assert self.connected.wait(60)

    def request(self, code: str) -> None:
        """Have the code run once the client is connected. Call this before ``start``."""
        self._requests.append(code)

    def printed(self) -> str:
        """Return what it was told that the kernel has printed."""
        return "".join(
            message["content"]["text"]
            for message in list(self.messages)
            if message["msg_type"] == "stream"
        )

    def has_all(self) -> bool:
        """Return whether the last line has been read."""
        return self._has_all

    def check_lines(self) -> None:
        """Each line has been read once, and in order."""
        *lines, last = self.printed().split("\n")[:-1]
        breaks = [pair for pair in pairwise(["0", *lines]) if pair != follows(pair[0])]
        assert not breaks, f"{self.name}: {breaks[:10]}"
        assert last == f"all {len(lines)}"

    def replies(self) -> list[dict[str, Any]]:
        """Return the contents of the replies to its requests."""
        return [each["content"] for each in self.messages if each["msg_type"] == "execute_reply"]

    def stop(self) -> None:
        """Stop reading."""
        self._stopped.set()
        self.join(30)


def follows(line: str) -> tuple[str, str]:
    """Return a line, and what has to follow it."""
    return line, str(int(line) + 1) if line.isdigit() else "a number"


@contextmanager
def reading(*readers: Reader) -> Iterator[None]:
    """Let clients read, and stop them in the end."""
    for reader in readers:
        reader.start()
    try:
        yield
    finally:
        for reader in readers:
            reader.stop()


@contextmanager
def everyone_reading(
    server: Server, *, flush: int, pause: float, timeout: float = 120.0
) -> Iterator[Sequence[Reader]]:
    """Yield clients that read what a kernel prints, 5,000 lines a second, until the block ends.

    The first one watches, and so does the second one, which needs ``pause`` seconds for each
    message. The last one has sent the request. Then check that all have read each line once, in
    order, and that the last one has got its reply. ``timeout``: seconds that the slow one has to
    catch up in the end.
    """
    kernel_id = server.create("a.ipynb", "python3")["kernel"]["id"]
    watches, slow = Reader(server, kernel_id), Reader(server, kernel_id, pause=pause)
    runs = Reader(server, kernel_id)
    runs.request(COUNTING.format(rate=5000, flush=flush))
    readers = [watches, slow, runs]
    with reading(watches, slow):
        for each in (watches, slow):
            assert each.connected.wait(60)
        with reading(runs):
            wait_until(lambda: all(each.printed() for each in readers), "all of them read")
            yield readers
            (server.root_dir / "enough").touch()
            for each in readers:
                wait_until(each.has_all, f"{each.name} has read all", timeout=timeout)
            wait_until(runs.replies, "the reply is there")
    for each in readers:
        each.check_lines()
    assert [reply["status"] for reply in runs.replies()] == ["ok"]
    assert [watches.replies(), slow.replies()] == [[], []]
