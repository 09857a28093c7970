"""What is kept of the oldest messages, and what goes first."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbsessions.keeper import records
from nbsessions.keeper.compaction import compact
from nbsessions.keeper.messages import CONTENT, HEADER, type_of
from nbsessions.keeper.records import HEAD_SIZE, Kind, Record
from nbsessions.keeper.segments import offsets
from support.spools import EVERYTHING, encoded, make_message

Message = list[bytes]


def shown(message_type: str, display_id: str) -> Message:
    return make_message(message_type, 500, data={}, transient={"display_id": display_id})


def state(execution_state: str) -> Message:
    return make_message("status", execution_state=execution_state)


ESSENTIAL = {
    "input": make_message("execute_input", 300, code="1"),
    "error": make_message("error", 300, ename="E"),
    "clear": make_message("clear_output", 300, wait=True),
    "comm": make_message("comm_open", 300, comm_id="c"),
    "display": shown("display_data", "d"),
}
LESS = {
    "picture": make_message("display_data", 300, data={}),
    "result": make_message("execute_result", 300, data={}),
    "update": shown("update_display_data", "d"),
    "widget": make_message("comm_msg", 300, comm_id="c"),
}
PRINTED = {
    "stream": make_message("stream", 300, lines=3),
    "debug": make_message("debug_event", 300),
    "busy": state("busy"),
    "welcome": make_message("iopub_welcome", 300),
}


def segment_of(messages: list[Message], kind: Kind = Kind.IOPUB) -> bytes:
    return b"".join(
        encoded(kind, message, position=number, lines=0)
        for number, message in enumerate(messages, 1)
    )


def compacted(messages: list[Message], limit: int = EVERYTHING) -> list[Message]:
    return [each.frames for each in decoded(compact([segment_of(messages)], limit))]


def decoded(data: bytes) -> list[Record]:
    return [records.decode(data, start) for start, _ in offsets(data)]


@pytest.mark.parametrize("name", PRINTED)
def test_what_was_only_printed_goes_first(name: str) -> None:
    assert compacted([PRINTED[name]]) == []


@pytest.mark.parametrize("name", [*ESSENTIAL, *LESS])
def test_the_rest_is_kept_while_there_is_room(name: str) -> None:
    message = {**ESSENTIAL, **LESS}[name]
    assert compacted([message, PRINTED["stream"], message]) == [message, message]


def test_the_end_of_a_cell_is_kept() -> None:
    end = state("idle")
    assert compacted([state("busy"), end, state("starting")]) == [end]


@pytest.mark.parametrize("essential", ESSENTIAL)
@pytest.mark.parametrize("less", LESS)
def test_what_a_page_needs_outlasts_what_it_can_do_without(essential: str, less: str) -> None:
    first, second = ESSENTIAL[essential], LESS[less]
    room = len(segment_of([first]))
    assert compacted([first, second], room) == [first]
    assert compacted([second, first], room) == [first]


def test_replies_outlast_what_a_page_can_do_without() -> None:
    reply = segment_of([make_message("execute_reply", 300)], Kind.SHELL)
    [kept] = decoded(compact([reply, segment_of([LESS["widget"]])], len(reply)))
    assert kept.kind is Kind.SHELL


def test_without_room_for_what_matters_the_oldest_goes() -> None:
    messages = [make_message("execute_input", 300, code=str(number)) for number in range(10)]
    room = len(segment_of(messages[:4]))
    assert compacted(messages, room) == messages[-4:]
    assert compacted(messages, 10) == []


def test_later_updates_replace_earlier_ones_of_the_same_display() -> None:
    updates = [shown("update_display_data", name) for name in "ab" * 100]
    opened = [shown("display_data", name) for name in "ab"]
    kept = compacted([*opened, *updates])
    assert kept[:2] == opened
    assert kept[-2:] == updates[-2:]
    assert len(kept) < 50


def test_a_note_of_a_loss_is_kept() -> None:
    loss = encoded(Kind.LOSS, [b"because"], position=3, lines=1)
    assert compact([loss, segment_of([PRINTED["stream"]])], EVERYTHING) == loss


@given(
    st.lists(st.sampled_from([*ESSENTIAL.values(), *LESS.values(), *PRINTED.values()])),
    st.integers(0, 20_000),
)
def test_what_is_kept_is_in_order_and_fits(messages: list[Message], limit: int) -> None:
    data = compact([segment_of(messages)], limit)
    kept = decoded(data)
    assert len(data) <= limit
    assert [each.position for each in kept] == sorted({each.position for each in kept})
    assert all(messages[each.position - 1] == each.frames for each in kept)
    kinds = {type_of(each.frames[HEADER]) for each in kept}
    assert not kinds & {"stream", "debug_event", "iopub_welcome"}
    assert all(json.loads(each.frames[CONTENT]) != {"execution_state": "busy"} for each in kept)


def test_a_damaged_byte_is_not_kept_and_does_no_more_harm() -> None:
    messages = [*ESSENTIAL.values(), *PRINTED.values(), *ESSENTIAL.values()]
    data = segment_of(messages)
    for offset in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[offset] ^= 0x55
        for each in decoded(compact([bytes(damaged)], EVERYTHING)):
            assert each.frames == messages[each.position - 1]


def test_a_record_with_too_few_frames_does_no_harm() -> None:
    record = encoded(Kind.IOPUB, make_message("stream"), position=1, lines=1)
    count = HEAD_SIZE - 8
    for number in (0, 1, 2, 1000, 2**32 - 1):
        damaged = record[:count] + number.to_bytes(4, "little") + record[count + 4 :]
        assert compact([damaged], EVERYTHING) == b""
