"""The output of kernels reaches the server's own output completely, once, and in order."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pytest

from nbsessions.kernels.surviving import output as output_module
from nbsessions.kernels.surviving.output import KernelOutput
from support.surviving import Processes
from support.waiting import wait_until

_COUNT = """
import sys, time
for number in range(int(sys.argv[1])):
    print(f"line {number} \\u20ac", flush=True)
    if sys.argv[2] and number % int(sys.argv[2]) == 0:
        sys.stdin.readline()
"""


class Written:
    """Collects the output that is written, or fails with ``error``."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.error: Exception | None = None

    def __call__(self, chunk: bytes) -> None:
        self.chunks.append(chunk)
        if self.error is not None:
            raise self.error

    def has(self, text: bytes) -> bool:
        return text in self.text

    @property
    def text(self) -> bytes:
        return b"".join(self.chunks)


@pytest.fixture
def written() -> Written:
    return Written()


@pytest.fixture
def output(written: Written, monkeypatch: pytest.MonkeyPatch) -> Iterator[KernelOutput]:
    """Follows files with a short polling interval."""
    monkeypatch.setattr(output_module, "_INTERVAL", 0.01)
    made = KernelOutput(written)
    yield made
    made.close()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    file = tmp_path / "kernel.log"
    file.touch()
    return file


def opener(file: Path) -> Callable[[], BinaryIO]:
    """Return a function that opens the file as the kernel records do."""
    return lambda: file.open("r+b", buffering=0)


def append(file: Path, text: bytes) -> None:
    """Append output to the file, like a kernel."""
    with file.open("ab") as opened:
        opened.write(text)


def counting(spawn: Processes, log: Path, lines: int, pause: str = "") -> subprocess.Popen[str]:
    """Start a process that prints lines, and at intervals waits for a line from the test."""
    with log.open("ab") as file:
        return spawn.child(
            sys.executable,
            *("-S", "-X", "utf8", "-c", _COUNT, str(lines), pause),
            stdin=subprocess.PIPE,
            stdout=file,
        )


def lines(count: int) -> bytes:
    return "".join(f"line {number} €\n" for number in range(count)).encode()


def ends_with(file: Path, text: bytes) -> bool:
    return file.read_bytes().endswith(text)


# Following


def test_all_that_a_process_prints_arrives_once_and_in_order(
    output: KernelOutput, written: Written, log: Path, spawn: Processes
) -> None:
    output.follow("a-kernel", opener(log))
    assert counting(spawn, log, 5000).wait() == 0
    output.close()
    assert written.text == lines(5000)
    assert output.position("a-kernel") == log.stat().st_size


