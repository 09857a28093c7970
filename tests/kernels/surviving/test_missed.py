"""What is told of the output that a client had missed."""

from __future__ import annotations

import json

import pytest
from jupyter_client.session import Session

from nbsessions.keeper.messages import CONTENT, HEADER, PARENT
from nbsessions.keeper.reading import LIMIT, Losses, SpoolReader
from nbsessions.keeper.records import Kind, Record
from nbsessions.kernels.surviving.missed import MissedOutput, MissedOutputs
from nbsessions.models import Missed
from nbsessions.private import PrivateFolder

SESSION = Session(key=b"secret")
SERVER = Session(key=b"secret")
CELL = SESSION.msg_header("execute_request")
QUESTION = SESSION.msg_header("kernel_info_request")


def record(
    kind: str,
    content: dict[str, object] | None = None,
    *,
    parent: dict[str, object] = CELL,
    channel: Kind = Kind.IOPUB,
    position: int = 5,
) -> Record:
    message = SESSION.msg(kind, content or {}, parent={"header": parent})
    _, *frames = SESSION.serialize(message)
    return Record(kind=channel, position=position, lines=0, key=b"", frames=frames)


@pytest.fixture
def missed() -> MissedOutput:
    return MissedOutput("a client")


def lose(missed: MissedOutput, loss: Losses, before: Record) -> None:
    """Let a reader find the loss before the record."""
    reader = SpoolReader(PrivateFolder("/nonexistent"), "a kernel", 0, 0)
    reader.gaps[before.position] = loss
    missed.take_losses(reader, before)
    assert not reader.gaps


def text_of(line: list[bytes] | None) -> str:
    assert line is not None
    message = SESSION.deserialize(SESSION.feed_identities(line)[1])
    assert message["parent_header"]["msg_id"] == CELL["msg_id"]
    assert (message["msg_type"], message["content"]["name"]) == ("stream", "stderr")
    # JupyterLab would drop messages if they came from different sessions.
    assert message["header"]["session"] == SESSION.session
    text: str = message["content"]["text"]
    return text


PLACES = {
    "what is printed": record("stream"),
    "a plot": record("display_data"),
    "a result": record("execute_result"),
    "an error": record("error"),
    "the end": record("status", {"execution_state": "idle"}),
}
OTHERS = {
    "the beginning": record("status", {"execution_state": "busy"}),
    "an update": record("update_display_data"),
    "a widget": record("comm_msg"),
    "a reply": record("stream", channel=Kind.SHELL),
    "what belongs to no cell": record("stream", parent=QUESTION),
    "another end": record("status", {"execution_state": "idle"}, parent=QUESTION),
    "nonsense": Record(
        kind=Kind.IOPUB, position=5, lines=0, key=b"", frames=[b"", b'{"msg_type":"stream"}', b"["]
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_line_tells_of_a_loss_once(missed: MissedOutput, place: str) -> None:
    lose(missed, Losses(messages=9, lines=1234, reason=LIMIT), PLACES[place])
    text = text_of(missed.line_before(PLACES[place], SERVER))
    assert text == f"[1,234 lines of output are missing: {LIMIT}.]\n"
    assert missed.line_before(PLACES[place], SERVER) is None


@pytest.mark.parametrize("other", OTHERS)
def test_the_line_waits_for_its_place(missed: MissedOutput, other: str) -> None:
    lose(missed, Losses(messages=1, lines=1, reason="the disk was full"), OTHERS[other])
    assert missed.line_before(OTHERS[other], SERVER) is None
    lose(missed, Losses(messages=1, lines=2, reason=LIMIT), PLACES["a plot"])
    text = text_of(missed.line_before(PLACES["a plot"], SERVER))
    assert text == f"[3 lines of output are missing: {LIMIT}.]\n"


def test_nothing_is_said_of_what_was_superseded(missed: MissedOutput) -> None:
    lose(missed, Losses(messages=100, reason=LIMIT), PLACES["a plot"])
    assert missed.line_before(PLACES["a plot"], SERVER) is None
    assert missed.summary().problem is None


def test_a_loss_of_unknown_size_is_told(missed: MissedOutput) -> None:
    lose(missed, Losses(messages=1, reason="nobody was there"), PLACES["the end"])
    text = text_of(missed.line_before(PLACES["the end"], SERVER))
    assert text == "[Output may be missing: nobody was there.]\n"


def test_all_is_summed_up(missed: MissedOutput) -> None:
    for each in (
        record("stream", {"text": "one\ntwo\n"}),
        PLACES["a plot"],
        PLACES["an error"],
        record("execute_reply", channel=Kind.SHELL),
    ):
        missed.count(each)
    lose(missed, Losses(messages=3, lines=1, reason=LIMIT), PLACES["a plot"])
    problem = f"1 line of output is missing: {LIMIT}."
    expected = Missed(client="a client", lines=3, lost=1, problem=problem, is_complete=False)
    assert missed.summary() == expected


def test_what_cannot_be_known_is_said(missed: MissedOutput) -> None:
    missed.fail("nobody was there")
    summary = missed.summary()
    assert summary.problem == "Output may be missing: nobody was there."
    assert (summary.lines, summary.lost, summary.is_complete) == (0, 0, True)


def test_the_last_connection_of_a_client_counts() -> None:
    outputs = MissedOutputs()
    outputs.begin("a").count(PLACES["a plot"])
    outputs.begin("b").count(PLACES["a plot"])
    outputs.begin("a")
    found = outputs.of(["a", "b", "c"])
    assert [(each.client, each.lines) for each in found] == [("a", 0), ("b", 1)]


def test_those_who_connected_long_ago_are_forgotten() -> None:
    outputs = MissedOutputs()
    names = [str(number) for number in range(1001)]
    for name in names:
        outputs.begin(name)
    assert [each.client for each in outputs.of(names)] == names[1:]


def test_the_line_is_like_what_a_kernel_says(missed: MissedOutput) -> None:
    lose(missed, Losses(messages=1, lines=1, reason=LIMIT), PLACES["the end"])
    line = missed.line_before(PLACES["the end"], SERVER)
    assert line is not None
    _, *frames = line
    assert json.loads(frames[PARENT]) == json.loads(PLACES["the end"].frames[PARENT])
    assert json.loads(frames[HEADER])["msg_type"] == "stream"
    assert set(json.loads(frames[CONTENT])) == {"name", "text"}
