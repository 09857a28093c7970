"""What is stored of clients, and what marks say about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbsessions.keeper.clients import (
    MOST_AWAY,
    Client,
    ClientFile,
    Sent,
    encode,
    examine,
    first_needed,
    longest_away,
)
from nbsessions.keeper.marks import ANSWERED, IOPUB, REPLY, Mark
from nbsessions.keeper.messages import HEADER, SIGNATURE, key_of
from nbsessions.keeper.spool import Spool
from nbsessions.private import PrivateFolder
from support.spools import Story, make_message

NAME = "a-connection"


def mark_of(folder: PrivateFolder, *noted: tuple[int, bytes]) -> bytes:
    """Return a mark with messages of ten bytes."""
    mark = Mark(folder, NAME)
    for number, (kind, key) in enumerate(noted, 1):
        mark.note(kind, key, 10 * number, 0)
    mark.close()
    return Path(folder.path, NAME).read_bytes()


def say(story: Story, count: int) -> list[bytes]:
    """Let the kernel say something. Return the keys."""
    messages = [make_message("stream", lines=1) for _ in range(count)]
    story.say(*messages)
    return [key_of(each[SIGNATURE], each[HEADER]) for each in messages]


def test_the_newest_message_that_was_sent_counts(
    folder: PrivateFolder, story: Story, spool: Spool
) -> None:
    keys = say(story, 5)
    mark = mark_of(folder, (IOPUB, keys[0]), (REPLY, keys[1]), (IOPUB, keys[2]))
    for accepted, position in ((0, 0), (9, 0), (10, 1), (25, 2), (30, 3), (1000, 3)):
        key = keys[position - 1] if position else b""
        found = examine(mark, accepted, spool, newest=True)
        assert found == Sent(position=position, lines=position, key=key)


def test_replies_of_the_kernel_are_told_in_order(
    folder: PrivateFolder, story: Story, spool: Spool
) -> None:
    keys = say(story, 1)
    answers = [f"{number:032d}".encode() for number in range(3)]
    mark = mark_of(folder, *((ANSWERED, each) for each in answers), (IOPUB, keys[0]))
    found = examine(mark, 40, spool, newest=True)
    assert found is not None
    assert found.answered == tuple(each.decode() for each in answers)
    assert found.position == 1


def test_a_message_that_has_not_arrived_is_waited_for_and_then_left_out(
    folder: PrivateFolder, story: Story, spool: Spool
) -> None:
    keys = say(story, 2)
    mark = mark_of(folder, *((IOPUB, key) for key in keys), (IOPUB, b"not arrived".ljust(32)))
    assert examine(mark, 30, spool, newest=True) is None
    assert examine(mark, 30, spool, newest=False) == Sent(position=2, lines=2, key=keys[1])


@pytest.mark.parametrize("accepted", [20, 40, 50])
def test_a_message_that_is_no_longer_kept_is_found_by_what_was_known_earlier(
    folder: PrivateFolder, story: Story, spool: Spool, accepted: int
) -> None:
    keys = say(story, 5)
    mark = mark_of(folder, *((IOPUB, key) for key in keys))
    earlier = examine(mark, 40, spool, newest=False)
    spool.remove()
    spool.open()
    found = examine(mark, accepted, spool, newest=False, earlier=earlier)
    assert found is not None
    assert (found.position, found.lines) == (accepted // 10, 4)
    unknown = examine(mark, accepted, spool, newest=False)
    assert unknown is not None
    assert unknown.position == 0


def test_other_files_are_no_marks(spool: Spool) -> None:
    with pytest.raises(ValueError, match="not a mark"):
        examine(b"nonsense", None, spool, newest=True)


def test_clients_are_stored_for_the_next_keeper(folder: PrivateFolder) -> None:
    file = ClientFile(folder)
    stored = [
        Client(session_id="ä/../", position=3, lines=2, answered=["a"], connection="c"),
        Client(session_id="", position=0, away_since=1.5, settling=["s"]),
    ]
    file.write("k", encode(stored))
    first, second = file.read("k")
    assert first == stored[0]
    assert (second.connection, second.away_since) == ("s", 1.5)
    assert folder.list_names() == ["k.json"]
    file.remove("k")
    file.remove("k")
    assert list(file.read("k")) == []


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"c": {}}', b'{"c": {"position": "1"}}'])
def test_what_cannot_be_read_is_no_client(folder: PrivateFolder, data: bytes) -> None:
    ClientFile(folder).write("k", data)
    assert list(ClientFile(folder).read("k")) == []


def test_a_client_that_got_an_old_message_again_is_not_set_back() -> None:
    client = Client(session_id="c", position=5, lines=5, settling=["s"])
    client.take_over("s", Sent(position=3, lines=3, answered=("a",)))
    assert (client.position, client.lines, client.settling) == (5, 5, [])
    client.settling.append("t")
    client.take_over("t", Sent(position=7, lines=6, answered=tuple("b" * 200)))
    assert (client.position, client.lines) == (7, 6)
    assert client.answered == ["b"] * 100


def test_messages_are_needed_after_the_first_position_of_those_that_are_away() -> None:
    clients = [
        Client(session_id="connected", position=1),
        Client(session_id="unknown", position=2, away_since=1.0, settling=["s"]),
        Client(session_id="ending", position=2, away_since=1.0, connection="c"),
    ]
    assert first_needed(clients) is None
    away = [Client(session_id=f"{each}", position=each, away_since=1.0) for each in (5, 3, 4)]
    assert first_needed([*clients, *away]) == 3


def test_those_that_were_away_for_longest_are_too_many() -> None:
    clients = [
        Client(session_id=f"{number}", position=0, away_since=float(number % 7 + 1))
        for number in range(MOST_AWAY + 3)
    ]
    present = Client(session_id="present", position=0)
    assert longest_away([present, *clients[:MOST_AWAY]]) == []
    gone = longest_away([present, *clients])
    assert [each.away_since for each in gone] == [1.0, 1.0, 1.0]
