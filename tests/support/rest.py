"""A REST client: requests with or without a token or cookies, and code run in a kernel."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from contextlib import closing
from http.cookies import SimpleCookie
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from support.channel import Channel

SESSIONS = "/api/sessions"
_TIMEOUT = 60.0


class Reply(NamedTuple):
    """A reply. The names of its headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    cookies: Mapping[str, str]

    def json(self) -> Any:
        """Return the body, parsed as JSON."""
        return json.loads(self.body)

    @property
    def message(self) -> str:
        """The ``message`` of an error's body."""
        message = self.json()["message"]
        assert isinstance(message, str)
        return message


class RestClient:
    """A client for one server on the loopback interface."""

    def __init__(self, *, base_url: str, token: str) -> None:
        self.base_url = base_url
        self.token = token
        self.port = 0

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        with_token: bool = True,
        connection: http.client.HTTPConnection | None = None,
    ) -> Reply:
        """Send a request to a path below the base URL.

        A ``body`` of bytes is sent as it is, anything else as JSON. ``connection`` is an open
        connection to reuse.
        """
        if connection is not None:
            return self._exchange(connection, method, path, body, headers or {}, with_token)
        with self.connect() as own:
            return self._exchange(own, method, path, body, headers or {}, with_token)

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: object,
        headers: Mapping[str, str],
        with_token: bool,
    ) -> Reply:
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        token = {"Authorization": f"token {self.token}"} if with_token else {}
        connection.request(method, self.url_path(path), sent, {**headers, **token})
        try:
            answer = connection.getresponse()
            content = answer.read()
        except TimeoutError as error:
            what = f"{method} {path} was not answered within {connection.timeout} s"
            raise TimeoutError(f"{what}\n{self.explain_silence()}") from error
        cookies: SimpleCookie = SimpleCookie()
        for value in answer.headers.get_all("Set-Cookie", []):
            cookies.load(value)
        return Reply(
            answer.status,
            {name.lower(): value for name, value in answer.getheaders()},
            content,
            {name: morsel.value for name, morsel in cookies.items()},
        )

    def explain_silence(self) -> str:
        """Return what the server is doing, as far as it can be found out."""
        return ""

    def answers(self) -> bool:
        """Return whether the server has begun to answer."""
        try:
            return self.request("GET", "/api/status").status == 200
        except OSError:
            return False

    def connect(self) -> closing[http.client.HTTPConnection]:
        """Return a connection that is closed at the end of a ``with``."""
        return closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=_TIMEOUT))

    def url_path(self, path: str) -> str:
        """Return the path below the base URL."""
        return self.base_url.rstrip("/") + path

    def page_url(self, path: str, *, with_token: bool = True) -> str:
        """Return the address of a page for a browser."""
        query = f"?token={self.token}" if with_token else ""
        return f"http://127.0.0.1:{self.port}{self.url_path(path)}{query}"

    def behind(self, url: str) -> RestClient:
        """Return a client that sends its requests to a proxy in front of the server."""
        client = RestClient(base_url=self.base_url, token=self.token)
        port = urlsplit(url).port
        assert port is not None
        client.port = port
        return client

    # Sessions

    def post(self, body: object, **options: Any) -> Reply:
        """POST to ``/api/sessions``."""
        return self.request("POST", SESSIONS, body, **options)

    def create(
        self, path: str, kernel: str | Mapping[str, str] = "light", **more: object
    ) -> dict[str, Any]:
        """Create a notebook session and return its model.

        ``kernel`` is a kernelspec name, or the kernel object of the body.
        """
        wanted = {"name": kernel} if isinstance(kernel, str) else kernel
        reply = self.post({"path": path, "type": "notebook", "kernel": wanted, **more})
        assert reply.status == 201, (reply.status, reply.body)
        model: dict[str, Any] = reply.json()
        return model

    def list_sessions(self, query: str = "") -> list[dict[str, Any]]:
        """Return the models of all listed sessions."""
        reply = self.request("GET", SESSIONS + query)
        assert reply.status == 200, (reply.status, reply.body)
        models: list[dict[str, Any]] = reply.json()
        return models

    def get(self, session_id: str) -> Reply:
        """GET one session."""
        return self.request("GET", f"{SESSIONS}/{session_id}")

    def patch(self, session_id: str, body: object, query: str = "") -> Reply:
        """PATCH one session."""
        return self.request("PATCH", f"{SESSIONS}/{session_id}{query}", body)

    def delete(self, session_id: str, query: str = "") -> Reply:
        """DELETE one session."""
        return self.request("DELETE", f"{SESSIONS}/{session_id}{query}")

    # Kernels

    def start_kernel(self, name: str = "light") -> str:
        """Start a kernel without a session through ``/api/kernels``, and return its id."""
        reply = self.request("POST", "/api/kernels", {"name": name})
        assert reply.status == 201, (reply.status, reply.body)
        kernel_id: str = reply.json()["id"]
        return kernel_id

    def kernel_ids(self) -> set[str]:
        """Return the ids of the kernels that the server lists."""
        return {model["id"] for model in self.request("GET", "/api/kernels").json()}

    def execute(self, kernel_id: str, code: str) -> str:
        """Run code over the kernel's websocket and return its result as plain text."""
        with Channel(self, kernel_id) as channel:
            return channel.execute(code)

    # Browsers

    def log_in(self) -> dict[str, str]:
        """Log in as a browser does and return its cookies, ``_xsrf`` among them."""
        page = self.request("GET", "/login", with_token=False)
        cookies = dict(page.cookies)
        form = urlencode({"_xsrf": cookies["_xsrf"], "password": self.token}).encode()
        headers = {
            "Cookie": cookie_header(cookies),
            "Content-Type": "application/x-www-form-urlencoded",
        }
        reply = self.request("POST", "/login", form, headers=headers, with_token=False)
        assert reply.status == 302, (reply.status, reply.body)
        return {**cookies, **reply.cookies}


def cookie_header(cookies: Mapping[str, str]) -> str:
    """Return the value of a ``Cookie`` header."""
    return "; ".join(f"{name}={value}" for name, value in cookies.items())
