"""The REST API of sessions, over real kernels: what is asked for and what comes back."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from support.application import Api, message

pytestmark = pytest.mark.gen_test

UNKNOWN_ID = "11111111-2222-4333-8444-555555555555"
KERNEL_KEYS = {"id", "name", "last_activity", "execution_state", "connections"}


def kernel_ids(session_manager: Any) -> set[str]:
    """Return the kernels that run."""
    return set(session_manager.kernel_manager.list_kernel_ids())


# POST


async def test_creating_answers_201_with_the_location_and_the_model(api: Api) -> None:
    reply = await api("POST", "", {"path": "d/a.ipynb", "type": "notebook", "name": "A"})
    model = json.loads(reply.body)
    assert reply.code == 201
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["Location"] == f"/base/api/sessions/{model['id']}"
    assert (model["path"], model["name"], model["type"]) == ("d/a.ipynb", "A", "notebook")
    assert model["notebook"] == {"path": "d/a.ipynb", "name": "A"}
    assert model["kernel"].keys() >= KERNEL_KEYS


async def test_only_notebooks_have_the_deprecated_field(api: Api) -> None:
    reply = await api("POST", "", {"path": "console-1", "type": "console"})
    assert "notebook" not in json.loads(reply.body)


async def test_without_a_name_the_last_part_of_the_path_is_the_name(api: Api) -> None:
    model = await api.create("d/a.ipynb")
    assert model["name"] == model["notebook"]["name"] == "a.ipynb"


async def test_creating_what_is_there_answers_201_with_the_same_session(api: Api) -> None:
    first = await api.create()
    assert (await api.create())["id"] == first["id"]


async def test_many_requests_at_once_get_one_session_and_one_kernel(
    api: Api, session_manager: Any
) -> None:
    models = await asyncio.gather(*(api.create() for _ in range(8)))
    assert len({(model["id"], model["kernel"]["id"]) for model in models}) == 1
    assert len(kernel_ids(session_manager)) == 1


async def test_the_legacy_form_of_a_body_is_understood(api: Api) -> None:
    reply = await api("POST", "", {"notebook": {"path": "a.ipynb"}})
    assert reply.code == 201
    assert json.loads(reply.body)["type"] == "notebook"


async def test_an_unknown_kernelspec_is_501_with_a_short_message(api: Api) -> None:
    body = {"path": "a", "type": "notebook", "kernel": {"name": "50% there"}}
    reply = await api("POST", "", body)
    assert reply.code == 501
    assert "50% there" in message(reply)
    assert "50% there" in json.loads(reply.body)["short_message"]
    assert await api.models() == []


async def test_a_kernel_that_does_not_start_is_500_and_leaves_nothing(
    api: Api, session_manager: Any
) -> None:
    body = {"path": "a", "type": "notebook", "kernel": {"name": "broken"}}
    reply = await api("POST", "", body)
    assert reply.code == 500
    assert "/nowhere/to-be-found" in message(reply)
    assert await api.models() == []
    assert kernel_ids(session_manager) == set()


async def test_a_kernel_that_runs_is_attached_to(api: Api) -> None:
    first = await api.create("a")
    second = await api.create("b", kernel={"id": first["kernel"]["id"]})
    assert second["kernel"]["id"] == first["kernel"]["id"]
    assert second["id"] != first["id"]


async def test_an_id_that_nobody_knows_is_given_to_the_kernel(api: Api) -> None:
    assert (await api.create(kernel={"id": UNKNOWN_ID}))["kernel"]["id"] == UNKNOWN_ID


async def test_an_id_that_cannot_be_addressed_gives_way_to_a_fresh_one(api: Api) -> None:
    kernel_id = "../x"
    assert (await api.create(kernel={"id": kernel_id}))["kernel"]["id"] != kernel_id


async def test_an_id_with_the_connection_file_of_another_server_is_409(
    api: Api, tmp_path: Path
) -> None:
    (tmp_path / "runtime" / f"kernel-{UNKNOWN_ID}.json").write_text("{}")
    body = {"path": "a", "type": "notebook", "kernel": {"id": UNKNOWN_ID}}
    reply = await api("POST", "", body)
    assert reply.code == 409
    assert UNKNOWN_ID in message(reply)


async def test_a_path_outside_of_the_root_directory_starts_nothing_there(api: Api) -> None:
    reply = await api("POST", "", {"path": "../../x", "type": "notebook"})
    assert reply.code in (201, 400)


@pytest.mark.parametrize("path", ["", "/", " ", "%", "ä/ü.ipynb", "a\nb", "d\\x", "drive:a"])
async def test_paths_are_answered_as_they_were_sent(api: Api, path: str) -> None:
    model = await api.create(path)
    assert model["path"] == path
    assert [each["path"] for each in await api.models()] == [path]


# Bodies that cannot be used

BAD = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'{"path": "a"}',
    b'{"path": ["a"], "type": "x"}',
    b'{"path": "a\\u0000", "type": "x"}',
    b'{"path": "\\udc00", "type": "x"}',
    b'{"path": "\xff", "type": "x"}',
    b'{"path": "50%", "type": "%s", "kernel": "%d"}',
    b'{"path": "' + 5000 * b"x" + b'", "type": "x"}',
    b'{"path": "' + 5_000_000 * b"x" + b'", "type": "x"}',
    b'{"path": "a", "type": "x", "more": ' + 50_000 * b'{"a":' + b"1" + 50_000 * b"}" + b"}",
]


@pytest.mark.parametrize("body", BAD, ids=lambda body: repr(body[:40]))
async def test_a_body_that_cannot_be_used_is_400_and_says_why(
    api: Api, session_manager: Any, body: bytes
) -> None:
    reply = await api("POST", "", body)
    assert reply.code == 400
    assert reply.reason == "Bad Request"
    assert message(reply)
    assert "reason" in json.loads(reply.body)
    assert kernel_ids(session_manager) == set()


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_the_content_type_does_not_matter(api: Api, content_type: str) -> None:
    body = {"path": "a", "type": "notebook"}
    reply = await api("POST", "", body, headers={"Content-Type": content_type})
    assert reply.code == 201


async def test_a_form_that_is_broken_is_400(api: Api) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert (await api("POST", "", b"no form", headers=headers)).code == 400


# GET


async def test_all_sessions_are_listed_oldest_first(api: Api) -> None:
    created = [await api.create(path) for path in ("b", "a")]
    models = await api.models()
    assert [model["id"] for model in models] == [model["id"] for model in created]


async def test_a_list_can_be_filtered(api: Api) -> None:
    first = await api.create("a b.ipynb")
    await api("POST", "", {"path": "c", "type": "console"})
    for query in ("?path=/a%20b.ipynb", "?type=notebook", f"?kernel_id={first['kernel']['id']}"):
        assert [model["id"] for model in await api.models(query)] == [first["id"]]
    assert await api.models("?path=missing") == []
    assert await api.models("?type=console&path=a%20b.ipynb") == []


async def test_a_filter_is_taken_as_it_was_sent(api: Api) -> None:
    model = await api.create(" a\x1b.ipynb ")
    assert [each["id"] for each in await api.models("?path=%20a%1b.ipynb%20")] == [model["id"]]
    assert await api.models("?path=a%20.ipynb") == []


async def test_a_query_that_is_no_text_is_400(api: Api) -> None:
    assert (await api("GET", "?path=%ff")).code == 400


async def test_one_session_can_be_read(api: Api) -> None:
    model = await api.create()
    reply = await api("GET", f"/{model['id']}")
    assert reply.code == 200
    assert json.loads(reply.body)["id"] == model["id"]


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_a_session_that_is_not_there_is_404(api: Api, method: str) -> None:
    reply = await api(method, f"/{UNKNOWN_ID}", {} if method == "PATCH" else None)
    assert reply.code == 404
    assert UNKNOWN_ID in message(reply)


# PATCH


async def test_changing_answers_200_with_the_model(api: Api) -> None:
    model = await api.create()
    reply = await api("PATCH", f"/{model['id']}", {"path": "/b.ipynb", "name": "50%"})
    assert reply.code == 200
    changed = json.loads(reply.body)
    assert (changed["path"], changed["name"]) == ("/b.ipynb", "50%")
    assert changed["notebook"] == {"path": "/b.ipynb", "name": "50%"}
    assert changed["kernel"]["id"] == model["kernel"]["id"]


async def test_sending_the_whole_model_back_changes_nothing(
    api: Api, session_manager: Any
) -> None:
    model = await api.create()
    reply = await api("PATCH", f"/{model['id']}", model)
    assert json.loads(reply.body)["kernel"]["id"] == model["kernel"]["id"]
    assert kernel_ids(session_manager) == {model["kernel"]["id"]}


async def test_another_kernel_takes_the_place_of_the_old_one(
    api: Api, session_manager: Any
) -> None:
    model = await api.create()
    reply = await api("PATCH", f"/{model['id']}", {"kernel": {"id": None, "name": "other"}})
    kernel = json.loads(reply.body)["kernel"]
    assert kernel["name"] == "other"
    assert kernel_ids(session_manager) == {kernel["id"]}


@pytest.mark.parametrize("kernel_id", [UNKNOWN_ID, "", "../x", "\0", "%s"])
async def test_a_kernel_id_that_nobody_knows_is_400(api: Api, kernel_id: str) -> None:
    model = await api.create()
    reply = await api("PATCH", f"/{model['id']}", {"kernel": {"id": kernel_id}})
    assert reply.code == 400
    assert await api.models() == [model]


@pytest.mark.parametrize(("name", "status"), [("missing", 501), ("broken", 500), ("\0", 400)])
async def test_a_kernel_that_does_not_start_leaves_the_session_as_it_was(
    api: Api, session_manager: Any, name: str, status: int
) -> None:
    model = await api.create()
    reply = await api("PATCH", f"/{model['id']}", {"name": "B", "kernel": {"name": name}})
    assert reply.code == status
    assert (await api.models())[0]["kernel"]["id"] == model["kernel"]["id"]
    assert kernel_ids(session_manager) == {model["kernel"]["id"]}


async def test_an_empty_kernel_name_is_no_wish(api: Api) -> None:
    model = await api.create()
    reply = await api("PATCH", f"/{model['id']}", {"kernel": {"name": ""}})
    assert reply.code == 200
    assert json.loads(reply.body)["kernel"]["id"] == model["kernel"]["id"]


# DELETE


async def test_deleting_answers_204_without_a_body(api: Api, session_manager: Any) -> None:
    model = await api.create()
    reply = await api("DELETE", f"/{model['id']}")
    assert (reply.code, reply.body) == (204, b"")
    assert kernel_ids(session_manager) == set()
    assert await api.models() == []


async def test_deleting_a_session_whose_kernel_died_is_204(api: Api, session_manager: Any) -> None:
    model = await api.create()
    await session_manager.kernel_manager.shutdown_kernel(model["kernel"]["id"], now=True)
    assert (await api("DELETE", f"/{model['id']}")).code == 204


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
async def test_a_shutdown_can_be_forced(api: Api, session_manager: Any, method: str) -> None:
    first = await api.create("a")
    second = await api.create("b", kernel={"id": first["kernel"]["id"]})
    query = f"/{second['id']}?force_kernel_shutdown=True"
    await api(method, query, {"kernel": {"name": "other"}} if method == "PATCH" else None)
    assert first["kernel"]["id"] not in kernel_ids(session_manager)
    assert first["id"] not in [model["id"] for model in await api.models()]


async def test_a_flag_that_is_neither_true_nor_false_is_400(api: Api) -> None:
    model = await api.create()
    reply = await api("DELETE", f"/{model['id']}?force_kernel_shutdown=perhaps")
    assert reply.code == 400
    assert "force_kernel_shutdown" in message(reply)
    assert len(await api.models()) == 1
