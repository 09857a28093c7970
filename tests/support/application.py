"""A plain Tornado application that serves the REST API, and a client for it."""

from __future__ import annotations

import json
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.web import Application, HTTPError, RequestHandler

from nbsessions.handlers import session_handlers


class BaseHandler(RequestHandler):
    """Takes the user from ``X-User``: ``owner`` may do everything, ``guest`` may only read."""

    def get_current_user(self) -> str | None:
        return self.request.headers.get("X-User")

    def get_login_url(self) -> str:
        raise HTTPError(403)

    async def authorize(self, action: str) -> None:
        if self.current_user == "guest" and action != "read":
            raise HTTPError(403, f"Guests may not {action}")


class Api:
    """A client for the application."""

    def __init__(self, client: AsyncHTTPClient, base_url: str) -> None:
        self._client = client
        self._url = f"{base_url}/base/api/sessions"

    async def __call__(
        self,
        method: str,
        path: str = "",
        body: object = None,
        *,
        user: str | None = "owner",
        headers: dict[str, str] | None = None,
    ) -> HTTPResponse:
        """Send a request to a path below ``/api/sessions``.

        A ``body`` of bytes is sent as it is. Anything else is sent as JSON.
        """
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        return await self._client.fetch(
            self._url + path,
            method=method,
            body=sent,
            headers={**({"X-User": user} if user else {}), **(headers or {})},
            allow_nonstandard_methods=True,
            raise_error=False,
            follow_redirects=False,
        )

    async def create(self, path: str = "a.ipynb", **more: object) -> dict[str, Any]:
        """Create a notebook's session and return its model."""
        reply = await self("POST", "", {"path": path, "type": "notebook", **more})
        assert reply.code == 201, reply.body
        model: dict[str, Any] = json.loads(reply.body)
        return model

    async def models(self, query: str = "") -> list[dict[str, Any]]:
        """Return the models of all listed sessions."""
        reply = await self("GET", query)
        assert reply.code == 200, reply.body
        models: list[dict[str, Any]] = json.loads(reply.body)
        return models


def message(reply: HTTPResponse) -> str:
    """Return the message in an error's body."""
    body = json.loads(reply.body)
    assert isinstance(body["message"], str)
    return str(body["message"])


def make_application(session_manager: Any) -> Application:
    """Return an application that serves this manager's sessions below ``/base``."""
    return Application(
        session_handlers(BaseHandler, "/base/"),
        session_manager=session_manager,
        log_function=lambda handler: None,
    )
