"""Servers that use a gateway, several of which may share a store and a namespace."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import pytest

from support.failpoints import EXTENSION, Failpoints
from support.gateway import TOKEN, USER
from support.server import Server, StartServer

NAMESPACE = "of the tests"


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
    *,
    namespace: str = NAMESPACE,
    options: Mapping[str, Any] = MappingProxyType({}),
    **sections: Mapping[str, Any],
) -> Server:
    """Start a server that uses the gateway.

    ``options`` are those of Server, and ``sections`` are more sections of its configuration.
    """
    client = {"url": gateway.url, "auth_token": TOKEN, **sections.pop("GatewayClient", {})}
    config = {
        "AsyncSessionManager": {"namespace": namespace, "store_url": store_url},
        "GatewayClient": client,
        **sections,
    }
    environment = {"KERNEL_USERNAME": USER, **options.get("environment", {})}
    return start_server(host_name, **{**options, "config": config, "environment": environment})


def die_in_a_start(
    start_server: StartServer,
    gateway: HasUrl,
    store_url: str,
    folder: Path,
    *,
    namespace: str = NAMESPACE,
) -> Server:
    """Return a server that was killed when the gateway had started its first kernel.

    Nothing but an intent tells of the kernel.
    """
    failpoints = Failpoints(folder / "failpoints")
    options = {"extensions": EXTENSION, "environment": failpoints.environment}
    server = start_behind(start_server, gateway, store_url, namespace=namespace, options=options)
    failpoints.set("kill", "after start")
    with pytest.raises((http.client.HTTPException, OSError)):
        server.create("a.ipynb")
    server.wait_for_end()
    failpoints.clear("kill")
    return server


def ids(server: Server) -> list[tuple[str, str]]:
    """Return the ids of the listed sessions and of their kernels."""
    return [(each["id"], each["kernel"]["id"]) for each in server.list_sessions()]
