"""Real gateways, each from an environment of its own, which tests start, stop and kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from support.environments import QUICK_START, python_of
from support.ports import reserve_server_port
from support.waiting import wait_until

TOKEN = "a-token-of-the-gateway"  # protects a short-lived gateway on the loopback interface
USER = "ada"
"""The user whom kernels are started for. Enterprise Gateway refuses root."""

_SUPPORT = Path(__file__).parent
_KINDS = {"kernel": "kernel_gateway", "enterprise": "enterprise_gateway"}
GATEWAYS = list(_KINDS)
OLDEST_GATEWAYS = [f"oldest {kind}" for kind in _KINDS]
"""The oldest releases that nbsessions supports."""


class Gateway:
    """A Kernel Gateway or Enterprise Gateway. It can be started again, on the same port."""

    def __init__(
        self,
        kind: str,
        folder: Path,
        *,
        lists: bool = True,
        deployed: Path | None = None,
        options: Sequence[str] = (),
    ) -> None:
        """``kind``: one of GATEWAYS or OLDEST_GATEWAYS.

        ``lists``: whether it tells all its kernels in one reply.
        ``deployed``: its configuration file, which says that in place of ``lists``.
        ``options``: more arguments of its command.
        """
        self.kind = kind.removeprefix("oldest ")
        self._folder = folder
        self._lists = lists
        self._deployed = deployed
        self._options = options
        self._python = python_of(f"{kind.replace(' ', '-')}-gateway")
        self._port_holder: socket.socket = reserve_server_port()
        self.port: int = self._port_holder.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        argv = [self._python, str(_SUPPORT / "light_kernel.py"), "{connection_file}"]
        spec = {"argv": argv, "display_name": "light", "language": "python"}
        for name in ("light", "other"):
            spec_folder = folder / "data" / "kernels" / name
            spec_folder.mkdir(parents=True)
            (spec_folder / "kernel.json").write_text(json.dumps(spec))
        if deployed is not None:
            (folder / "config").mkdir()
            shutil.copy(deployed, folder / "config")

    @property
    def url(self) -> str:
        """The address for servers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it has logged in all runs."""
        return (self._folder / "log").read_text()

    def start(self) -> Gateway:
        """Start the gateway and wait until it answers."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._python, "-m", _KINDS[self.kind], *self._arguments()],
                cwd=self._folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._answers, f"the {self.kind} gateway answers", timeout=60)
        return self

    def kill(self, *, kernels: bool) -> None:
        """Kill the gateway, and with ``kernels`` its kernels too."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        for process in self.kernel_processes() if kernels else ():
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def pause(self) -> None:
        """Let the gateway accept connections and answer nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let the gateway answer again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def clean_up(self) -> None:
        """Kill everything that is still running."""
        if self._process is not None:
            self.kill(kernels=True)
        self._port_holder.close()

    def kernel_processes(self) -> list[psutil.Process]:
        """Return the processes of its kernels."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if str(self._folder / "runtime") in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def wait_for_kernels(self, count: int, *, timeout: float = 30) -> None:
        """Wait until exactly ``count`` processes of kernels are left."""

        def are_left() -> bool:
            return len(self.kernel_processes()) == count

        wait_until(are_left, f"{count} kernels are left", timeout=timeout)

    def has_unread(self) -> bool:
        """Return whether a client has sent something that the gateway has not read."""
        # Lines of /proc/net/tcp: number, local address, remote address, state, tx_queue:rx_queue
        port = f":{self.port:04X}"
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, _, _, queues, *_ = line.split()
            # A listening socket counts the connections that wait to be accepted there.
            if local.endswith(port) and int(queues.partition(":")[2], 16) > 1:
                return True
        return False

    def request(self, method: str, path: str, body: object = None) -> Any:
        """Send a request past all servers, and return the answer's JSON or its status."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"token {TOKEN}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                content = answer.read()
                return json.loads(content) if content else answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            pytest.fail(f"the gateway ended:\n{self.log}")
        try:
            return isinstance(self.request("GET", "/api/kernelspecs"), dict)
        except OSError:
            return False

    def _arguments(self) -> list[str]:
        application, lister = {
            "kernel": ("KernelGatewayApp", "JupyterWebsocketPersonality"),
            "enterprise": ("EnterpriseGatewayApp", "EnterpriseGatewayApp"),
        }[self.kind]
        lists = [] if self._deployed else [f"--{lister}.list_kernels={self._lists}"]
        return [
            f"--{application}.port={self.port}",
            f"--{application}.ip=127.0.0.1",
            f"--{application}.port_retries=0",
            f"--{application}.auth_token={TOKEN}",
            *lists,
            *self._options,
        ]

    def _environment(self) -> dict[str, str]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("JUPYTER", "JPY_", "PYTEST", "PYTHON", "COVERAGE_"))
        }
        folders = {
            f"JUPYTER_{name.upper()}_DIR": str(self._folder / name)
            for name in ("data", "runtime", "config")
        }
        return {**inherited, **QUICK_START, **folders, "IPYTHONDIR": str(self._folder / "ipython")}


@contextmanager
def running_gateway(
    kind: str, folder: Path, *, lists: bool = True, options: Sequence[str] = ()
) -> Iterator[Gateway]:
    """Run a gateway, and kill it and its kernels at the end. See Gateway."""
    gateway = Gateway(kind, folder, lists=lists, options=options)
    try:
        yield gateway.start()
    finally:
        gateway.clean_up()
