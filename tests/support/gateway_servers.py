"""Servers that use a gateway, and share a store and a namespace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from support.gateway import TOKEN, USER
from support.server import Server, StartServer


class HasUrl(Protocol):
    """A gateway, or a proxy in front of one."""

    @property
    def url(self) -> str:
        """Its address for servers."""


def start_behind(
    start_server: StartServer,
    gateway: HasUrl,
    store_url: str,
    host_name: str = "newest",
    **sections: Mapping[str, Any],
) -> Server:
    """Start a server that uses the gateway. All of them have one namespace.

    ``sections`` are more sections of its configuration.
    """
    client = {"url": gateway.url, "auth_token": TOKEN, **sections.pop("GatewayClient", {})}
    config = {
        "AsyncSessionManager": {"namespace": "of the tests", "store_url": store_url},
        "GatewayClient": client,
        **sections,
    }
    server = start_server(host_name, start=False, config=config)
    server.environment["KERNEL_USERNAME"] = USER
    return server.start()


def ids(server: Server) -> list[tuple[str, str]]:
    """Return the ids of the listed sessions and of their kernels."""
    return [(each["id"], each["kernel"]["id"]) for each in server.list_sessions()]
