"""What a server has sent is known after its death, however sudden that was."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nbsessions.keeper.marks import ANSWERED, IOPUB, REPLY, Mark, delivered
from nbsessions.private import PrivateFolder
from support.kills import key_at, note_without_end
from support.spools import files_of_at_most
from support.store_processes import other_process
from support.waiting import wait_until

NAME = "a-connection"
sizes = st.lists(st.tuples(st.integers(1, 100), st.integers(0, 150)), max_size=80)


def data_in(folder: PrivateFolder) -> bytes:
    try:
        return (folder.path / NAME).read_bytes()
    except FileNotFoundError:
        return b""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes, st.integers(2, 8), st.data())
def test_what_was_accepted_is_what_was_delivered(
    folder: PrivateFolder, sizes: list[tuple[int, int]], capacity: int, data: st.DataObject
) -> None:
    mark = Mark(folder, NAME, capacity)
    noted: list[tuple[int, bytes]] = []
    end = done = 0
    for number, (size, accepted) in enumerate(sizes):
        done = min(end, done + accepted)
        end += size
        kind = (IOPUB, REPLY, ANSWERED)[number % 3]
        mark.note(kind, key_at(end), end, done)
        noted.append((kind, key_at(end)))
    mark.close()
    accepted = data.draw(st.integers(done, end))
    fitting = [(kind, key) for kind, key in noted if int(key) <= accepted][::-1]
    found = delivered(data_in(folder), accepted)
    assert found == fitting[: len(found)]
    assert len(found) >= min(1, len(fitting))
    # Whatever may not have been accepted by now has not been overwritten.
    assert len(found) >= len([key for _, key in fitting if int(key) > done])
    known = [(kind, key) for kind, key in noted if int(key) <= done][::-1]
    assert delivered(data_in(folder), None) == known[: len(delivered(data_in(folder), None))]


def test_a_mark_grows_for_a_client_that_takes_nothing(folder: PrivateFolder) -> None:
    mark = Mark(folder, NAME, 2)
    for number in range(1, 1001):
        mark.note(IOPUB, key_at(number), number, 0)
    assert len(delivered(data_in(folder), 1000)) == 1000
    assert folder.list_names() == [NAME]
    large = len(data_in(folder))
    for number in range(1001, 5001):
        mark.note(IOPUB, key_at(number), number, number - 1)
    assert len(data_in(folder)) == large
    assert delivered(data_in(folder), 4999)[0] == (IOPUB, key_at(4999))
    mark.close()


def test_without_room_to_grow_what_was_noted_stays(folder: PrivateFolder) -> None:
    mark = Mark(folder, NAME, 100)
    for number in range(1, 101):
        mark.note(IOPUB, key_at(number), number, 0)
    with files_of_at_most(len(data_in(folder))), pytest.raises(OSError, match="large"):
        mark.note(IOPUB, key_at(101), 101, 0)
    assert len(delivered(data_in(folder), 1000)) == 100
    mark.note(IOPUB, key_at(101), 101, 0)
    assert len(delivered(data_in(folder), 1000)) == 101
    mark.close()


@pytest.mark.parametrize("slow", [False, True])
def test_a_mark_can_be_read_after_a_kill_at_any_moment(folder: PrivateFolder, slow: bool) -> None:
    chance = random.Random(slow)
    for _ in range(3):
        with other_process() as other:
            other.tell(note_without_end, folder.path, NAME, slow)
            wait_until(lambda: len(delivered_or_none(data_in(folder))) > 3, "it has noted some")
            wait_until(lambda: chance.random() < 0.3, "it is time")
            other.kill()
        entries = delivered(data_in(folder), 2**62)
        keys = [key for kind, key in entries if kind == IOPUB]
        # The oldest may be overwritten, even in part, by one that was not counted yet.
        ends = list(map(int, keys if slow else keys[:-1]))
        assert ends == list(range(ends[0], ends[0] - 10 * len(ends), -10))
        assert delivered(data_in(folder), ends[1])[0] == (IOPUB, key_at(ends[1]))
        (folder.path / NAME).unlink()


def delivered_or_none(data: bytes) -> list[tuple[int, bytes]]:
    try:
        return delivered(data, 2**62)
    except ValueError:
        return []


@given(st.binary(max_size=200))
def test_other_data_is_no_mark(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a mark"):
        delivered(data, 0)


def test_a_mark_that_was_cut_short_is_no_mark(folder: PrivateFolder) -> None:
    mark = Mark(folder, NAME, 4)
    for number in range(1, 5):
        mark.note(IOPUB, key_at(number), number, number)
    mark.close()
    data = data_in(folder)
    for cut in range(len(data)):
        with pytest.raises(ValueError, match="not a mark"):
            delivered(data[:cut], 0)


def test_a_mark_leaves_no_descriptor(folder: PrivateFolder) -> None:
    before = os.listdir("/proc/self/fd")
    mark = Mark(folder, NAME, 2)
    for number in range(10):
        mark.note(IOPUB, key_at(number), number, 0)
    mark.close()
    mark.close()
    assert os.listdir("/proc/self/fd") == before
