"""The REST API on a base handler that has no word on who may do what."""

from __future__ import annotations

from typing import Any

import pytest
from tornado.web import Application, RequestHandler

from nbsessions.handlers import session_handlers
from support.application import Api


class PlainHandler(RequestHandler):
    """Knows its users, all of whom may do everything."""

    def get_current_user(self) -> str | None:
        return self.request.headers.get("X-User")


@pytest.fixture
def app(session_manager: Any) -> Application:
    """Take the place of the application whose base handler authorises."""
    return Application(session_handlers(PlainHandler, "/base"), session_manager=session_manager)


@pytest.mark.gen_test
async def test_every_user_may_do_everything(api: Api) -> None:
    model = await api.create()
    assert (await api("DELETE", f"/{model['id']}")).code == 204


@pytest.mark.gen_test
async def test_nobody_may_write_without_a_user(api: Api) -> None:
    assert (await api("POST", "", {"path": "a", "type": "x"}, user=None)).code == 403


@pytest.mark.gen_test
async def test_each_route_tells_its_methods(api: Api) -> None:
    for path in ("", "/openapi.json", "/0f8fad5b-d9cb-469f-a165-70867728950e"):
        refused = await api("PUT", path, {})
        told = await api("OPTIONS", path)
        assert (refused.code, told.code) == (405, 204)
        assert told.headers["Allow"] == refused.headers["Allow"]
        assert "OPTIONS" in told.headers["Allow"]
