"""A fleet from the files in docs/deploy/fleet: a balancer, servers, a database and a gateway."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.balancers import BALANCERS, FILES
from support.gateway import TOKEN, USER, Gateway
from support.postgres import shared_cluster
from support.rest import RestClient
from support.server import Server, StartServer

SIZE = 3
"""The number of servers in the files."""


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """The parts of a running fleet."""

    balancer: RestClient
    """A client whose requests go through the balancer."""
    servers: Sequence[Server]
    gateway: Gateway
    schema: str
    """The URL of the database."""

    def listed(self) -> list[set[tuple[str, str, str]]]:
        """Return the session id, path and kernel id of each session, as each server lists them."""
        return [
            {(each["id"], each["path"], each["kernel"]["id"]) for each in server.list_sessions()}
            for server in self.servers
        ]


@contextmanager
def running_fleet(
    folder: Path,
    start_server: StartServer,
    *,
    balancer: str = "nginx",
    gateway_kind: str = "kernel",
    host_name: str = "newest",
    config: Mapping[str, Mapping[str, Any]] | None = None,
) -> Iterator[Fleet]:
    """Start all parts of a fleet. ``config`` adds to the configuration of the servers."""
    shared = folder / "shared"
    _make_shared_folder(shared)
    schema = shared_cluster().make_schema()
    gateway = _gateway(gateway_kind, folder / "gateway")
    try:
        gateway.start()
        variables = {
            "NBSESSIONS_STORE_URL": schema,
            "JUPYTER_GATEWAY_URL": gateway.url,
            "JUPYTER_GATEWAY_AUTH_TOKEN": TOKEN,
            "KERNEL_USERNAME": USER,
            "FLEET_FOLDER": str(shared),
        }
        servers = [
            _server(start_server, host_name, shared, variables, config or {}) for _ in range(SIZE)
        ]
        with ThreadPoolExecutor(SIZE) as pool:
            list(pool.map(Server.start, servers))
        addresses = [f"127.0.0.1:{server.port}" for server in servers]
        with BALANCERS[balancer](folder / "balancer", addresses) as url:
            yield Fleet(
                balancer=servers[0].behind(url), servers=servers, gateway=gateway, schema=schema
            )
    finally:
        gateway.clean_up()


def _make_shared_folder(shared: Path) -> None:
    (shared / "notebooks").mkdir(parents=True)
    secret = shared / "cookie_secret"
    secret.touch(mode=0o600)
    secret.write_text(secrets.token_urlsafe())


def _gateway(kind: str, folder: Path) -> Gateway:
    return Gateway(kind, folder, deployed=FILES / f"jupyter_{kind}_gateway_config.py")


def _server(
    start_server: StartServer,
    host_name: str,
    shared: Path,
    variables: Mapping[str, str],
    config: Mapping[str, Mapping[str, Any]],
) -> Server:
    server = start_server(
        host_name,
        start=False,
        root_dir=shared / "notebooks",
        config=config,
        environment=variables,
    )
    shutil.copy(FILES / "jupyter_server_config.py", server.config_dir)
    return server
