"""The handlers over session managers that are not ours."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.multikernelmanager import DuplicateKernelError
from tornado.web import HTTPError

from support.application import Api, message

SESSION_ID = "11111111-2222-4333-8444-555555555555"


class SyncSessionManager:
    """Answers at once, takes no flags, and raises what a test has put into ``error``."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.model: dict[str, Any] = {
            "id": SESSION_ID,
            "path": None,
            "name": None,
            "type": None,
            "kernel": {"id": "k", "name": "light"},
            "extra": 1,
        }

    def _answer(self, verb: str, arguments: dict[str, Any]) -> dict[str, Any]:
        self.calls.append((verb, arguments))
        if self.error is not None:
            raise self.error
        return self.model

    def list_sessions(self) -> list[dict[str, Any]]:
        return [self._answer("list", {})]

    def create_session(self, **arguments: Any) -> dict[str, Any]:
        return self._answer("create", arguments)

    def get_session(self, session_id: str) -> dict[str, Any]:
        return self._answer("get", {})

    def update_session(self, session_id: str, **arguments: Any) -> None:
        self._answer("update", arguments)

    def delete_session(self, session_id: str) -> None:
        self._answer("delete", {})


@pytest.fixture
def session_manager() -> SyncSessionManager:
    """Take the place of our session manager."""
    return SyncSessionManager()


@pytest.mark.gen_test
async def test_a_synchronous_manager_will_do(
    api: Api, session_manager: SyncSessionManager
) -> None:
    body = {"path": "a", "type": "x", "kernel": {"name": "light"}}
    assert (await api("POST", "", body)).code == 201
    assert (await api("PATCH", f"/{SESSION_ID}", {"name": "A"})).code == 200
    assert (await api("DELETE", f"/{SESSION_ID}")).code == 204
    assert session_manager.calls == [
        (
            "create",
            {"path": "a", "type": "x", "name": None, "kernel_name": "light", "kernel_id": None},
        ),
        ("update", {"name": "A"}),
        ("get", {}),
        ("delete", {}),
    ]


@pytest.mark.gen_test
async def test_what_clients_insist_on_is_always_there(api: Api) -> None:
    (model,) = await api.models()
    assert (model["path"], model["name"], model["type"]) == ("", "", "")
    assert model["extra"] == 1


@pytest.mark.gen_test
async def test_a_list_of_sessions_without_paths_can_be_filtered(api: Api) -> None:
    assert await api.models("?path=a") == []
    assert len(await api.models("?kernel_id=k")) == 1


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (NoSuchKernel("missing%"), 501, "missing%"),
        (DuplicateKernelError("taken: 50%"), 409, "taken: 50%"),
        (HTTPError(404, "Session not found: %s", "50%"), 404, "Session not found: 50%"),
        (HTTPError(404, "100% lost"), 404, "100% lost"),
        (HTTPError(400), 400, "Bad Request"),
        (HTTPError(599, "no gateway"), 599, "no gateway"),
        (HTTPError(502, reason="Bad Gateway"), 502, "Bad Gateway"),
    ],
)
@pytest.mark.gen_test
async def test_what_it_raises_is_told(
    api: Api, session_manager: SyncSessionManager, error: Exception, status: int, told: str
) -> None:
    session_manager.error = error
    for reply in (
        await api("GET"),
        await api("POST", "", {"path": "a", "type": "x"}),
        await api("PATCH", f"/{SESSION_ID}", {"name": "A"}),
        await api("DELETE", f"/{SESSION_ID}"),
    ):
        assert reply.code == status
        assert told in message(reply)


@pytest.mark.gen_test
async def test_what_nobody_knows_is_a_500_that_tells_nothing_and_logs_all(
    api: Api, session_manager: SyncSessionManager, caplog: pytest.LogCaptureFixture
) -> None:
    session_manager.error = RuntimeError("a secret")
    with caplog.at_level(logging.ERROR):
        reply = await api("GET")
    assert reply.code == 500
    assert json.loads(reply.body) == {"message": "Unhandled error", "reason": None}
    assert "a secret" not in f"{reply.headers} {reply.reason}"
    assert "a secret" in caplog.text


@pytest.mark.gen_test
async def test_a_users_data_never_gets_into_the_reason_line(
    api: Api, session_manager: SyncSessionManager
) -> None:
    session_manager.error = NoSuchKernel("a\r\nX-Injected: yes")
    reply = await api("GET")
    assert reply.reason == "Not Implemented"
    assert "X-Injected" not in reply.headers
