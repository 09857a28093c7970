"""A real server, for the benchmarks that need one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import websocket
from jupyter_client.blocking.client import BlockingKernelClient

import benchmarks
import nbsessions

TOKEN = "benchmark"
AUTHORIZATION = {"Authorization": f"token {TOKEN}"}

# All processes import what this one does, wherever it is installed or run.
PYTHONPATH = os.pathsep.join(
    str(Path(str(each.__file__)).parents[1]) for each in (nbsessions, benchmarks)
)


class Server:
    """A real server with its own data, runtime and configuration directories.

    Its standard error goes to a file ``log`` in its folder. With ``core``, it runs there only.
    """

    def __init__(
        self,
        folder: Path,
        *options: str,
        extensions: Mapping[str, bool] | None = None,
        environment: Mapping[str, str] | None = None,
        core: int | None = None,
    ) -> None:
        self.folder = folder
        self._options = options
        self._extensions = {"nbsessions": True} if extensions is None else extensions
        self._environment = environment or {}
        self._core = core
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]

    def start(self) -> None:
        environment = {
            **os.environ,
            "JUPYTER_DATA_DIR": str(self.folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(self.folder / "runtime"),
            "JUPYTER_CONFIG_DIR": str(self.folder / "config"),
            "JUPYTER_TOKEN": TOKEN,
            "PYTHONPATH": PYTHONPATH,
            # Otherwise, each start would compile what is imported from a source tree.
            "PYTHONDONTWRITEBYTECODE": "",
            **self._environment,
        }
        options = [f"--port={self.port}", "--ip=127.0.0.1", "--no-browser", "--allow-root"]
        enable = f"--ServerApp.jpserver_extensions={dict(self._extensions)}"
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jupyter_server", *options, enable, *self._options],
                cwd=self.folder,
                env=environment,
                stderr=log,
            )
        if self._core is not None:
            # At once, because it has only one thread now, whose core others inherit.
            os.sched_setaffinity(self._process.pid, {self._core})

    @property
    def registry(self) -> Path:
        """The folder with the records of its kernels."""
        return self.folder / "runtime" / "nbsessions"

    @property
    def process(self) -> psutil.Process:
        """The server's process."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def request(self, method: str, path: str, body: object = None) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers=AUTHORIZATION,
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            content = reply.read()
        return json.loads(content) if content else None

    def has_our_sessions(self) -> bool:
        """Return whether nbsessions serves the sessions."""
        try:
            self.request("GET", "/api/sessions/openapi.json")
        except urllib.error.HTTPError:
            return False
        return True

    def create(self, path: str, **kernel: str) -> str:
        """Create a session, with a new kernel or this one, and return the kernel's id."""
        kernel = kernel or {"name": "python3"}
        body = {"path": path, "name": path, "type": "notebook", "kernel": kernel}
        kernel_id: str = self.request("POST", "/api/sessions", body)["kernel"]["id"]
        return kernel_id

    def connect(self, kernel_id: str) -> websocket.WebSocket:
        """Return a websocket of the kernel, with the protocol that pages use."""
        return websocket.create_connection(
            f"ws://127.0.0.1:{self.port}/api/kernels/{kernel_id}/channels?session_id={uuid.uuid4()}",
            header=[f"Authorization: token {TOKEN}"],
            subprotocols=["v1.kernel.websocket.jupyter.org"],
            suppress_origin=True,
            timeout=60,
        )

    def first_list(self) -> list[dict[str, Any]]:
        """Retry until the server answers, and return the sessions that it lists."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                models: list[dict[str, Any]] = self.request("GET", "/api/sessions")
            except urllib.error.URLError:
                time.sleep(0.005)
            else:
                return models
        raise TimeoutError("the server did not answer")

    def wait_for_kernels(self) -> None:
        """Wait until all kernels have answered and the server has recorded their states."""
        for file in (self.folder / "runtime").glob("kernel-*.json"):
            client = BlockingKernelClient(connection_file=str(file))
            client.load_connection_file()
            client.start_channels()
            client.wait_for_ready(timeout=60)
            client.stop_channels()
        time.sleep(2)

    def end(self, signum: int) -> None:
        assert self._process is not None
        self._process.send_signal(signum)
        self._process.wait()
