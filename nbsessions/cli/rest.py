"""Asks a running server for its sessions and kernels, or to end them."""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import socket
import ssl
from typing import Any
from urllib.parse import quote

from nbsessions.cli.errors import ServerUnreachable
from nbsessions.cli.running_servers import RunningServer

_READ_TIMEOUT = 10.0
_STOP_TIMEOUT = 60.0
"""Seconds that a server may take to shut down a kernel, which can be slow."""
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_DENIED = {301, 302, 401, 403}


class ServerClient:
    """A client for one server's REST API. All methods block and raise ServerUnreachable.

    Proxy settings in the environment are ignored: the server runs on this machine.
    """

    def __init__(self, server: RunningServer) -> None:
        self._server = server

    def list_sessions(self) -> list[dict[str, Any]]:
        """Return the models of all sessions."""
        return self._get_list("/api/sessions")

    def list_kernels(self) -> list[dict[str, Any]]:
        """Return the models of all kernels."""
        return self._get_list("/api/kernels")

    def delete_session(self, session_id: str) -> None:
        """Have the server end a session. It may have ended already."""
        path = f"/api/sessions/{quote(session_id, safe='')}"
        status, _ = self._request("DELETE", path, _STOP_TIMEOUT)
        if status not in (204, 404):
            raise self._error(f"answered {status} when asked to end {session_id}")

    def shutdown_kernel(self, kernel_id: str) -> None:
        """Have the server shut down a kernel. It may have ended already."""
        path = f"/api/kernels/{quote(kernel_id, safe='')}"
        status, _ = self._request("DELETE", path, _STOP_TIMEOUT)
        if status not in (204, 404):
            raise self._error(f"answered {status} when asked to shut down {kernel_id}")

    def _get_list(self, path: str) -> list[dict[str, Any]]:
        status, body = self._request("GET", path, _READ_TIMEOUT)
        if status != 200:
            raise self._error(f"answered {status} to {path}")
        try:
            models = json.loads(body)
        except ValueError:
            models = None
        if not isinstance(models, list):
            raise self._error(f"did not answer {path} with a list")
        return [model for model in models if isinstance(model, dict)]

    def _request(self, method: str, path: str, timeout: float) -> tuple[int, bytes]:
        server = self._server
        connection = _connect(server, timeout)
        # A server without a token requires the same XSRF value in the cookie and in the header.
        xsrf = secrets.token_hex(16)
        headers = {"Cookie": f"_xsrf={xsrf}", "X-XSRFToken": xsrf, "Accept": "application/json"}
        if server.token:
            headers["Authorization"] = f"token {server.token}"
        try:
            with contextlib.closing(connection):
                connection.request(method, server.base_url.rstrip("/") + path, headers=headers)
                response = connection.getresponse()
                status, body = response.status, response.read()
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise self._error(f"does not answer ({error or type(error).__name__})") from error
        if status in _DENIED and not server.token:
            raise self._error(
                "cannot be asked, because it requires a password or another login, and has no "
                "token. To allow it, start the server with the environment variable "
                "JUPYTER_TOKEN set to a secret. Users can then log in as before"
            )
        if status in _DENIED:
            raise self._error(f"rejects the token from its info file (it answered {status})")
        return status, body

    def _error(self, problem: str) -> ServerUnreachable:
        return ServerUnreachable(self._server.url, problem)


def _connect(server: RunningServer, timeout: float) -> http.client.HTTPConnection:
    if server.socket is not None:
        return _UnixConnection(server.socket, timeout)
    if not server.secure:
        return http.client.HTTPConnection(server.host, server.port, timeout=timeout)
    context = ssl.create_default_context()
    if server.host in _LOOPBACK:
        # The certificate may be self-signed, or issued for the machine's network name.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(server.host, server.port, timeout=timeout, context=context)


class _UnixConnection(http.client.HTTPConnection):
    """An HTTP connection over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path
        self._socket_timeout = timeout

    def connect(self) -> None:
        """Connect to the Unix socket instead of a TCP port."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._socket_timeout)
        self.sock.connect(self._path)
