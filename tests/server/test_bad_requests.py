"""What clients may send by mistake: told apart, told why, and never a reason to fail."""

from __future__ import annotations

import uuid

import pytest

from support.rest import SESSIONS
from support.server import Server
from support.storefile import read_store

UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"

NOT_OBJECTS = {
    "nothing": b"",
    "no JSON": b"{",
    "not UTF-8": b'{"path": "\xff"}',
    "a list": b"[]",
    "a string": b'"path"',
    "null": b"null",
    "too deep": b"[" * 100_000,
}

WRONG_FIELDS: dict[str, tuple[dict[str, object], str]] = {
    "a path that is a list": ({"path": ["a"], "type": "notebook"}, "path"),
    "a path that is null": ({"path": None, "type": "notebook"}, "path"),
    "a path with NUL": ({"path": "a\0b", "type": "notebook"}, "path"),
    "a path of 4097 characters": ({"path": "p" * 4097, "type": "notebook"}, "path"),
    "a type that is a number": ({"path": "a", "type": 1}, "type"),
    "a name that is a number": ({"path": "a", "type": "file", "name": 1}, "name"),
    "a kernel that is a string": ({"path": "a", "type": "file", "kernel": "k"}, "kernel"),
    "a kernel id that is a number": (
        {"path": "a", "type": "file", "kernel": {"id": 1}},
        "kernel.id",
    ),
    "a notebook that is a string": ({"notebook": "a"}, "notebook"),
}

MISSING_FIELDS: dict[str, tuple[dict[str, object], str]] = {
    "no path": ({"type": "notebook"}, "path"),
    "no type": ({"path": "a"}, "type"),
    "neither": ({}, "path"),
    "a notebook without a path": ({"notebook": {"name": "a"}}, "path"),
}


def _ids(cases: dict[str, tuple[dict[str, object], str]]) -> list[object]:
    return [pytest.param(*case, id=name) for name, case in cases.items()]


@pytest.fixture(autouse=True)
def _nothing_is_left(each_host: Server) -> object:
    yield
    assert each_host.list_sessions() == []
    assert each_host.kernel_ids() == set()
    assert read_store(each_host.store).unfinished() == []


@pytest.mark.parametrize("body", NOT_OBJECTS.values(), ids=NOT_OBJECTS)
def test_a_body_that_is_no_json_object_is_a_400(each_host: Server, body: bytes) -> None:
    reply = each_host.post(body)

    assert reply.status == 400
    assert reply.message.startswith("body:")
    assert "reason" in reply.json()


@pytest.mark.parametrize(("body", "field"), _ids(WRONG_FIELDS) + _ids(MISSING_FIELDS))
def test_a_field_that_cannot_be_used_is_a_400_that_names_it(
    each_host: Server, body: dict[str, object], field: str
) -> None:
    reply = each_host.post(body)

    assert reply.status == 400
    assert field in reply.message


@pytest.mark.parametrize(("body", "field"), _ids(WRONG_FIELDS))
def test_a_patch_with_such_a_field_is_a_400_and_changes_nothing(
    each_host: Server, body: dict[str, object], field: str
) -> None:
    before = each_host.create("a.ipynb")

    reply = each_host.patch(before["id"], {"name": "changed", **body})

    assert reply.status == 400
    assert field in reply.message
    after = each_host.get(before["id"]).json()
    assert (after["path"], after["name"]) == ("a.ipynb", "a.ipynb")
    each_host.delete(before["id"])


def test_a_path_of_4096_characters_is_fine(each_host: Server) -> None:
    path = "p" * 4096
    model = each_host.create(path)

    assert model["path"] == path
    each_host.delete(model["id"])


def test_a_path_outside_the_root_directory_is_a_400(each_host: Server) -> None:
    reply = each_host.post(
        {"path": "../../a.ipynb", "type": "notebook", "kernel": {"name": "light"}}
    )

    assert reply.status == 400
    assert reply.message.startswith("path:")


def test_an_unknown_kernelspec_is_a_501_with_a_short_message(each_host: Server) -> None:
    reply = each_host.post(
        {"path": "a.ipynb", "type": "notebook", "kernel": {"name": "no-such-kernel"}}
    )

    assert reply.status == 501
    assert "no-such-kernel" in reply.message
    assert "no-such-kernel" in reply.json()["short_message"]


def test_a_patch_to_an_unknown_kernelspec_is_a_501_and_keeps_the_kernel(
    each_host: Server,
) -> None:
    before = each_host.create("a.ipynb")

    reply = each_host.patch(before["id"], {"kernel": {"name": "no-such-kernel"}})

    assert reply.status == 501
    assert each_host.get(before["id"]).json()["kernel"]["id"] == before["kernel"]["id"]
    each_host.delete(before["id"])


def test_a_kernel_that_cannot_start_is_a_500_with_a_message(each_host: Server) -> None:
    each_host.allow_errors("did not start|No such file|Failed to run command|kernels/host.py")

    reply = each_host.post({"path": "a.ipynb", "type": "notebook", "kernel": {"name": "broken"}})

    assert reply.status == 500
    assert "'broken' kernel could not be started" in reply.message
    assert "/nowhere/to-be-found" in reply.message
    assert "PATH" not in reply.message


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_an_unknown_session_is_a_404(each_host: Server, method: str) -> None:
    body = {"name": "x"} if method == "PATCH" else None

    reply = each_host.request(method, f"{SESSIONS}/{UNKNOWN_ID}", body)

    assert reply.status == 404
    assert UNKNOWN_ID in reply.message


def test_a_session_that_was_deleted_is_a_404(each_host: Server) -> None:
    model = each_host.create("a.ipynb")
    each_host.delete(model["id"])

    assert each_host.get(model["id"]).status == 404
    assert each_host.delete(model["id"]).status == 404


def test_fields_that_nobody_knows_are_ignored(each_host: Server) -> None:
    model = each_host.create("a.ipynb", colour="blue")

    assert "colour" not in model
    each_host.delete(model["id"])


def test_a_path_is_echoed_byte_for_byte(each_host: Server) -> None:
    path = f"/Ordner/ñandú %20 100% {uuid.uuid4()} \\ \U0001f40d:x.ipynb"
    model = each_host.create(path)

    assert each_host.get(model["id"]).json()["path"] == path
    assert model["path"] == path
    each_host.delete(model["id"])
