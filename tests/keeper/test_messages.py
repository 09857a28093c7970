"""What the keeper understands of messages."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbsessions.keeper.messages import (
    DELIMITER,
    HEADER,
    KEY_SIZE,
    PARENT,
    NotAMessage,
    count_lines,
    key_of,
    key_of_request,
    message_of,
    type_of,
)
from support.spools import frames, make_message


@given(st.lists(st.binary(max_size=5).filter(lambda each: each != DELIMITER)), frames)
def test_a_message_begins_after_the_delimiter(before: list[bytes], frames: list[bytes]) -> None:
    assert message_of([*before, DELIMITER, *frames]) == frames


@pytest.mark.parametrize(
    "frames", [[], [b"topic"], [DELIMITER], [b"topic", DELIMITER, b"", b"{}", b"{}", b"{}"]]
)
def test_fewer_frames_are_no_message(frames: list[bytes]) -> None:
    with pytest.raises(NotAMessage):
        message_of(frames)


def test_a_signed_message_has_its_signature_as_its_key() -> None:
    assert key_of(b"a" * 64, b"header") == b"a" * KEY_SIZE


def test_messages_without_signatures_have_different_keys() -> None:
    keys = {key_of(b"", make_message("stream")[HEADER]) for _ in range(100)}
    assert len(keys) == 100
    assert {len(key) for key in keys} == {KEY_SIZE}


def test_a_request_is_known_by_its_id_alone() -> None:
    first = json.dumps({"msg_id": "ä", "date": "now"}).encode()
    second = json.dumps({"date": "then", "msg_id": "ä"}, ensure_ascii=False).encode()
    assert key_of_request(first) == key_of_request(second) != key_of_request(b'{"msg_id": "b"}')


@pytest.mark.parametrize("header", [b"", b"[]", b"1", b"{}", b"\xff", b"[" * 100_000])
def test_a_reply_to_nothing_has_a_key_too(header: bytes) -> None:
    assert len(key_of_request(header)) == KEY_SIZE


def test_types_and_lines_are_told() -> None:
    message = make_message("stream", text="one\ntwo\nthree")
    assert type_of(message[HEADER]) == "stream"
    assert count_lines(message) == 2
    assert count_lines(make_message("error", traceback=["one\ntwo"])) == 0
    assert count_lines(make_message("display_data")) == 1
    assert count_lines(make_message("update_display_data")) == 0
    assert type_of(b"nonsense") == ""


@pytest.mark.parametrize("parent", [b"{}", b"", b'{"msg_type": "comm_msg"}'])
def test_what_is_printed_for_others_than_cells_is_no_output(parent: bytes) -> None:
    message = make_message("stream", lines=2)
    message[PARENT] = parent
    assert count_lines(message) == 0
