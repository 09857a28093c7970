"""Servers behind a balancer that answer requests, or read them and hang up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HEALTH = "/api"
"""The path that is always answered. Balancers ask for it to find out which servers are there."""


class Upstream(ThreadingHTTPServer):
    """One server. It notes the requests that it has read."""

    def __init__(self, *, dies: bool, status: int = 200) -> None:
        """``dies``: it hangs up on each request, as a server does that is killed."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.dies = dies
        self.status = status
        self.requests: list[str] = []

    @property
    def address(self) -> str:
        """The host and the port."""
        return f"127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Upstream

    def do_any(self) -> None:
        """Handle a request of any method."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != HEALTH:
            self.server.requests.append(self.command)
            if self.server.dies:
                self.close_connection = True
                return
        self.send_response(200 if self.path == HEALTH else self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


for _method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
    setattr(_Handler, f"do_{_method}", _Handler.do_any)


@contextmanager
def running_upstream(*, dies: bool = False, status: int = 200) -> Iterator[Upstream]:
    """Run a server in a thread."""
    with Upstream(dies=dies, status=status) as upstream:
        thread = threading.Thread(target=upstream.serve_forever, daemon=True)
        thread.start()
        try:
            yield upstream
        finally:
            upstream.shutdown()
            thread.join()
