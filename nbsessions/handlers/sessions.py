"""The handlers of ``/api/sessions``. They decide nothing: the session manager does."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from http.client import responses
from typing import Any, cast

import msgspec
from jupyter_core.utils import ensure_async
from tornado.web import RequestHandler, authenticated

from nbsessions.errors import InvalidRequest
from nbsessions.handlers.bodies import create_arguments, update_arguments
from nbsessions.handlers.models import reply_model
from nbsessions.httperrors import RETRY_AFTER, error_body, http_error
from nbsessions.models import document_of

SESSION_ID = r"(?P<session_id>\w+-\w+-\w+-\w+-\w+)"

Verb = Callable[..., Awaitable[None]]


def operation(action: str) -> Callable[[Verb], Verb]:
    """Decorate a verb: authenticated, authorised for ``action`` (read or write), its errors
    translated.
    """

    def decorate(method: Verb) -> Verb:
        @authenticated
        @functools.wraps(method)
        async def verb(self: SessionsHandlerMixin, *args: Any, **kwargs: Any) -> None:
            try:
                await self.authorize(action)
                await method(self, *args, **kwargs)
            except Exception as error:
                known = http_error(error)
                if known is None or known is error:
                    raise
                raise known from error

        return cast(Verb, verb)

    return decorate


class SessionsHandlerMixin(RequestHandler):
    """What both routes share; goes before a base handler that authenticates requests.

    The session manager is the application's setting ``session_manager``.
    """

    auth_resource = "sessions"
    allowed_methods: tuple[str, ...] = ()

    @property
    def session_manager(self) -> Any:
        """The configured session manager, sync or async."""
        return self.settings["session_manager"]

    async def authorize(self, action: str) -> None:
        """Raise HTTPError(403) unless the current user may do this: the base handler's word."""
        base = getattr(super(), "authorize", None)
        if base is not None:
            await base(action)

    def reply(self, status_code: int, content: object) -> None:
        """Send the content as JSON."""
        self.set_status(status_code)
        self.set_header("Content-Type", "application/json")
        self.finish(msgspec.json.encode(content))

    def flag(self, name: str) -> bool:
        """Return a query argument that is ``true`` or ``false``; absent means false."""
        value = self.get_query_argument(name, "false").lower()
        if value not in ("true", "false"):
            raise InvalidRequest(name, "is neither true nor false")
        return value == "true"

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1]
        if status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            self.set_header("Allow", ", ".join(self.allowed_methods))
        if status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            self.set_header("Retry-After", str(RETRY_AFTER))
        # Gateways have status codes of their own.
        phrase = responses.get(status_code, "Unknown error")
        body = error_body(error, status_code, phrase)
        self.set_header("Content-Type", "application/json")
        self.finish(msgspec.json.encode(body))


class SessionRootHandlerMixin(SessionsHandlerMixin):
    """``/api/sessions``: all sessions, and new ones."""

    allowed_methods = ("GET", "POST", "OPTIONS")

    @operation("read")
    async def get(self) -> None:
        """List the sessions; ``path``, ``type`` and ``kernel_id`` in the query filter."""
        models = await ensure_async(self.session_manager.list_sessions())
        path = self.get_query_argument("path", None)
        type_ = self.get_query_argument("type", None)
        kernel_id = self.get_query_argument("kernel_id", None)
        self.reply(
            200,
            [
                reply_model(model)
                for model in models
                if (path is None or document_of(model["path"]) == document_of(path))
                and (type_ is None or model["type"] == type_)
                and (kernel_id is None or model["kernel"]["id"] == kernel_id)
            ],
        )

    @operation("write")
    async def post(self) -> None:
        """Find the session of a path or create it: 201 and its model, also when it was there."""
        arguments = create_arguments(self.request.body)
        model = await ensure_async(self.session_manager.create_session(**arguments))
        self.set_header("Location", f"{self.request.path.rstrip('/')}/{model['id']}")
        self.reply(201, reply_model(model))


class SessionHandlerMixin(SessionsHandlerMixin):
    """``/api/sessions/ID``: one session."""

    allowed_methods = ("GET", "PATCH", "DELETE", "OPTIONS")

    @operation("read")
    async def get(self, session_id: str) -> None:
        """Get the model of the session."""
        await self._reply_session(session_id)

    @operation("write")
    async def patch(self, session_id: str) -> None:
        """Change the session's path, name, type or kernel."""
        arguments = update_arguments(self.request.body)
        if self.flag("force_kernel_shutdown"):
            arguments["force_kernel_shutdown"] = True
        await ensure_async(self.session_manager.update_session(session_id, **arguments))
        await self._reply_session(session_id)

    @operation("write")
    async def delete(self, session_id: str) -> None:
        """End the session, and its kernel with it when no other session holds it."""
        force = {"force_kernel_shutdown": True} if self.flag("force_kernel_shutdown") else {}
        await ensure_async(self.session_manager.delete_session(session_id, **force))
        self.set_status(204)
        self.finish()

    async def _reply_session(self, session_id: str) -> None:
        model = await ensure_async(self.session_manager.get_session(session_id=session_id))
        self.reply(200, reply_model(model))


def session_handlers(
    base_handler: type[RequestHandler], base_url: str = "/"
) -> list[tuple[str, type[RequestHandler]]]:
    """Return the routes, for ``Application.add_handlers``.

    ``base_handler`` authenticates: its ``current_user`` (or ``prepare``) tells who asks, its
    ``get_login_url`` what becomes of those who may not. Where it has a coroutine method
    ``authorize(action)``, that is asked too, with "read" or "write".
    """
    root = f"{base_url.rstrip('/')}/api/sessions"
    return [
        (root, type("SessionRootHandler", (SessionRootHandlerMixin, base_handler), {})),
        (
            f"{root}/{SESSION_ID}",
            type("SessionHandler", (SessionHandlerMixin, base_handler), {}),
        ),
    ]
