"""Reading a spool while a keeper writes it: in order, nothing twice, and each loss is counted."""

from __future__ import annotations

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nbsessions.keeper.messages import count_lines
from nbsessions.keeper.reading import LIMIT, Losses, SpoolReader, bytes_after
from nbsessions.keeper.records import Record
from nbsessions.keeper.spool import Spool
from nbsessions.private import PrivateFolder
from support.spools import (
    EVERYTHING,
    KERNEL,
    Story,
    damage,
    files,
    files_of_at_most,
    make_message,
    read_rest,
    size,
)

one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(0, 5_000)),
        st.tuples(st.just("keep"), st.integers(0, 3_000)),
        st.tuples(st.just("lose"), st.integers(1, 3)),
        st.tuples(st.just("read"), st.integers(1, 20_000)),
    ),
    max_size=150,
)


def check(story: Story, reader: SpoolReader, found: list[Record]) -> None:
    """Check that a reader has read everything or knows what is missing."""
    positions = [each.position for each in found]
    assert positions == sorted(set(positions))
    assert all(story.said[each.position] == each.frames for each in found)
    if reader.position == story.position:
        assert reader.losses.messages == len(story.said) - len(found)
        lines = sum(map(count_lines, story.said.values()))
        assert reader.losses.lines == lines - sum(count_lines(each.frames) for each in found)


def act(story: Story, step: str, number: int) -> None:
    if step == "say":
        story.say(make_message("stream", number, lines=number % 7))
    elif step == "keep":
        story.say(make_message("execute_input", number))
    else:
        for _ in range(number):
            story.lose()
        story.spool.note_loss("the test")


@one_folder
@given(steps)
def test_a_reader_beside_a_writer_misses_nothing_unnoticed(
    folder: PrivateFolder, steps: list[tuple[str, int]]
) -> None:
    spool = Spool(folder, KERNEL, 20_000)
    spool.remove()
    story, reader, found = Story(spool), SpoolReader(folder, KERNEL, 0, 0), []
    for step, number in steps:
        if step == "read":
            found.extend(reader.read(number))
        else:
            act(story, step, number)
    story.say(make_message("status"))
    found.extend(read_rest(reader))
    assert reader.position == story.position
    check(story, reader, found)
    reader.close()
    spool.close()


def test_a_reader_follows_a_writer_in_another_thread(folder: PrivateFolder) -> None:
    spool = Spool(folder, KERNEL, 100_000)
    story, reader, found = Story(spool), SpoolReader(folder, KERNEL, 0, 0), []

    def write() -> None:
        for number in range(1000):
            story.say(make_message("stream", 3 * number, lines=1))

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive() or reader.position < 1000:
        found.extend(reader.read(10_000))
    writer.join()
    check(story, reader, found)
    reader.close()
    spool.close()


def test_no_more_is_read_at_once_than_was_asked_for(folder: PrivateFolder, story: Story) -> None:
    for _ in range(30):
        story.say(make_message("stream", 1000))
    reader = SpoolReader(folder, KERNEL, 0, 0)
    assert len(reader.read(5_000)) == 5
    assert len(reader.read(1)) == 1
    assert len(reader.read(EVERYTHING)) == 24
    assert reader.read(EVERYTHING) == []
    reader.close()


def test_a_client_that_has_seen_a_part_gets_the_rest(folder: PrivateFolder, story: Story) -> None:
    for _ in range(9):
        story.say(make_message("stream", lines=2))
    reader = SpoolReader(folder, KERNEL, 6, 12)
    assert [each.position for each in reader.read(EVERYTHING)] == [7, 8, 9]
    assert reader.losses.messages == reader.losses.lines == 0
    reader.close()


def test_a_reader_begins_in_any_segment(folder: PrivateFolder, story: Story) -> None:
    while len(files(folder)) < 5:
        story.say(make_message("stream", 1500, lines=1))
    for position in range(story.position + 1):
        reader = SpoolReader(folder, KERNEL, position, position)
        found = [each.position for each in read_rest(reader)]
        assert found == list(range(position + 1, story.position + 1))
        assert reader.losses.messages == reader.losses.lines == 0
        reader.close()


def test_a_reader_says_why_messages_are_missing(folder: PrivateFolder, story: Story) -> None:
    reader = SpoolReader(folder, KERNEL, 0, 0)
    for _ in range(2):
        story.lose(make_message("stream", lines=5))
    story.spool.note_loss("the disk was full")
    story.say(make_message("stream", lines=1))
    assert len(reader.read(EVERYTHING)) == 1
    losses = reader.losses
    assert (losses.messages, losses.lines, losses.reason) == (2, 10, "the disk was full")
    reader.close()


