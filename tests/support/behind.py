"""Servers behind a gateway, several of which may have one store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from support.gateway import TOKEN, USER, Gateway
from support.postgres import shared_cluster
from support.server import Server, StartServer

NAMESPACE = "of the tests"


@contextmanager
def running_gateway(kind: str, folder: Path, *, lists: bool = True) -> Iterator[Gateway]:
    """Yield a gateway of this kind that runs. See Gateway for the other arguments."""
    gateway = Gateway(kind, folder / "gateway", lists=lists)
    try:
        yield gateway.start()
    finally:
        gateway.clean_up()


def make_store_url(kind: str, folder: Path) -> str:
    """Return the URL of a new store: ``postgres``, or a file in the folder."""
    if kind == "postgres":
        return shared_cluster().make_schema()
    return f"sqlite://{folder / 'sessions.db'}"


def prepare_behind(
    start_server: StartServer,
    gateway: Gateway,
    store_url: str,
    *,
    namespace: str = NAMESPACE,
    environment: Mapping[str, str] | None = None,
    orphan_timeout: float = 0.0,
) -> Server:
    """Return a server that uses the gateway and does not run yet."""
    config = {
        "AsyncSessionManager": {"namespace": namespace, "store_url": store_url},
        "GatewayClient": {"url": gateway.url, "auth_token": TOKEN},
        "GatewayKernels": {"orphan_timeout": orphan_timeout},
    }
    server = start_server(start=False, config=config, environment=environment)
    server.environment["KERNEL_USERNAME"] = USER
    return server