def test_nothing_is_lost_when_the_file_is_emptied(
    output: KernelOutput,
    written: Written,
    log: Path,
    spawn: Processes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(output_module, "LARGEST_FILE", 300)
    output.follow("a-kernel", opener(log))
    followed = output._files["a-kernel"]
    process = counting(spawn, log, 1000, "100")
    assert process.stdin is not None
    for number in range(0, 1000, 100):
        mark = f"line {number} €\n".encode()
        # Hold the lock while the process prints, so that a pause is not mistaken for silence.
        with followed._lock:
            if number:
                process.stdin.write("\n")
                process.stdin.flush()
            wait_until(partial(ends_with, log, mark), "it has printed, and waits")
        if number:
            wait_until(lambda: log.stat().st_size == 0, "the file was emptied")
    with followed._lock:
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.wait() == 0
    output.close()
    assert written.text == lines(1000)
    assert log.stat().st_size < 4000


def test_a_file_is_not_emptied_while_its_kernel_prints(
    log: Path, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_module, "LARGEST_FILE", 10)
    followed = output_module._OutputFile(opener(log), 0)
    append(log, b"x" * 11)
    followed.pass_on(written)
    assert log.stat().st_size == 11
    followed.pass_on(written)  # finds no new output
    assert log.stat().st_size == 0


def test_a_file_that_is_far_too_large_is_emptied_all_the_same(
    log: Path, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_module, "LARGEST_FILE", 10)
    followed = output_module._OutputFile(opener(log), 0)
    append(log, b"x" * 201)
    followed.pass_on(written)
    assert (log.stat().st_size, followed.position) == (0, 0)
    assert written.text == b"x" * 201


def test_several_kernels_are_followed(
    output: KernelOutput, written: Written, tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        append(tmp_path / name, f"of {name}\n".encode())
        output.follow(name, opener(tmp_path / name))
    output.close()
    assert sorted(written.chunks) == [b"of a\n", b"of b\n", b"of c\n"]


def test_characters_are_not_broken_where_chunks_are(
    output: KernelOutput, written: Written, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_module, "_CHUNK", 5)
    text = "€äß😀" * 100
    append(log, text.encode())
    output.follow("a-kernel", opener(log))
    output.close()
    assert written.text.decode() == text


def test_bytes_that_are_no_text_arrive_as_they_are(
    output: KernelOutput, written: Written, log: Path
) -> None:
    append(log, b"\xff\x00\xe2\x82")
    output.follow("a-kernel", opener(log))
    output.close()
    assert written.text == b"\xff\x00\xe2\x82"


def test_a_position_is_gone_on_from(output: KernelOutput, written: Written, log: Path) -> None:
    append(log, b"seen before, new")
    output.follow("a-kernel", opener(log), len(b"seen before, "))
    output.close()
    assert written.text == b"new"


def test_a_position_behind_the_end_means_that_the_file_was_emptied(
    output: KernelOutput, written: Written, log: Path
) -> None:
    append(log, b"new")
    output.follow("a-kernel", opener(log), 1000)
    output.close()
    assert written.text == b"new"
    assert output.position("a-kernel") == 3


def test_a_kernel_that_is_followed_already_goes_on_where_it_is(
    output: KernelOutput, written: Written, log: Path
) -> None:
    append(log, b"first, ")
    output.follow("a-kernel", opener(log))
    wait_until(lambda: output.position("a-kernel") == 7, "the first part has arrived")
    output.follow("a-kernel", opener(log), 0)
    append(log, b"second")
    output.close()
    assert written.text == b"first, second"


def test_a_kernel_that_prints_without_end_does_not_keep_the_others_from_their_turn(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_module, "_MOST_AT_ONCE", 100)
    monkeypatch.setattr(output_module, "_CHUNK", 10)
    followed = output_module._OutputFile(opener(log), 0)
    append(log, b"x" * 10)

    def print_again(chunk: bytes) -> None:
        assert followed.position <= 200
        append(log, chunk)

    followed.pass_on(print_again)
    assert followed.position == 100


def test_unknown_kernels_are_at_the_beginning(output: KernelOutput) -> None:
    assert output.position("unknown") == 0


# Closing


def test_forgetting_passes_on_the_rest_and_no_more(
    output: KernelOutput, written: Written, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_module, "_INTERVAL", 3600.0)
    output.follow("a-kernel", opener(log))
    append(log, b"the rest")
    output.forget("a-kernel")
    assert written.text == b"the rest"
    append(log, b", and more")
    output.forget("a-kernel")
    output.close()
    assert written.text == b"the rest"
    assert output.position("a-kernel") == 0


def test_closing_passes_on_what_is_there_and_ends_the_thread(written: Written, log: Path) -> None:
    output = KernelOutput(written)
    output.follow("a-kernel", opener(log))
    thread = output._thread
    assert thread is not None
    assert thread.is_alive()
    append(log, b"the last words")
    output.close()
    output.close()
    assert written.text == b"the last words"
    assert not thread.is_alive()


def test_without_kernels_there_is_no_thread(written: Written) -> None:
    output = KernelOutput(written)
    assert output._thread is None
    output.close()


# Faults


def test_a_missing_file_is_waited_for(
    output: KernelOutput, written: Written, tmp_path: Path
) -> None:
    file = tmp_path / "later"
    output.follow("a-kernel", opener(file))
    append(file, b"here")
    output.close()
    assert written.text == b"here"
    file.unlink()
    output.forget("a-kernel")


@pytest.mark.parametrize(
    "error", [OSError("no space left"), BrokenPipeError(), ValueError("write to closed file")]
)
def test_an_output_that_fails_ends_nothing(
    output: KernelOutput, written: Written, log: Path, error: Exception
) -> None:
    written.error = error
    output.follow("a-kernel", opener(log))
    append(log, b"lost, ")
    wait_until(lambda: written.chunks, "it was tried")
    written.error = None
    append(log, b"kept")
    wait_until(lambda: written.text.endswith(b"kept"), "the next has arrived")
    assert written.text == b"lost, kept"


def test_a_full_disk_ends_nothing(log: Path, written: Written) -> None:
    written.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    output = KernelOutput(written)
    append(log, b"lost")
    output.follow("a-kernel", opener(log))
    output.close()
    assert output.position("a-kernel") == 4


# The server's own output


def printed(monkeypatch: pytest.MonkeyPatch, stream: object, log: Path) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    output = KernelOutput()
    append(log, "caf\u00e9\n".encode())
    output.follow("a-kernel", opener(log))
    output.close()
    monkeypatch.undo()


def test_kernels_print_to_the_servers_stderr(monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    printed(monkeypatch, stream, log)
    stream.buffer.seek(0)
    assert stream.buffer.read() == "café\n".encode()


def test_a_stderr_that_takes_text_only_gets_text(
    monkeypatch: pytest.MonkeyPatch, log: Path
) -> None:
    stream = io.StringIO()
    printed(monkeypatch, stream, log)
    assert stream.getvalue() == "café\n"


def test_a_server_without_stderr_prints_nothing(
    monkeypatch: pytest.MonkeyPatch, log: Path
) -> None:
    printed(monkeypatch, None, log)


def test_a_stderr_that_is_closed_is_no_error(monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    stream = io.TextIOWrapper(io.BytesIO())
    stream.close()
    printed(monkeypatch, stream, log)