def test_a_reader_says_where_messages_are_missing(folder: PrivateFolder, story: Story) -> None:
    reader = SpoolReader(folder, KERNEL, 0, 0)
    story.lose(make_message("stream", lines=5))
    story.spool.note_loss("the disk was full")
    story.say(make_message("stream", lines=1))
    story.lose(make_message("display_data"))
    story.say(make_message("stream", lines=1), make_message("stream", lines=1))
    read_rest(reader)
    assert reader.gaps == {
        2: Losses(messages=1, lines=5, reason="the disk was full"),
        4: Losses(messages=1, lines=1, reason=LIMIT),
    }
    reader.close()


def test_what_was_too_much_is_called_that(folder: PrivateFolder, story: Story) -> None:
    for _ in range(500):
        story.say(make_message("stream", 1000))
    reader = SpoolReader(folder, KERNEL, 0, 0)
    read_rest(reader)
    assert reader.losses.reason == LIMIT
    reader.close()


def test_an_earlier_loss_is_not_the_reader_s(folder: PrivateFolder, story: Story) -> None:
    story.lose()
    story.spool.note_loss("the disk was full")
    story.say(make_message("stream"), make_message("stream"))
    reader = SpoolReader(folder, KERNEL, 2, 1)
    assert [each.position for each in reader.read(EVERYTHING)] == [3]
    assert reader.losses.messages == 0
    assert not reader.losses.reason
    reader.close()


@pytest.mark.parametrize("cut", [1, 50, 150, 2000])
def test_what_the_writer_takes_back_is_not_read(
    folder: PrivateFolder, story: Story, cut: int
) -> None:
    reader = SpoolReader(folder, KERNEL, 0, 0)
    story.say(make_message("stream"))
    before = files(folder)[0].read_bytes()
    lost = b"".join(story.record(make_message("stream", 3000)).encode())
    files(folder)[0].write_bytes(before + lost[:cut])
    assert len(reader.read(EVERYTHING)) == 1
    files(folder)[0].write_bytes(before)
    story.say(make_message("error", 3000))
    assert [each.position for each in reader.read(EVERYTHING)] == [3]
    reader.close()


def test_a_full_disk_confuses_no_reader(folder: PrivateFolder, story: Story) -> None:
    reader, found = SpoolReader(folder, KERNEL, 0, 0), []
    for number in range(100):
        limit = 3_000 if number % 3 else 1_000_000
        with files_of_at_most(limit):
            try:
                story.say(make_message("stream", 700, lines=1))
            except OSError:
                story.spool.note_loss("the disk was full")
        found.extend(reader.read(EVERYTHING))
    story.say(make_message("stream"))
    found.extend(read_rest(reader))
    assert reader.position == story.position
    check(story, reader, found)
    reader.close()


def test_damage_costs_a_reader_the_rest_of_a_segment(folder: PrivateFolder, story: Story) -> None:
    reader, found = SpoolReader(folder, KERNEL, 0, 0), []
    while len(files(folder)) < 4:
        story.say(make_message("stream", 1500, lines=1))
    damage(files(folder)[1], 2000)
    found.extend(read_rest(reader))
    assert reader.position == story.position
    assert reader.losses.messages > 0
    check(story, reader, found)
    reader.close()


def test_segments_that_vanish_are_a_loss(folder: PrivateFolder, story: Story) -> None:
    reader, found = SpoolReader(folder, KERNEL, 0, 0), []
    while len(files(folder)) < 5:
        story.say(make_message("stream", 1500, lines=1))
    found.extend(reader.read(1))
    for file in files(folder)[:3]:
        file.unlink()
    found.extend(read_rest(reader))
    assert reader.position == story.position
    check(story, reader, found)
    reader.close()


def test_a_spool_that_does_not_exist_has_no_messages(folder: PrivateFolder) -> None:
    reader = SpoolReader(folder, "unknown", 0, 0)
    assert reader.read(EVERYTHING) == []
    reader.close()
    reader.close()


def test_what_follows_a_position_is_measured(folder: PrivateFolder, story: Story) -> None:
    ends = [0]
    while len(files(folder)) < 5:
        story.say(make_message("stream", 1500))
        ends.append(size(folder))
    for position, end in enumerate(ends):
        assert bytes_after(folder, KERNEL, position) == ends[-1] - end
    assert bytes_after(folder, "unknown", 0) == 0
