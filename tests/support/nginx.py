"""A real nginx in front of servers, with the configuration that the README advises or another."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.environments import REPOSITORY
from support.ports import reserve_server_port
from support.waiting import wait_until

FIRST_LINE = "map $http_upgrade $connection_upgrade {"
"""The first line of the README's block."""

_LISTEN = "listen 80;"
_UPSTREAM = "http://127.0.0.1:8888"
_TIMEOUT = "proxy_read_timeout 1h;"
_ADVICE = "error_page 502 504 =503 @away;"

_MAIN = """
daemon off;
# One process, which runs as the user that has started it.
master_process off;
pid {folder}/nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {servers}
}}
"""


@contextmanager
def running_nginx(
    folder: Path, upstream: str, *, read_timeout: str = "1h", advised: bool = True
) -> Iterator[str]:
    """Run nginx in a new folder, and yield its URL, which stands for that of ``upstream``.

    ``upstream`` has a scheme, an address and a port; all paths are passed on as they are. Without
    ``advised``, nginx answers 502 and 504 by itself, as it does for those who know no better.
    """
    with reserve_server_port() as holder:
        port = holder.getsockname()[1]
        server = _server(port, upstream, read_timeout, advised)
        with running_configuration(folder, server, port) as url:
            yield url


@contextmanager
def running_configuration(folder: Path, servers: str, port: int) -> Iterator[str]:
    """Run nginx in a new folder, and yield its URL.

    ``servers`` is what a file in ``/etc/nginx/conf.d/`` contains. It listens on ``port``.
    """
    command = nginx_or_fail()
    folder.mkdir()
    (folder / "nginx.conf").write_text(_MAIN.format(folder=folder, servers=servers))
    with (folder / "nginx.log").open("wb") as log:
        process = subprocess.Popen(
            [command, "-p", folder, "-c", folder / "nginx.conf", "-e", "stderr"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            wait_until(lambda: _listens(process, port, folder), "nginx listens")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(30)
            finally:
                process.kill()


def nginx_or_fail() -> str:
    """Return the path of nginx. Fails the test with a hint if it is missing."""
    # Not everybody's PATH has the folder that Debian puts it into.
    path = shutil.which("nginx", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))
    if path is None:
        pytest.fail("This test needs nginx: apt-get install nginx", pytrace=False)
    return path


def _server(port: int, upstream: str, read_timeout: str, advised: bool) -> str:
    """Return the README's configuration for this port and server."""
    readme = (REPOSITORY / "README.md").read_text()
    [text] = re.findall(rf"^```nginx\n({re.escape(FIRST_LINE)}.*?)^```$", readme, re.M | re.S)
    changes = {
        _LISTEN: f"listen 127.0.0.1:{port};",
        _UPSTREAM: upstream.rstrip("/"),
        _TIMEOUT: f"proxy_read_timeout {read_timeout};",
        _ADVICE: _ADVICE if advised else "",
    }
    for old, new in changes.items():
        assert text.count(old) == 1, f"{old!r} is not once in the README's configuration of nginx"
        text = text.replace(old, new)
    return text


def _listens(process: subprocess.Popen[bytes], port: int, folder: Path) -> bool:
    if process.poll() is not None:
        pytest.fail(f"nginx ended:\n{(folder / 'nginx.log').read_text()}")
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
