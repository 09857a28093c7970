"""The route that tells which sessions are missing, and why."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import asdict
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from nbsessions.errors import StoreUnavailable
from nbsessions.models import Missed
from nbsessions.service import SessionService
from support.application import Api, message
from support.services import eventually

pytestmark = pytest.mark.gen_test

UNKNOWN_ID = "11111111-2222-4333-8444-555555555555"


def status(reply: HTTPResponse) -> dict[str, Any]:
    """Return the body of a reply that must have succeeded."""
    assert reply.code == 200, reply.body
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["Cache-Control"] == "no-store"
    found: dict[str, Any] = json.loads(reply.body)
    assert found.keys() == {"namespace", "missing", "missed"}
    return found


async def test_it_tells_what_is_missing_and_why(api: Api, session_manager: Any) -> None:
    there, gone = await api.create("a.ipynb"), await api.create("b.ipynb")
    before = datetime.now(timezone.utc)
    await session_manager.kernel_manager.shutdown_kernel(gone["kernel"]["id"])
    query = f"/status?id={there['id']}&id={gone['id']}&id={UNKNOWN_ID}"

    async def is_recorded() -> bool:
        return bool(status(await api("GET", query))["missing"][0]["ended"])

    await eventually(is_recorded, "the end of the session is recorded")
    found = status(await api("GET", query))
    first, second = found["missing"]
    assert (first["id"], first["reason"]) == (gone["id"], "ended")
    assert second == {"id": UNKNOWN_ID, "reason": None, "ended": None}
    assert first["ended"].endswith("Z")
    assert before <= datetime.fromisoformat(first["ended"].replace("Z", "+00:00"))
    assert found["namespace"] == session_manager.namespace_id


async def test_without_ids_nothing_is_missing_and_the_store_is_not_opened(
    api: Api, session_manager: Any
) -> None:
    found = status(await api("GET", "/status"))
    assert found == {"namespace": session_manager.namespace_id, "missing": [], "missed": []}
    assert session_manager._opening._task is None


async def test_the_namespace_does_not_tell_a_path(
    api: Api, session_manager: Any, tmp_path: Path
) -> None:
    assert session_manager.namespace.startswith(str(tmp_path))
    namespace = status(await api("GET", "/status"))["namespace"]
    assert len(namespace) == 16
    assert int(namespace, 16)


@pytest.mark.parametrize("name", ["id", "client"])
async def test_as_many_ids_as_allowed_are_looked_for_and_no_more(api: Api, name: str) -> None:
    ids = [f"{number}" for number in range(101)]
    found = status(await api("GET", f"/status?{name}=" + f"&{name}=".join(ids[:100])))
    assert [each["id"] for each in found["missing"]] == (ids[:100] if name == "id" else [])
    reply = await api("GET", f"/status?{name}=" + f"&{name}=".join(ids))
    assert reply.code == 400
    assert message(reply) == f"{name}: is given more than 100 times"


async def test_it_tells_what_clients_had_missed(api: Api, session_manager: Any) -> None:
    known = Missed(client="a", lines=5, lost=0, problem=None, is_complete=True)
    session_manager.kernel_manager.find_missed = lambda clients: [
        known for each in clients if each == "a"
    ]
    found = status(await api("GET", "/status?client=a&client=b"))
    assert found["missed"] == [asdict(known)]


async def test_what_clients_had_missed_is_unknown_without_a_store(
    api: Api, session_manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise StoreUnavailable("locked")

    monkeypatch.setattr(session_manager, "_opened", fail)
    assert status(await api("GET", "/status?client=a"))["missed"] == []


async def test_a_manager_of_an_earlier_release_is_not_asked_for_it(
    api: Api, session_manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def get_status(session_ids: list[str]) -> dict[str, Any]:
        return {"namespace": "a", "missing": session_ids, "missed": []}

    monkeypatch.setattr(session_manager, "get_status", get_status)
    assert status(await api("GET", "/status?id=a"))["missing"] == ["a"]


async def test_arguments_that_it_does_not_know_are_ignored(api: Api) -> None:
    assert status(await api("GET", "/status?ids=1&path=a&id="))["missing"] == [
        {"id": "", "reason": None, "ended": None}
    ]


async def test_an_id_that_is_not_text_is_a_400(api: Api) -> None:
    assert (await api("GET", "/status?id=%ff")).code == 400


@pytest.mark.parametrize("sent", ["%00", "%20a%0A", "%F0%9F%98%80", "%27", "a" * 2000])
async def test_any_text_may_be_looked_for(api: Api, sent: str) -> None:
    (missing,) = status(await api("GET", f"/status?id={sent}"))["missing"]
    assert missing["reason"] is None


async def test_who_may_read_may_ask(api: Api) -> None:
    status(await api("GET", "/status", user="guest"))
    assert (await api("GET", "/status", user=None)).code == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_it_can_only_be_read(api: Api, method: str) -> None:
    reply = await api(method, "/status", None if method == "DELETE" else {})
    assert reply.code == 405
    assert reply.headers["Allow"] == "GET, OPTIONS"
    assert message(reply) == "Method Not Allowed"


async def test_it_says_how_it_can_be_asked(api: Api) -> None:
    reply = await api("OPTIONS", "/status")
    assert (reply.code, reply.headers["Allow"]) == (204, "GET, OPTIONS")


@pytest.mark.parametrize("error", [StoreUnavailable("locked")])
async def test_what_cannot_be_seen_is_unknown(
    api: Api, session_manager: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def fail(*args: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(SessionService, "find_missing", fail)
        found = status(await api("GET", f"/status?id={UNKNOWN_ID}"))
    assert found == {"namespace": session_manager.namespace_id, "missing": None, "missed": []}
    assert status(await api("GET", f"/status?id={UNKNOWN_ID}"))["missing"]


async def test_a_server_that_has_closed_its_sessions_answers_503(
    api: Api, session_manager: Any
) -> None:
    session_manager.close()
    for query in ("", f"?id={UNKNOWN_ID}"):
        reply = await api("GET", f"/status{query}")
        assert reply.code == 503
        assert int(reply.headers["Retry-After"]) > 0
        assert reply.headers["Cache-Control"] == "no-store"


async def test_a_session_manager_that_is_not_ours_has_no_status(
    http_server: Any, http_client: AsyncHTTPClient, base_url: str, app: Any
) -> None:
    app.settings["session_manager"] = object()
    reply = await Api(http_client, base_url)("GET", "/status")
    assert reply.code == 404
    assert "does not offer the status" in message(reply)
