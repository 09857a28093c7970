"""Kernels that run no code and are no processes: one process binds the ports of them all.

Each kernel has an iopub port of its own, so that a server gets its messages. The other ports are
those of one socket, which takes requests and never answers.

Run as a program, it prints a line with the ports, and reads a command per line:

    status STATE COUNT   the first kernels say that they are in this state
    print COUNT RATE     the first kernels print so many lines a second each, until told otherwise
    burst MESSAGES       the first kernel prints so many lines as fast as it can
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import selectors
import subprocess
import sys
import time
from types import TracebackType

import zmq

KEY = "benchmark"
_PARENT = {"msg_id": "1", "msg_type": "execute_request", "session": "1", "version": "5.3"}
_numbers = itertools.count()


class LightKernels:
    """The process with the kernels, as a context manager. ``ports`` has their iopub ports."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __enter__(self) -> LightKernels:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(self._count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        ports = json.loads(self._process.stdout.readline())
        self.request_port: int = ports["request"]
        self.ports: list[int] = ports["iopub"]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def say(self, state: str, count: int) -> None:
        """Let the first kernels say that they are in this state."""
        self._command(f"status {state} {count}")

    def print(self, count: int, rate: float) -> None:
        """Let the first kernels print so many lines a second each, in turns."""
        self._command(f"print {count} {rate}")

    def stop_printing(self) -> None:
        self._command("print 0 1")

    def burst(self, messages: int) -> None:
        """Let the first kernel print so many lines as fast as it can."""
        self._command(f"burst {messages}")

    def _command(self, line: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        # It has done what it was told, or has begun to print.
        self._process.stdout.readline()


def message(kind: str, content: dict[str, str]) -> list[bytes]:
    """Return a signed message of a kernel that runs a cell."""
    header = {**_PARENT, "msg_id": f"m{next(_numbers)}", "msg_type": kind, "username": ""}
    header["date"] = "2026-01-01T00:00:00.000000Z"
    frames = [json.dumps(each).encode() for each in (header, _PARENT, {}, content)]
    signature = hmac.new(KEY.encode(), b"".join(frames), hashlib.sha256).hexdigest()
    return [kind.encode(), b"<IDS|MSG>", signature.encode(), *frames]


def line() -> list[bytes]:
    """Return the message of a kernel that prints."""
    return message("stream", {"name": "stdout", "text": "a line of output\n"})


class _Program:
    def __init__(self, count: int) -> None:
        context = zmq.Context()
        context.set(zmq.MAX_SOCKETS, context.get(zmq.SOCKET_LIMIT))
        self._requests = context.socket(zmq.ROUTER)
        self._iopubs = [context.socket(zmq.PUB) for _ in range(count)]
        for iopub in self._iopubs:
            iopub.sndhwm = 0  # a burst must not lose messages
        self.ports = {
            "request": self._requests.bind_to_random_port("tcp://127.0.0.1"),
            "iopub": [each.bind_to_random_port("tcp://127.0.0.1") for each in self._iopubs],
        }
        self._printing: list[zmq.Socket[bytes]] = []
        self._interval = 0.0

    def run(self) -> None:
        selector = selectors.DefaultSelector()
        selector.register(sys.stdin, selectors.EVENT_READ)
        print(json.dumps(self.ports), flush=True)
        due = time.monotonic()
        turns: itertools.cycle[zmq.Socket[bytes]] = itertools.cycle([])
        while True:
            now = time.monotonic()
            pause = max(0.0, due - now) if self._printing else None
            if selector.select(pause):
                command = sys.stdin.readline().split()
                if not command:
                    return
                self._obey(*command)
                turns, due = itertools.cycle(self._printing), time.monotonic()
                print("done", flush=True)
            elif self._printing:
                next(turns).send_multipart(line())
                due += self._interval

    def _obey(self, verb: str, *arguments: str) -> None:
        if verb == "status":
            state, count = arguments
            for iopub in self._iopubs[: int(count)]:
                iopub.send_multipart(message("status", {"execution_state": state}))
        elif verb == "burst":
            for _ in range(int(arguments[0])):
                self._iopubs[0].send_multipart(line())
        else:
            count, rate = arguments
            self._printing = self._iopubs[: int(count)]
            self._interval = 1 / (float(rate) * max(1, len(self._printing)))


if __name__ == "__main__":
    _Program(int(sys.argv[1])).run()
