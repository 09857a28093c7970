"""Balancers with the configurations in docs/deploy/fleet."""

from __future__ import annotations

import http.client
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest

from support.environments import REPOSITORY, python_of
from support.nginx import running_configuration
from support.ports import reserve_server_port
from support.waiting import wait_until

FILES = REPOSITORY / "docs" / "deploy" / "fleet"

_ADDRESSES = ("10.0.0.11:8888", "10.0.0.12:8888", "10.0.0.13:8888")
"""The servers in the files."""

Balancer = Callable[[Path, Sequence[str]], AbstractContextManager[str]]
"""Runs a balancer in a new folder, for three addresses, and yields its URL."""


_TIMEOUT = 30.0


@contextmanager
def _running_nginx(folder: Path, addresses: Sequence[str]) -> Iterator[str]:
    with reserve_server_port() as holder:
        port = holder.getsockname()[1]
        changes = {"listen 80;": f"listen 127.0.0.1:{port};"}
        text = _changed("nginx.conf", changes, addresses)
        with running_configuration(folder, text, port) as url:
            yield url


def _changed(name: str, changes: Mapping[str, str], addresses: Sequence[str] = ()) -> str:
    """Return the text of a file with its addresses and ports replaced."""
    text = (FILES / name).read_text()
    servers = dict(zip(_ADDRESSES, addresses, strict=True)) if addresses else {}
    for old, new in {**changes, **servers}.items():
        assert text.count(old) == 1, f"{old!r} is not once in {name}"
        text = text.replace(old, new)
    return text


@contextmanager
def _running_traefik(folder: Path, addresses: Sequence[str]) -> Iterator[str]:
    folder.mkdir()
    command = Path(python_of("traefik")).with_name("traefik")
    rules, settings = folder / "fleet.yaml", folder / "traefik.yaml"
    rules.write_text(_changed("traefik-fleet.yaml", {}, addresses))
    with reserve_server_port() as holder:
        port = holder.getsockname()[1]
        changes = {'":80"': f'"127.0.0.1:{port}"', "/etc/traefik/fleet.yaml": str(rules)}
        settings.write_text(_changed("traefik.yaml", changes))
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [command, f"--configFile={settings}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(lambda: _knows_its_servers(process, port, folder), "Traefik answers")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(_TIMEOUT)


def _knows_its_servers(process: subprocess.Popen[bytes], port: int, folder: Path) -> bool:
    if process.poll() is not None:
        pytest.fail(f"Traefik ended:\n{(folder / 'log').read_text()}")
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT)) as connection:
        try:
            connection.request("GET", "/api")
            # Before it has read the file with the servers, it knows no path.
            return connection.getresponse().status != 404
        except OSError:
            return False


BALANCERS: Mapping[str, Balancer] = {"nginx": _running_nginx, "traefik": _running_traefik}
