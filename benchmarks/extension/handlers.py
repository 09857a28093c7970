"""Routes that only the benchmarks use."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado.web import authenticated

from benchmarks.blocking import BlockingWatch


@functools.lru_cache
def content(size: int) -> bytes:
    """Return so many bytes, which are made once."""
    return b"x" * size


class SendHandler(APIHandler):
    """Sends so many bytes that it has at hand: the limit of what any handler can reach."""

    auth_resource = "sessions"

    @authenticated
    @authorized
    async def get(self) -> None:
        """Send as many bytes as the argument ``size`` says."""
        self.finish(content(int(self.get_query_argument("size"))))

    def compute_etag(self) -> None:
        """Have no ETag, which would be a hash of all bytes."""


@functools.lru_cache
def watch() -> BlockingWatch:
    """Begin to watch the event loop, at the first call. Other benchmarks need not pay for it."""
    loop: Any = asyncio.get_running_loop()
    # There is no public way to the selector.
    return BlockingWatch(loop._selector)  # noqa: SLF001


class BlockedHandler(APIHandler):
    """Tells how long the event loop was blocked at most since the last request of this kind."""

    @authenticated
    async def get(self) -> None:
        """Send the seconds, and begin anew."""
        self.finish({"longest": max(watch().without_collector, default=0.0)})
        watch().clear()


def handlers(base_url: str) -> list[tuple[str, type[Any]]]:
    """Return the routes."""
    return [
        (url_path_join(base_url, "/benchmark/send"), SendHandler),
        (url_path_join(base_url, "/benchmark/blocked"), BlockedHandler),
    ]
