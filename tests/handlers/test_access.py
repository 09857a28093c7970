"""Who may ask, with which method, and what comes back while the server cannot answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nbsessions.errors import StoreUnavailable
from support.application import Api, message

pytestmark = pytest.mark.gen_test

SESSION = "/11111111-2222-4333-8444-555555555555"


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("POST", ""), ("GET", SESSION), ("PATCH", SESSION), ("DELETE", SESSION)],
)
async def test_nobody_is_answered_without_a_user(api: Api, method: str, path: str) -> None:
    body = {"path": "a", "type": "x"} if method in ("POST", "PATCH") else None
    reply = await api(method, path, body, user=None)
    assert reply.code == 403
    assert message(reply) == "Forbidden"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "", 200),
        ("GET", SESSION, 404),
        ("POST", "", 403),
        ("PATCH", SESSION, 403),
        ("DELETE", SESSION, 403),
    ],
)
async def test_the_base_handler_says_who_may_read_and_write(
    api: Api, method: str, path: str, status: int
) -> None:
    body = {"path": "a", "type": "x"} if method in ("POST", "PATCH") else None
    reply = await api(method, path, body, user="guest")
    assert reply.code == status
    if status == 403:
        assert message(reply) == "Guests may not write"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "", "GET, POST"),
        ("DELETE", "", "GET, POST"),
        ("PATCH", "", "GET, POST"),
        ("POST", SESSION, "GET, PATCH, DELETE"),
        ("PUT", SESSION, "GET, PATCH, DELETE"),
        ("BREW", SESSION, "GET, PATCH, DELETE"),
    ],
)
async def test_a_wrong_method_is_405_and_says_which_are_right(
    api: Api, method: str, path: str, allowed: str
) -> None:
    reply = await api(method, path, {} if method != "DELETE" else None)
    assert reply.code == 405
    assert reply.headers["Allow"].startswith(allowed)
    assert reply.headers["Content-Type"] == "application/json"
    assert message(reply) == "Method Not Allowed"


@pytest.mark.parametrize("session_id", ["/x", "/a-b-c-d", "/a-b-c-d-e-f", "/a-b-c-d-%65"])
async def test_an_id_that_is_none_has_no_route(api: Api, session_id: str) -> None:
    assert (await api("GET", session_id)).code == 404


async def test_a_server_that_has_closed_its_sessions_answers_503(
    api: Api, session_manager: Any
) -> None:
    model = await api.create()
    session_manager.close()
    for method, path, body in (
        ("GET", "", None),
        ("POST", "", {"path": "b", "type": "x"}),
        ("GET", f"/{model['id']}", None),
        ("PATCH", f"/{model['id']}", {"name": "B"}),
        ("DELETE", f"/{model['id']}", None),
    ):
        reply = await api(method, path, body)
        assert reply.code == 503
        assert int(reply.headers["Retry-After"]) > 0
        assert message(reply)


async def test_a_store_that_is_down_is_503_and_names_no_secret(
    api: Api, session_manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise StoreUnavailable("the session store is down")

    monkeypatch.setattr(session_manager, "list_sessions", fail)
    reply = await api("GET")
    assert reply.code == 503
    assert "Retry-After" in reply.headers
    assert json.loads(reply.body)["message"] == "the session store is down"
