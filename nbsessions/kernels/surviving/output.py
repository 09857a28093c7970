"""Passes on what kernels print, from their files to the server's own output."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

LARGEST_FILE = 1_000_000
"""Bytes that a file may have; it is emptied when all of it was passed on."""

_NOISE_FACTOR = 20
"""How many times larger it may be before it is emptied while the kernel prints."""

_INTERVAL = 0.5
_CHUNK = 65536
_MOST_AT_ONCE = 1024 * _CHUNK
"""Bytes after which it is another kernel's turn, else one that never stops would be the last."""


class KernelOutput:
    """Follows the output files of kernels, in a thread of its own.

    ``write`` is called in that thread with what was found: the server's stderr by default,
    which is where kernels of a stock server print to.
    """

    def __init__(self, write: Callable[[bytes], object] | None = None) -> None:
        self._write = write or _write_to_stderr
        self._followed: dict[str, _Followed] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self, kernel_id: str, path: Path, position: int = 0) -> None:
        """Pass on what the file holds from here on, for as long as the kernel lives.

        A kernel that is followed already, as after a restart, goes on where it is.
        """
        with self._lock:
            if kernel_id not in self._followed:
                self._followed[kernel_id] = _Followed(path, position)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="nbsessions-output", daemon=True
                )
                self._thread.start()

    def forget(self, kernel_id: str) -> None:
        """Pass on what is left, and follow the file no more."""
        with self._lock:
            followed = self._followed.pop(kernel_id, None)
        if followed is not None:
            followed.pass_on(self._write)

    def position(self, kernel_id: str) -> int:
        """Return how many bytes of the file were passed on."""
        followed = self._followed.get(kernel_id)
        return 0 if followed is None else followed.position

    def close(self) -> None:
        """Pass on what is there now, and end. Idempotent."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        stopping = False
        while not stopping:
            stopping = self._stopped.wait(_INTERVAL)
            with self._lock:
                followed = list(self._followed.values())
            for each in followed:
                each.pass_on(self._write)


class _Followed:
    """One kernel's file, which the kernel goes on appending to."""

    def __init__(self, path: Path, position: int) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.position = position

    def pass_on(self, write: Callable[[bytes], object]) -> None:
        # A full disk, a file that is gone, a stderr that is closed: the kernel comes first.
        with (
            contextlib.suppress(OSError, ValueError),
            self._lock,
            self._path.open("r+b", buffering=0) as file,
        ):
            self._pass_on(file, write)

    def _pass_on(self, file: BinaryIO, write: Callable[[bytes], object]) -> None:
        if os.fstat(file.fileno()).st_size < self.position:
            self.position = 0  # Somebody has emptied it.
        start = self.position
        file.seek(start)
        while self.position - start < _MOST_AT_ONCE:
            chunk = file.read(_CHUNK)
            if not chunk:
                self._limit(file, quiet=self.position == start)
                return
            self.position += len(chunk)
            write(chunk)

    def _limit(self, file: BinaryIO, *, quiet: bool) -> None:
        # What is printed between the last look and this is lost: rather while nothing is.
        if self.position > LARGEST_FILE * (1 if quiet else _NOISE_FACTOR):
            # Kernels append, so they go on at the new end.
            file.truncate(0)
            self.position = 0


def _write_to_stderr(chunk: bytes) -> None:
    stream = sys.stderr
    if stream is None:
        return
    binary = getattr(stream, "buffer", None)
    if binary is None:
        stream.write(chunk.decode(errors="replace"))
    else:
        binary.write(chunk)
    stream.flush()
