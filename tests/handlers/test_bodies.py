"""What clients may send, and what they are told of the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nbsessions.errors import InvalidRequest
from nbsessions.handlers.bodies import LONGEST_TEXT, create_arguments, update_arguments

NEW = {"path": "a.ipynb", "type": "notebook"}
CREATED = {**NEW, "name": None, "kernel_name": None, "kernel_id": None}


def encode(body: object) -> bytes:
    return json.dumps(body).encode()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (NEW, {}),
        ({**NEW, "name": "A"}, {"name": "A"}),
        ({**NEW, "name": None, "kernel": None, "notebook": None}, {}),
        ({**NEW, "kernel": {}}, {}),
        ({**NEW, "kernel": {"name": None, "id": None}}, {}),
        ({**NEW, "kernel": {"name": "", "id": ""}}, {}),
        (
            {**NEW, "kernel": {"name": "light", "id": "x", "more": 1}},
            {"kernel_name": "light", "kernel_id": "x"},
        ),
        ({**NEW, "id": 5, "unknown": [None]}, {}),
        ({"notebook": {"path": "b.ipynb"}}, {"path": "b.ipynb"}),
        ({"notebook": {"path": "b.ipynb", "name": "B"}}, {"path": "b.ipynb", "name": "B"}),
        ({**NEW, "type": "file", "notebook": {"path": "b.ipynb"}}, {"path": "b.ipynb"}),
        ({**NEW, "path": ""}, {"path": ""}),
        ({**NEW, "path": "x" * LONGEST_TEXT}, {"path": "x" * LONGEST_TEXT}),
    ],
)
def test_a_body_becomes_arguments_of_create_session(
    body: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert create_arguments(encode(body)) == {**CREATED, **expected}


@pytest.mark.parametrize(
    "text", ["/a b.ipynb", "\u00e4", "a\u0308", "\U0001f600", "d\\x", "%41", "C:x"]
)
def test_texts_arrive_as_they_were_sent(text: str) -> None:
    arguments = create_arguments(encode({"path": text, "name": text, "type": text}))
    assert (arguments["path"], arguments["name"], arguments["type"]) == (text, text, text)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, {}),
        ({"name": None, "kernel": None, "notebook": None}, {}),
        ({"kernel": {"id": None}}, {}),
        ({"kernel": {"id": None, "name": "light"}}, {"kernel_name": "light"}),
        ({"kernel": {"name": ""}}, {}),
        ({"kernel": {"id": "x", "name": "light"}}, {"kernel_id": "x"}),
        ({"path": "b", "name": "B", "type": "file"}, {"path": "b", "name": "B", "type": "file"}),
        ({"notebook": {"path": "b"}}, {"path": "b", "type": "notebook"}),
        ({"notebook": {"name": "B"}}, {}),
    ],
)
def test_a_body_becomes_arguments_of_update_session(
    body: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert update_arguments(encode(body)) == expected


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "body"),
        (b"  \n", "body"),
        (b"{", "body"),
        (b"\xff\xfe", "body"),
        (b'{"path": "\xed\xa0\x80", "type": "x"}', "(?i)utf-8"),  # its case depends on msgspec
        (b'{"path": "\\ud800", "type": "x"}', "surrogate"),
        (b'{"path": NaN}', "body"),
        (b"[]", "object"),
        (b"null", "object"),
        (b'"text"', "object"),
        (b"5", "object"),
        (b'{"type": "notebook"}', "path"),
        (b'{"path": "a"}', "type"),
        (b'{"path": null, "type": "notebook"}', "path"),
        (b'{"path": ["a"], "type": "notebook"}', "path"),
        (b'{"path": "a", "type": 5}', "type"),
        (b'{"path": "a", "type": "x", "name": {}}', "name"),
        (b'{"path": "a", "type": "x", "kernel": "light"}', "kernel"),
        (b'{"path": "a", "type": "x", "kernel": {"id": 5}}', "kernel"),
        (b'{"path": "a", "type": "x", "kernel": {"name": []}}', "kernel"),
        (b'{"notebook": []}', "notebook"),
        (b'{"notebook": {"path": 5}}', "notebook"),
        (b'{"path": "a\\u0000b", "type": "x"}', "NUL"),
        (b'{"path": "a", "type": "x", "name": "\\u0000"}', "NUL"),
        (encode({**NEW, "path": "x" * (LONGEST_TEXT + 1)}), "4096"),
        (encode({**NEW, "name": "x" * (LONGEST_TEXT + 1)}), "4096"),
        (encode({**NEW, "kernel": {"name": "x" * (LONGEST_TEXT + 1)}}), "kernel.name"),
        (encode({**NEW, "kernel": {"id": "a\0b"}}), "kernel.id"),
        (encode({"notebook": {"path": "a\0b"}}), "notebook.path"),
        (encode({"notebook": {"path": "a"}, "path": "a\0b"}), "path"),
        (b'{"path": "a", "type": "x", "more": ' + 100_000 * b"[" + 100_000 * b"]" + b"}", "depth"),
    ],
)
def test_what_cannot_be_used_says_where_and_why(body: bytes, word: str) -> None:
    with pytest.raises(InvalidRequest, match=word):
        create_arguments(body)


def test_of_duplicate_keys_the_last_one_counts() -> None:
    body = b'{"path": 5, "path": "a", "type": "x", "path": "b"}'
    with pytest.raises(InvalidRequest):
        create_arguments(body)
    assert create_arguments(body.replace(b"5", b'"c"'))["path"] == "b"


def test_an_update_is_checked_as_well() -> None:
    with pytest.raises(InvalidRequest, match="path"):
        update_arguments(b'{"path": 5}')
    with pytest.raises(InvalidRequest, match="NUL"):
        update_arguments(b'{"name": "\\u0000"}')
