"""Sends requests to the gateway, with the settings of the server's own gateway client."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from socket import gaierror
from ssl import SSLCertVerificationError
from textwrap import shorten
from typing import Any
from urllib.parse import quote, urlsplit

from jupyter_server.gateway.gateway_client import GatewayClient, RetryableHTTPClient
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPResponse

from nbsessions.kernels.gateway.events import emit_request

_MAX_REQUESTS = 100
"""How many requests may be under way at once, so that some that hang do not delay the others."""

_NEVER_SENT = (ConnectionRefusedError, gaierror, SSLCertVerificationError, UnicodeError)
"""Errors that come before the request is sent. UnicodeError: the host's name has too long a part.

Other TLS errors may come after it.
"""
_NO_ANSWER = 599
"""Tornado's status for a time-out and for a connection that was closed before the answer."""
_OF_PROXIES = frozenset({502, 503, 504})
"""Statuses that a proxy may send while the gateway carries the request out."""

_TOLD = 300
"""How many characters of the gateway's own explanation are used."""


class GatewayError(Exception):
    """The gateway did not answer, or not with success."""

    def __init__(self, message: str, *, status: int | None = None, done: bool = True) -> None:
        """``done``: whether the gateway is certainly not at work on the request any more."""
        super().__init__(message)
        self.status = status
        self.done = done
        self.body = ""

    def is_missing(self, name: str | None = None) -> bool:
        """Return whether the answer is a 404, and its message names what is missing, if given.

        A proxy, or a gateway with another base URL, answers 404 to everything. The page of a
        proxy may have the URL in it.
        """
        if self.status != 404 or name is None:
            return self.status == 404
        # Names may be short: "r" is in most messages, but not as a word.
        word = rf"(?<!\w){re.escape(name)}(?!\w)"
        return re.search(word, self._text("message")) is not None

    @property
    def told(self) -> str:
        """What the gateway tells its clients about the problem. Empty if it tells nothing."""
        # Enterprise Gateway has the explanations of failed launches in the reason.
        told = self._text("message") or self._text("reason")
        return shorten(told, _TOLD, placeholder=" …")

    def __str__(self) -> str:
        return ": ".join(filter(None, (*self.args, self.told)))

    def _text(self, key: str) -> str:
        """Return a text of the answer's JSON. Empty if there is none."""
        try:
            answer = json.loads(self.body)
        except (ValueError, RecursionError):
            return ""
        text = answer.get(key) if isinstance(answer, dict) else None
        return text if isinstance(text, str) else ""


class GatewayRequests:
    """The gateway's REST API. Used on one event loop."""

    def __init__(self) -> None:
        self._http: AsyncHTTPClient | None = None

    @property
    def url(self) -> str:
        """The URL of the gateway without credentials, which identifies the gateway."""
        parts = urlsplit(GatewayClient.instance().url or "")
        host = parts.netloc.rpartition("@")[2].lower()
        return f"{parts.scheme.lower()}://{host}{parts.path}".rstrip("/")

    @property
    def follows_cookies(self) -> bool:
        """Whether cookies, which each server has for itself, may lead to different gateways."""
        return bool(GatewayClient.instance().accept_cookies)

    @property
    def start_timeout(self) -> float:
        """How many seconds the gateway may be at work on a start."""
        # jupyter_server makes it longer than the time-out for a launch, which the gateway gets.
        options = GatewayClient.instance().load_connection_args()  # type: ignore[no-untyped-call]
        timeout: float = options["request_timeout"]
        return timeout

    async def kernels(
        self, method: str, *path: str, body: Any = None, timeout: float | None = None
    ) -> Any:
        """Send a request about kernels, and return the JSON of the answer. None if it is empty.

        ``timeout`` limits the seconds that the gateway client allows for one attempt. Raises
        GatewayError.
        """
        endpoint = GatewayClient.instance().kernels_endpoint
        return _decoded(await self._request(method, endpoint, *path, body=body, timeout=timeout))

    async def list_kernels(self, *, timeout: float) -> Any:
        """Return the gateway's list of kernels. See ``kernels``."""
        try:
            return await self.kernels("GET", timeout=timeout)
        except GatewayError as error:
            if error.status != 500:
                raise
        # A gateway cannot list its kernels in the moment in which it adds one.
        return await self.kernels("GET", timeout=timeout)

    async def kernelspec(self, name: str) -> Any:
        """Return a kernelspec. Raises GatewayError."""
        endpoint = GatewayClient.instance().kernelspecs_endpoint
        return _decoded(await self._request("GET", endpoint, name))

    async def about(self, *, timeout: float) -> tuple[Any, datetime | None]:
        """Return what the gateway tells about itself, and the time by its clock, if it tells it.

        Raises GatewayError.
        """
        parent = GatewayClient.instance().kernels_endpoint.rstrip("/").rpartition("/")[0]
        response = await self._request("GET", parent, timeout=timeout)
        return _decoded(response), _time_of(response)

    async def _request(
        self,
        method: str,
        endpoint: str,
        *path: str,
        body: Any = None,
        timeout: float | None = None,
    ) -> HTTPResponse:
        client = GatewayClient.instance()
        address = "/".join(
            [
                (client.url or "").rstrip("/"),
                endpoint.strip("/"),
                *(quote(each, "") for each in path),
            ]
        )
        headers = {} if body is None else {"Content-Type": "application/json"}
        options = client.load_connection_args(headers=headers)  # type: ignore[no-untyped-call]
        if timeout is not None:
            for limit in ("connect_timeout", "request_timeout"):
                options[limit] = min(timeout, options[limit])
        if body is not None:
            options["body"] = json.dumps(body)
        elif method == "POST":
            options["body"] = ""
        response = await self._fetch(address, method, options)
        if client.accept_cookies:
            client.update_cookies(response.headers)
        return response

    async def _fetch(self, address: str, method: str, options: dict[str, Any]) -> HTTPResponse:
        retrying = RetryableHTTPClient()  # type: ignore[no-untyped-call]
        if self._http is None:
            self._http = AsyncHTTPClient(force_instance=True, max_clients=_MAX_REQUESTS)
        retrying.client = self._http
        try:
            response = await retrying.fetch(address, method=method, **options)
        except HTTPClientError as error:
            emit_request(error.code, str(error.message or error))
            raise _answer(error) from error
        except (OSError, ValueError) as error:
            emit_request(HTTPStatus.SERVICE_UNAVAILABLE, repr(error))
            never_sent = isinstance(error, _NEVER_SENT)
            raise GatewayError(f"no answer: {error!r}", done=never_sent) from error
        emit_request(response.code)
        return response


def _answer(error: HTTPClientError) -> GatewayError:
    if error.code == _NO_ANSWER:
        return GatewayError(f"no answer: {error.message}", done=False)
    failure = GatewayError(
        f"the answer is {error.code}", status=error.code, done=error.code not in _OF_PROXIES
    )
    if error.response is not None:
        failure.body = error.response.body.decode(errors="replace")
    return failure


def _decoded(response: HTTPResponse) -> Any:
    if not response.body:
        return None
    try:
        return json.loads(response.body)
    except (ValueError, RecursionError) as error:
        # What answers may not be the gateway, so it is not known what that does.
        raise GatewayError("the answer is not JSON", done=False) from error


def _time_of(response: HTTPResponse) -> datetime | None:
    try:
        moment = parsedate_to_datetime(response.headers["Date"])
    except (KeyError, TypeError, ValueError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
