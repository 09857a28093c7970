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
from pathlib import Path
from typing import Any

import psutil
import websocket
from jupyter_client.blocking import BlockingKernelClient

TOKEN = "benchmark"


class Server:
    """A real server with its own data, runtime and configuration directories."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self._port = listener.getsockname()[1]

    def start(self) -> None:
        environment = {
            **os.environ,
            "JUPYTER_DATA_DIR": str(self._folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(self._folder / "runtime"),
            "JUPYTER_CONFIG_DIR": str(self._folder / "config"),
            "JUPYTER_TOKEN": TOKEN,
        }
        options = [f"--port={self._port}", "--ip=127.0.0.1", "--no-browser", "--allow-root"]
        enable = '--ServerApp.jpserver_extensions={"nbsessions": True}'
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jupyter_server", *options, enable, *self._options],
            cwd=self._folder,
            env=environment,
            stderr=subprocess.DEVNULL,
        )

    @property
    def registry(self) -> Path:
        """The folder with the records of its kernels."""
        return self._folder / "runtime" / "nbsessions"

    @property
    def process(self) -> psutil.Process:
        """The server's process."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def request(self, method: str, path: str, body: object = None) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"token {TOKEN}"},
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            content = reply.read()
        return json.loads(content) if content else None

    def create(self, path: str) -> str:
        """Create a session with a kernel of its own, and return the kernel's id."""
        body = {"path": path, "type": "notebook", "kernel": {"name": "python3"}}
        kernel_id: str = self.request("POST", "/api/sessions", body)["kernel"]["id"]
        return kernel_id

    def connect(self, kernel_id: str) -> websocket.WebSocket:
        """Return a websocket of the kernel, with the protocol that pages use."""
        return websocket.create_connection(
            f"ws://127.0.0.1:{self._port}/api/kernels/{kernel_id}/channels?session_id={uuid.uuid4()}",
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
        for file in (self._folder / "runtime").glob("kernel-*.json"):
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
