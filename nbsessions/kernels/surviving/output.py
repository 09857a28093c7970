"""Copies what kernels print from their output files to the server's own output."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from typing import BinaryIO

LARGEST_FILE = 1_000_000
"""Size in bytes above which a file is emptied, once all of it has been passed on."""

_NOISE_FACTOR = 20
"""How many times larger a file may grow before it is emptied even while the kernel prints."""

_INTERVAL = 0.5
_CHUNK = 65536
_MOST_AT_ONCE = 1024 * _CHUNK
"""Bytes passed on for one kernel before the next kernel's turn. Without this limit, a kernel that
prints without pause would block the others."""


class KernelOutput:
    """Follows the output files of kernels in a thread of its own.

    That thread calls ``write`` with new output. The default writes to the server's stderr, where
    kernels of an unmodified Jupyter server print to.
    """

    def __init__(self, write: Callable[[bytes], object] | None = None) -> None:
        self._write = write or _write_to_stderr
        self._files: dict[str, _OutputFile] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self, kernel_id: str, open_file: Callable[[], BinaryIO], position: int = 0) -> None:
        """Pass on the file's contents from ``position`` on, until ``forget`` is called.

        ``open_file`` opens the file for reading and writing. It may raise OSError.
        A file that is followed already, as after a restart, keeps its current position.
        """
        with self._lock:
            if kernel_id not in self._files:
                self._files[kernel_id] = _OutputFile(open_file, position)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="nbsessions-output", daemon=True
                )
                self._thread.start()

    def forget(self, kernel_id: str) -> None:
        """Pass on the remaining output and stop following the file."""
        with self._lock:
            output_file = self._files.pop(kernel_id, None)
        if output_file is not None:
            output_file.pass_on(self._write)

    def position(self, kernel_id: str) -> int:
        """Return how many bytes of the file have been passed on."""
        output_file = self._files.get(kernel_id)
        return 0 if output_file is None else output_file.position

    def close(self) -> None:
        """Pass on the output that is in the files now, and end the thread. Idempotent."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        stopping = False
        while not stopping:
            stopping = self._stopped.wait(_INTERVAL)
            with self._lock:
                files = list(self._files.values())
            for each in files:
                each.pass_on(self._write)


class _OutputFile:
    """One kernel's output file, to which the kernel appends."""

    def __init__(self, open_file: Callable[[], BinaryIO], position: int) -> None:
        self._open = open_file
        self._lock = threading.Lock()
        self.position = position

    def pass_on(self, write: Callable[[bytes], object]) -> None:
        # Ignore a full disk, a missing file and a closed stderr. They must not harm a kernel.
        with (
            contextlib.suppress(OSError, ValueError),
            self._lock,
            self._open() as file,
        ):
            self._pass_on(file, write)

    def _pass_on(self, file: BinaryIO, write: Callable[[bytes], object]) -> None:
        if os.fstat(file.fileno()).st_size < self.position:
            self.position = 0  # The file was emptied by someone else.
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
        # Output that is printed between the last read and the truncation is lost. A file is
        # therefore emptied preferably while the kernel prints nothing.
        if self.position > LARGEST_FILE * (1 if quiet else _NOISE_FACTOR):
            # Kernels open the file for appending, so they continue at its new end.
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
