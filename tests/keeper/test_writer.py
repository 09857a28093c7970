"""The thread that writes spools: in order, bounded, and not stopped by slow or full disks."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from nbsessions.keeper.reading import SpoolReader
from nbsessions.keeper.records import Unwritten
from nbsessions.keeper.spool import Spool
from nbsessions.keeper.writer import SLOW_DISK, Writer
from nbsessions.private import PrivateFolder
from support.spools import (
    KERNEL,
    Story,
    files_of_at_most,
    make_message,
    read_all,
    read_rest,
    size,
)

LIMIT = 2_000_000
LOG = logging.getLogger("nbsessions.tests.keeper")


class SlowSpool(Spool):
    """A spool on a disk that is stuck until it is told to go on."""

    def __init__(self, folder: PrivateFolder, kernel_id: str, limit: int) -> None:
        super().__init__(folder, kernel_id, limit)
        self.go_on = threading.Event()
        self.begun = threading.Event()
        self.batches: list[int] = []

    def append(self, batch: Sequence[Unwritten]) -> None:
        self.begun.set()
        assert self.go_on.wait(60)
        self.batches.append(sum(each.size for each in batch))
        super().append(batch)


class Loop:
    """Calls what a writer has done, in this thread."""

    def __init__(self) -> None:
        self.done: queue.Queue[Callable[[], None]] = queue.Queue()

    def next(self) -> None:
        self.done.get(timeout=60)()


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def writer(loop: Loop) -> Iterator[Writer]:
    made = Writer(loop.done.put, log=LOG)
    yield made
    made.close(60)


@pytest.fixture
def slow(folder: PrivateFolder) -> Iterator[SlowSpool]:
    """A spool whose disk is stuck."""
    made = SlowSpool(folder, KERNEL, LIMIT)
    yield made
    made.go_on.set()


def finish(writer: Writer, loop: Loop) -> None:
    """Wait until all that is queued has been done."""
    writer.run(lambda: None, lambda _: None)
    loop.next()


def test_what_is_queued_is_done_in_its_order(
    folder: PrivateFolder, slow: SlowSpool, writer: Writer, loop: Loop
) -> None:
    story, seen = Story(slow), []
    for number in range(20):
        writer.append(slow, story.record(make_message("stream", 100)))
        if number % 5 == 4:
            writer.run(lambda: len(read_all(folder)), seen.append)
    slow.go_on.set()
    for _ in range(4):
        loop.next()
    assert seen == [5, 10, 15, 20]
    assert [each.frames for each in read_all(folder)] == list(story.said.values())


def test_the_spools_of_several_kernels_are_not_mixed_up(
    folder: PrivateFolder, writer: Writer, loop: Loop
) -> None:
    stories = [Story(Spool(folder, name, LIMIT)) for name in ("a", "b")]
    for _ in range(100):
        for story in stories:
            writer.append(story.spool, story.record(make_message("stream", 100)))
    finish(writer, loop)
    for story in stories:
        reader = SpoolReader(folder, story.spool.kernel_id, 0, 0)
        assert [each.frames for each in read_rest(reader)] == list(story.said.values())
        reader.close()
        story.spool.close()


def test_a_slow_disk_costs_the_oldest_of_what_was_printed(
    folder: PrivateFolder, writer: Writer, loop: Loop
) -> None:
    slow = SlowSpool(folder, KERNEL, 100_000_000)
    story = Story(slow)
    writer.append(slow, story.record(make_message("stream", lines=3)))
    assert slow.begun.wait(60)
    for number in range(2, 252):
        kind = "stream" if number % 50 else "error"
        writer.append(slow, story.record(make_message(kind, 100_000, lines=3)))
    slow.go_on.set()
    finish(writer, loop)
    reader = SpoolReader(folder, KERNEL, 0, 0)
    found = [each.position for each in read_rest(reader)]
    reader.close()
    slow.close()
    assert 60 < len(found) <= 125
    newest = [each for each in found if each > 200]
    assert newest == list(range(201, 252))
    # What a page needs outlasts what was printed. The first one was being written.
    assert set(found) >= {1, 50, 100, 150, 200, 250}
    assert reader.losses.messages == 251 - len(found)
    assert reader.losses.lines == 3 * reader.losses.messages
    assert {gap.reason for gap in reader.gaps.values()} == {SLOW_DISK}


def test_a_kernel_that_has_stopped_printing_loses_nothing_to_those_that_go_on(
    folder: PrivateFolder, writer: Writer, loop: Loop
) -> None:
    spools = [SlowSpool(folder, name, 100_000_000) for name in ("a", "b", "c")]
    stories = [Story(each) for each in spools]
    writer.append(spools[0], stories[0].record(make_message("stream")))
    assert spools[0].begun.wait(60)
    for number in range(400):
        for spool, story in zip(spools[: 3 if number < 10 else 2], stories, strict=False):
            writer.append(spool, story.record(make_message("stream", 100_000)))
    for each in spools:
        each.go_on.set()
    finish(writer, loop)
    found = []
    for each in spools:
        reader = SpoolReader(folder, each.kernel_id, 0, 0)
        found.append(len(read_rest(reader)))
        reader.close()
        each.close()
    assert found[2] == 10
    assert all(20 < count < 70 for count in found[:2])


def test_what_is_being_written_counts_when_room_is_made(
    folder: PrivateFolder, writer: Writer, loop: Loop
) -> None:
    slow = SlowSpool(folder, KERNEL, 100_000_000)
    story = Story(slow)
    writer.append(slow, story.record(make_message("stream", 9_000_000)))
    assert slow.begun.wait(60)
    for _ in range(50):
        writer.append(slow, story.record(make_message("stream", 100_000)))
    slow.go_on.set()
    finish(writer, loop)
    found = [each.position for each in read_all(folder)]
    slow.close()
    assert found[0] == 1
    assert found[-1] == 51


def test_what_a_page_needs_is_lost_last(folder: PrivateFolder, writer: Writer, loop: Loop) -> None:
    slow = SlowSpool(folder, KERNEL, 100_000_000)
    story = Story(slow)
    for _ in range(250):
        writer.append(slow, story.record(make_message("error", 100_000)))
    assert slow.begun.wait(60)
    slow.go_on.set()
    finish(writer, loop)
    writer.append(slow, story.record(make_message("stream")))
    finish(writer, loop)
    reader = SpoolReader(folder, KERNEL, 0, 0)
    found = [each.position for each in read_rest(reader)]
    reader.close()
    slow.close()
    assert len(found) > 110
    assert found == [*range(1, len(found)), 251]
    assert (reader.losses.messages, reader.losses.reason) == (251 - len(found), SLOW_DISK)


def test_a_note_of_a_loss_follows_what_was_queued_before_it(
    folder: PrivateFolder, slow: SlowSpool, writer: Writer, loop: Loop
) -> None:
    story = Story(slow)
    writer.append(slow, story.record(make_message("stream")))
    assert slow.begun.wait(60)
    # The first one is being written. This must not be forgotten when that is done.
    writer.append(slow, story.record(make_message("stream")))
    story.lose()
    writer.note_loss(slow, "it was too large")
    writer.append(slow, story.record(make_message("stream")))
    slow.go_on.set()
    finish(writer, loop)
    reader = SpoolReader(folder, KERNEL, 2, 0)
    assert [each.position for each in reader.read(LIMIT)] == [4]
    assert reader.losses.reason == "it was too large"
    reader.close()


def test_batches_keep_the_files_within_their_bound(
    folder: PrivateFolder, slow: SlowSpool, writer: Writer, loop: Loop
) -> None:
    story = Story(slow)
    for _ in range(200):
        writer.append(slow, story.record(make_message("stream", 40_000)))
    slow.go_on.set()
    finish(writer, loop)
    assert max(slow.batches) < 0.2 * LIMIT
    assert len(slow.batches) < 100
    assert size(folder) <= 1.2 * LIMIT


def test_a_full_disk_is_reported_once_and_stops_nothing(
    folder: PrivateFolder,
    slow: SlowSpool,
    writer: Writer,
    loop: Loop,
    caplog: pytest.LogCaptureFixture,
) -> None:
    story = Story(slow)
    slow.go_on.set()
    with files_of_at_most(10):
        for _ in range(5):
            writer.append(slow, story.record(make_message("stream", lines=1)))
            finish(writer, loop)
    writer.append(slow, story.record(make_message("stream")))
    finish(writer, loop)
    reader = SpoolReader(folder, KERNEL, 0, 0)
    assert [each.position for each in reader.read(LIMIT)] == [6]
    assert (reader.losses.messages, reader.losses.lines) == (5, 5)
    assert "too large" in reader.losses.reason
    reader.close()
    assert [each.levelname for each in caplog.records] == ["WARNING"]


def test_work_that_fails_tells_why(writer: Writer, loop: Loop) -> None:
    results: list[object] = []

    def fail() -> None:
        raise OSError("no")

    writer.run(fail, results.append)
    loop.next()
    assert [str(each) for each in results] == ["no"]


def test_closing_writes_what_is_queued(folder: PrivateFolder, slow: SlowSpool, loop: Loop) -> None:
    writer = Writer(loop.done.put, log=LOG)
    story = Story(slow)
    for _ in range(100):
        writer.append(slow, story.record(make_message("stream", 100)))
    slow.go_on.set()
    writer.close(60)
    writer.close(60)
    assert len(read_all(folder)) == 100
    slow.close()


def test_closing_waits_for_a_stuck_disk_only_so_long(slow: SlowSpool, loop: Loop) -> None:
    writer = Writer(loop.done.put, log=LOG)
    writer.append(slow, Story(slow).record(make_message("stream")))
    writer.close(0.01)
    assert not slow.batches
    slow.go_on.set()
    writer.close(60)
    assert slow.batches
    slow.close()
