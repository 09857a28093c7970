"""The handlers of ``/api/sessions``. They leave all decisions to the session manager."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from http.client import responses
from importlib.resources import files
from typing import Any, cast

from jupyter_core.utils import ensure_async
from tornado.web import RequestHandler, authenticated

from nbsessions.errors import InvalidRequest, NotSupported
from nbsessions.handlers.bodies import create_arguments, update_arguments
from nbsessions.httperrors import RETRY_AFTER, error_body, http_error
from nbsessions.replies import Encoded, encode, reply_model, reply_models

SESSION_ID = r"(?P<session_id>\w+-\w+-\w+-\w+-\w+)"

MOST_IDS = 100
"""The maximum number of sessions that one request for the status may name."""

Method = Callable[..., Awaitable[None]]


def operation(action: str) -> Callable[[Method], Method]:
    """Decorate a handler method.

    The method then requires a user who is authorized for ``action`` ("read" or "write"), and its
    errors are converted to HTTP errors.
    """

    def decorate(method: Method) -> Method:
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

        return cast(Method, verb)

    return decorate


class SessionsHandlerMixin(RequestHandler):
    """The common part of all routes, to be combined with a base handler that authenticates users.

    The session manager is the application's setting ``session_manager``.
    """

    auth_resource = "sessions"
    allowed_methods: tuple[str, ...] = ()
    _version: str | None = None

    @property
    def session_manager(self) -> Any:
        """The configured session manager, sync or async."""
        return self.settings["session_manager"]

    async def authorize(self, action: str) -> None:
        """Raise HTTPError(403) unless the base handler allows the current user to do this."""
        base = getattr(super(), "authorize", None)
        if base is not None:
            await base(action)

    def reply(self, status_code: int, content: object) -> None:
        """Send the content as JSON."""
        self.set_status(status_code)
        self.set_header("Content-Type", "application/json")
        self.finish(encode(content))

    def reply_encoded(self, encoded: Encoded) -> None:
        """Send what is encoded, or 304 if the client has this version of it."""
        self._version = encoded.version
        self.set_header("Content-Type", "application/json")
        self.finish(encoded.content)

    def compute_etag(self) -> str | None:
        """Return the version of what is sent. Tornado would hash all of it."""
        return super().compute_etag() if self._version is None else f'"{self._version}"'

    def argument(self, name: str) -> str | None:
        """Return the last query argument with this name exactly as it was sent, or None."""
        # Tornado's own method strips blanks and control characters, which paths may contain.
        values = self.request.query_arguments.get(name)
        return self.decode_argument(values[-1], name) if values else None

    def flag(self, name: str) -> bool:
        """Return a boolean query argument (``true`` or ``false``). The default is False."""
        value = "false" if (sent := self.argument(name)) is None else sent.lower()
        if value not in ("true", "false"):
            raise InvalidRequest(name, "is neither true nor false")
        return value == "true"

    async def options(self, *args: str, **kwargs: str) -> None:
        """Tell which methods the route has, as the base handler does if it has such a method."""
        base = super().options
        self.set_header("Allow", ", ".join(self.allowed_methods))
        if getattr(base, "__func__", base) is RequestHandler.options:
            self.set_status(204)
        else:
            await ensure_async(base(*args, **kwargs))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1]
        if status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            self.set_header("Allow", ", ".join(self.allowed_methods))
        if status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            self.set_header("Retry-After", str(RETRY_AFTER))
        # Replies of gateways may have nonstandard status codes.
        phrase = responses.get(status_code, "Unknown error")
        body = error_body(error, status_code, phrase)
        self.set_header("Content-Type", "application/json")
        self.finish(encode(body))


class SessionRootHandlerMixin(SessionsHandlerMixin):
    """The handler of ``/api/sessions``."""

    allowed_methods = ("GET", "POST", "OPTIONS")

    @operation("read")
    async def get(self) -> None:
        """List the sessions. The query arguments path, type and kernel_id filter them."""
        given = {column: self.argument(column) for column in ("path", "type", "kernel_id")}
        columns = {column: value for column, value in given.items() if value is not None}
        encode_sessions = getattr(self.session_manager, "encode_sessions", None)
        if encode_sessions is not None:
            self.reply_encoded(await ensure_async(encode_sessions(**columns)))
            return
        models = await ensure_async(self.session_manager.list_sessions())
        self.reply(200, reply_models(models, **columns))

    @operation("write")
    async def post(self) -> None:
        """Return the session of a path, creating it if necessary. The status is always 201."""
        arguments = create_arguments(self.request.body)
        model = await ensure_async(self.session_manager.create_session(**arguments))
        self.set_header("Location", f"{self.request.path}/{model['id']}")
        self.reply(201, reply_model(model))


class SessionHandlerMixin(SessionsHandlerMixin):
    """The handler of ``/api/sessions/ID``."""

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
        """End the session. Its kernel is shut down if no other session uses it."""
        force = {"force_kernel_shutdown": True} if self.flag("force_kernel_shutdown") else {}
        await ensure_async(self.session_manager.delete_session(session_id, **force))
        self.set_status(204)
        self.finish()

    async def _reply_session(self, session_id: str) -> None:
        encode_session = getattr(self.session_manager, "encode_session", None)
        if encode_session is not None:
            self.reply_encoded(await ensure_async(encode_session(session_id)))
            return
        model = await ensure_async(self.session_manager.get_session(session_id=session_id))
        self.reply(200, reply_model(model))


class StatusHandlerMixin(SessionsHandlerMixin):
    """The handler of ``/api/sessions/status``, which tells why sessions are gone."""

    allowed_methods = ("GET", "OPTIONS")

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Cache-Control", "no-store")

    @operation("read")
    async def get(self) -> None:
        """Tell which of the sessions named by ``id`` this server does not serve, and why.

        Also tell what the clients of kernels had missed that ``client`` names.
        """
        session_ids, clients = self._list_argument("id"), self._list_argument("client")
        get_status = getattr(self.session_manager, "get_status", None)
        if get_status is None:
            raise NotSupported("the status of sessions")
        # Managers of other classes may not know what clients had missed.
        asked = (session_ids, clients) if clients else (session_ids,)
        self.reply(200, await ensure_async(get_status(*asked)))

    def _list_argument(self, name: str) -> list[str]:
        sent = self.request.query_arguments.get(name, [])
        if len(sent) > MOST_IDS:
            raise InvalidRequest(name, f"is given more than {MOST_IDS} times")
        return [self.decode_argument(each, name) for each in sent]


class DescriptionHandlerMixin(SessionsHandlerMixin):
    """The handler of ``/api/sessions/openapi.json``, which describes these routes."""

    allowed_methods = ("GET", "OPTIONS")
    description = b""

    @operation("read")
    async def get(self) -> None:
        """Get the description."""
        self.set_header("Content-Type", "application/json")
        self.finish(self.description)


def session_handlers(
    base_handler: type[RequestHandler], base_url: str = "/"
) -> list[tuple[str, type[RequestHandler]]]:
    """Return the routes, for ``Application.add_handlers``.

    ``base_handler`` authenticates users. Its ``current_user`` (or ``prepare``) identifies the
    user, and its ``get_login_url`` determines the reply to users who are not logged in. If it has
    a coroutine method ``authorize(action)``, this is called with "read" or "write" and may raise
    HTTPError(403).
    """
    root = f"{base_url.rstrip('/')}/api/sessions"
    description = files(__package__).joinpath("openapi.json").read_bytes()
    return [
        (root, type("SessionRootHandler", (SessionRootHandlerMixin, base_handler), {})),
        (
            rf"{root}/openapi\.json",
            type(
                "DescriptionHandler",
                (DescriptionHandlerMixin, base_handler),
                {"description": description},
            ),
        ),
        (f"{root}/status", type("StatusHandler", (StatusHandlerMixin, base_handler), {})),
        (
            f"{root}/{SESSION_ID}",
            type("SessionHandler", (SessionHandlerMixin, base_handler), {}),
        ),
    ]
