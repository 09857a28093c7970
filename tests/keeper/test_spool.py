"""The files with what a kernel has said: they are bounded, and survive kills and full disks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nbsessions.keeper import records
from nbsessions.keeper.messages import HEADER, SIGNATURE, key_of
from nbsessions.keeper.records import Kind
from nbsessions.keeper.segments import offsets
from nbsessions.keeper.spool import Spool
from nbsessions.private import PrivateFolder
from support.spools import (
    EVERYTHING,
    KERNEL,
    Story,
    damage,
    encoded,
    files,
    files_of_at_most,
    make_message,
    read_all,
    size,
)

one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
LIMIT = 100_000


def positions(folder: PrivateFolder) -> list[int]:
    return [each.position for each in read_all(folder) if each.kind is not Kind.LOSS]


def read_reasons(folder: PrivateFolder) -> list[bytes]:
    """Return why messages are missing, as it is recorded."""
    found = []
    for file in files(folder):
        found.extend(file.read_bytes().split(b"because ")[1:])
    return found


# What is read back


@one_folder
@given(st.lists(st.lists(st.integers(0, LIMIT // 20), max_size=5), max_size=5))
def test_what_was_appended_is_read_back_after_restarts(
    folder: PrivateFolder, batches: list[list[int]]
) -> None:
    spool = Spool(folder, KERNEL, 10 * LIMIT)
    spool.remove()
    for batch in batches:
        story = Story(spool)
        assert story.position == len(read_all(folder))
        said = [each.frames for each in read_all(folder)]
        story.say(*(make_message("stream", each, lines=2) for each in batch))
        assert [each.frames for each in read_all(folder)] == said + list(story.said.values())
        assert (story.position, story.lines) == spool.open()
        spool.close()


def test_a_message_is_found_by_its_key(folder: PrivateFolder, story: Story, spool: Spool) -> None:
    for number in range(100):
        story.say(make_message("stream", LIMIT // 50, lines=number))
    index = spool.index()
    kept = {each.position: each for each in read_all(folder)}
    assert len(kept) < 100
    for position, message in story.said.items():
        key = key_of(message[SIGNATURE], message[HEADER])
        found = (position, kept[position].lines) if position in kept else None
        assert spool.find(key) == index.get(key) == found


def test_a_key_in_the_text_of_a_message_is_not_taken_for_that_message(
    story: Story, spool: Spool
) -> None:
    first = make_message("stream")
    key = key_of(first[SIGNATURE], first[HEADER])
    story.say(first, make_message("stream", text=key.decode() * 3))
    assert spool.find(key) == (1, 0)
    assert spool.find(b"x" * len(key)) is None


# Kills and damage


def test_a_record_that_a_kill_cut_short_loses_only_itself(
    folder: PrivateFolder, story: Story, spool: Spool
) -> None:
    story.say(make_message("stream", lines=1))
    story.say(make_message("stream", lines=1))
    spool.close()
    [file] = files(folder)
    data = file.read_bytes()
    for cut in range(len(data) + 1):
        file.write_bytes(data[:cut])
        after = Story(spool)
        before = positions(folder)
        assert before == [1, 2][: cut // (len(data) // 2)]
        assert after.position == len(before)
        after.say(make_message("stream"))
        assert positions(folder) == [*before, len(before) + 1]
        spool.close()


def test_a_damaged_byte_loses_no_later_segment(folder: PrivateFolder, story: Story) -> None:
    while len(files(folder)) < 3:
        story.say(make_message("stream", LIMIT // 30))
    first, *rest = map(positions_in, files(folder))
    later = [position for part in rest for position in part]
    for offset in range(0, files(folder)[0].stat().st_size, 101):
        damage(files(folder)[0], offset)
        found = positions(folder)
        assert found[-len(later) :] == later
        assert found[: -len(later)] == first[: len(found) - len(later)] != first
        damage(files(folder)[0], offset)


def positions_in(file: Path) -> list[int]:
    data = file.read_bytes()
    return [records.decode(data, start).position for start, _ in offsets(data)]


def test_damage_does_not_stop_a_spool_from_being_trimmed(
    folder: PrivateFolder, story: Story
) -> None:
    story.say(make_message("execute_input", 1000))
    damage(files(folder)[0], 250)
    for _ in range(200):
        story.say(make_message("stream", LIMIT // 30))
    assert size(folder) <= 1.2 * LIMIT


def test_a_kill_in_a_merge_leaves_no_file_for_ever(folder: PrivateFolder, story: Story) -> None:
    draft = folder.path / f"{KERNEL}.00000001.spool.draft"
    draft.write_bytes(b"half of it")
    story.spool.remove()
    assert not folder.list_names()


# The bound


@one_folder
@given(st.lists(st.integers(0, LIMIT // 2), max_size=60), st.booleans())
@example([LIMIT // 2] * 20, False)
@example([LIMIT // 10, LIMIT // 2] * 10, False)
@example([1, LIMIT // 2, 1, 1, LIMIT // 2], True)
def test_the_files_are_at_most_a_fifth_larger_than_the_limit(
    folder: PrivateFolder, sizes: list[int], reopened: bool
) -> None:
    spool = Spool(folder, KERNEL, LIMIT)
    spool.remove()
    story = Story(spool)
    for each in sizes:
        # With its head, a message of half the limit is larger than that.
        story.say(make_message("execute_input", max(0, each - 500)))
        assert size(folder) == spool.size() <= 1.2 * LIMIT
        if reopened:
            spool.close()
            spool.open()
    spool.close()


def test_the_newest_messages_are_kept_whole(folder: PrivateFolder, story: Story) -> None:
    for number in range(1000):
        story.say(make_message("stream", number * 7 % 3000))
    kept = read_all(folder)
    newest = [each for each in kept if each.position > 1000 - len(kept)]
    assert newest == kept
    assert sum(sum(map(len, each.frames)) for each in kept) > 0.8 * LIMIT


def test_a_limit_that_was_lowered_holds_from_then_on(folder: PrivateFolder, story: Story) -> None:
    for _ in range(200):
        story.say(make_message("stream", 1000))
    story.spool.limit = LIMIT // 10
    for _ in range(20):
        story.say(make_message("stream", 1000))
    assert size(folder) <= 1.2 * LIMIT / 10


def test_files_that_somebody_removed_are_missed_by_nobody(
    folder: PrivateFolder, story: Story
) -> None:
    while len(files(folder)) < 5:
        story.say(make_message("stream", LIMIT // 30))
    for file in files(folder)[:3]:
        file.unlink()
    for _ in range(200):
        story.say(make_message("stream", LIMIT // 30))
    assert positions(folder)[-1] == story.position
    assert size(folder) <= 1.2 * LIMIT


# Full disks


def test_a_write_that_the_system_cuts_short_is_continued(
    folder: PrivateFolder, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        os, "writev", lambda descriptor, parts: os.write(descriptor, b"".join(parts)[:7])
    )
    story.say(make_message("stream"), make_message("error"))
    assert positions(folder) == [1, 2]


def test_more_parts_than_the_system_writes_at_once_are_written(
    folder: PrivateFolder, spool: Spool, story: Story
) -> None:
    spool.limit = EVERYTHING
    story.say(*(make_message("stream") for _ in range(1000)))
    assert [each.frames for each in read_all(folder)] == list(story.said.values())


@pytest.mark.parametrize("room", [0, 1, 100, 1000])
def test_a_full_disk_leaves_the_files_whole_and_a_note(
    folder: PrivateFolder, story: Story, spool: Spool, room: int
) -> None:
    story.say(make_message("stream"))
    with files_of_at_most(size(folder) + room), pytest.raises(OSError, match="large"):
        story.say(make_message("stream", 2000), make_message("stream", 2000))
    assert positions(folder) == [1]
    assert size(folder) == spool.size()
    spool.note_loss("because the disk was full")
    story.say(make_message("stream"))
    story.say(make_message("stream"))
    assert positions(folder) == [1, 4, 5]
    assert len(read_reasons(folder)) == 1


def test_what_cannot_be_taken_back_spoils_nothing_that_follows(
    folder: PrivateFolder, story: Story, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    story.say(make_message("stream"))
    with monkeypatch.context() as broken, files_of_at_most(size(folder) + 100):
        broken.setattr(os, "ftruncate", lambda *_: os.write(-1, b""))
        with pytest.raises(OSError, match="large"):
            story.say(make_message("stream", 2000))
    story.say(make_message("stream"))
    assert positions(folder) == [1, 3]
    assert size(folder) == spool.size()


def test_a_spool_whose_oldest_part_cannot_be_rewritten_stays_bounded(
    folder: PrivateFolder, story: Story, spool: Spool
) -> None:
    # No new file can be as large as what matters of the old ones.
    with files_of_at_most(LIMIT // 10):
        for _ in range(200):
            story.say(make_message("execute_input", 1000))
    assert size(folder) <= 1.2 * LIMIT
    assert positions(folder)[-1] == 200


def test_no_descriptor_is_left(folder: PrivateFolder, story: Story) -> None:
    before = os.listdir("/proc/self/fd")
    for _ in range(100):
        story.say(make_message("stream", LIMIT // 30))
    assert os.listdir("/proc/self/fd") == before
    story.spool.close()
    story.spool.close()
    assert len(os.listdir("/proc/self/fd")) == len(before) - 1


# A lower limit


@one_folder
@given(st.lists(st.integers(1, LIMIT // 4), max_size=30), st.integers(LIMIT // 20, 2 * LIMIT))
@example([LIMIT // 4] * 30, LIMIT // 20)
@example([LIMIT // 30] * 2, LIMIT // 20)
def test_a_spool_with_a_lower_limit_keeps_the_newest_whole(
    folder: PrivateFolder, sizes: list[int], limit: int
) -> None:
    spool = Spool(folder, KERNEL, LIMIT)
    spool.remove()
    story = Story(spool)
    for each in sizes:
        story.say(make_message("stream", each, lines=1))
    before = read_all(folder)
    spool.limit = limit
    spool.shrink()
    after = read_all(folder)
    assert size(folder) == spool.size()
    if sum(_size(each) for each in before) > 1.1 * limit:
        assert spool.size() <= 1.1 * limit
    assert after == before[len(before) - len(after) :]
    dropped = before[: len(before) - len(after)]
    if dropped:
        # The one before would have been too much, or makes up most of its segment.
        assert _size(dropped[-1]) + sum(map(_size, after)) > limit - limit // 10
    story.say(make_message("stream", lines=1))
    assert read_all(folder)[-1].position == len(sizes) + 1
    spool.close()


def _size(record: records.Record) -> int:
    return len(encoded(record.kind, record.frames, position=record.position, lines=record.lines))


def test_what_a_page_needs_outlasts_a_lower_limit(
    folder: PrivateFolder, story: Story, spool: Spool
) -> None:
    begun = make_message("execute_input", code="1")
    story.say(begun)
    for _ in range(50):
        story.say(make_message("stream", LIMIT // 60))
    spool.limit = LIMIT // 4
    spool.shrink()
    assert read_all(folder)[0].frames == begun
    assert size(folder) <= 1.1 * spool.limit


def test_a_removed_spool_is_not_written_again(
    folder: PrivateFolder, story: Story, spool: Spool
) -> None:
    story.say(make_message("stream", LIMIT // 2))
    spool.remove()
    spool.limit = 0
    spool.shrink()
    assert files(folder) == []
