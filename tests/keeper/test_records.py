"""The format of spools: what is written is read, and damage is noticed."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nbsessions.keeper import records
from nbsessions.keeper.messages import HEADER, SIGNATURE, key_of
from nbsessions.keeper.records import Kind
from nbsessions.keeper.segments import offsets
from support.spools import encoded, frames, make_message, texts

numbers = st.integers(0, 2**64 - 1)


def three_records() -> tuple[bytes, list[int]]:
    """Return three records, and where each of them ends."""
    data, ends = b"", []
    for number in range(1, 4):
        message = make_message("stream", lines=number)
        data += encoded(Kind.IOPUB, message, position=number, lines=number)
        ends.append(len(data))
    return data, ends


@given(st.sampled_from([Kind.IOPUB, Kind.SHELL, Kind.STDIN]), frames, numbers, numbers, texts)
def test_a_record_holds_what_was_encoded(
    kind: Kind, frames: list[bytes], position: int, lines: int, client: str
) -> None:
    client = client.encode(errors="ignore").decode()
    data = encoded(kind, frames, position=position, lines=lines, client=client)
    record = records.decode(b"before" + data + b"after", len(b"before"))
    assert (record.kind, record.frames, record.client) == (kind, frames, client)
    assert (record.position, record.lines) == (position, lines)
    assert record.key == key_of(frames[SIGNATURE], frames[HEADER])
    assert records.position_at(data, 0) == (position, lines, record.key)
    assert data[records.KEY_OFFSET :].startswith(record.key)
    assert list(offsets(data + data)) == [(0, len(data)), (len(data), 2 * len(data))]


def test_a_record_that_is_cut_short_loses_only_itself() -> None:
    data, ends = three_records()
    for cut in range(len(data)):
        whole = [end for end in ends if end <= cut]
        assert [end for _, end in offsets(data[:cut])] == whole


def test_a_damaged_byte_spoils_no_record_before_it_and_invents_none() -> None:
    data, ends = three_records()
    for damaged in range(len(data)):
        changed = bytearray(data)
        changed[damaged] ^= 0x01
        before = [end for end in ends if end <= damaged]
        assert [end for _, end in offsets(bytes(changed))] == before


@given(st.binary(max_size=300))
@example(b"bN" + b"\0" * 100)
@example(b"bN" + b"\xff" * 300)
def test_any_other_data_is_no_record(data: bytes) -> None:
    assert not records.is_record(data, 0)
    assert not list(offsets(data))
    with pytest.raises(ValueError, match="damaged"):
        records.decode(data)
