"""A server whose kernels every other server can serve, run as a process of its own.

    python -m support.replica STORE_URL NAMESPACE FOLDER

It serves the REST API below ``/base`` and writes its port to its output. Its kernels are files in
the folder, which stands for a gateway.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from nbsessions.async_sessionmanager import AsyncSessionManager
from nbsessions.kernels.base import KernelProvider, StartRequest
from nbsessions.models import EndReason, Kernel, KernelModels, KernelTrace
from nbsessions.service import placeholders
from nbsessions.stores.base import SessionStore
from nbsessions.stores.postgres import PostgresSessionStore
from support.application import make_application

_TESTS = Path(__file__).parents[1]
_START = 0.05
"""Seconds that a kernel takes to start."""
STUCK = "stuck"
"""A kernelspec whose kernels run, but never tell that they have started."""


class FolderProvider(KernelProvider):
    """Starts kernels that are files. The file ``log`` has a line for each start and stop."""

    def __init__(self, folder: Path) -> None:
        self.name = f"gateway:{folder}"
        self.shared_scope = self.name
        self._folder = folder

    @property
    def default_kernel_name(self) -> str:
        return "light"

    async def start(self, request: StartRequest) -> Kernel:
        kernel_id = request.kernel_id or str(uuid.uuid4())
        self._note("start", kernel_id)
        (self._folder / kernel_id).write_text(request.token)
        await asyncio.sleep(86400 if request.kernel_name == STUCK else _START)
        return Kernel(kernel_id=kernel_id, kernel_name="light", provider=self.name)

    async def models(self, kernel_ids: Sequence[str]) -> KernelModels:
        there = [each for each in kernel_ids if (self._folder / each).exists()]
        return KernelModels(alive={each: _model(each) for each in there})

    def can_address(self, kernel_id: str) -> bool:
        return True

    async def shutdown(self, kernel_id: str) -> None:
        try:
            (self._folder / kernel_id).unlink()
        except FileNotFoundError:
            return
        self._note("stop", kernel_id)

    def update_env(self, kernel_id: str, *, path: str | None, name: str | None) -> None:
        pass

    def find_started(self, token: str) -> str | None:
        for file in self._folder.glob("*-*"):
            if file.read_text() == token:
                return file.name
        return None

    async def find_ended(self, traces: Collection[KernelTrace]) -> Mapping[KernelTrace, EndReason]:
        return {}

    def list_adopted(self) -> Collection[str]:
        return ()

    def watch(self, ended: Callable[[str], None]) -> None:
        pass

    def was_connected(self, kernel_id: str) -> bool:
        return False

    def list_running(self) -> Collection[str]:
        return ()

    def _note(self, event: str, kernel_id: str) -> None:
        with (self._folder / "log").open("a") as log:
            log.write(f"{event} {kernel_id}\n")


def _model(kernel_id: str) -> dict[str, object]:
    return {
        "id": kernel_id,
        "name": "light",
        "last_activity": "2024-01-01T00:00:00.000000Z",
        "execution_state": "idle",
        "connections": 0,
    }


class ReplicaManager(AsyncSessionManager):
    """A session manager with such kernels."""

    folder: Path

    def _make_provider(self) -> KernelProvider:
        return FolderProvider(self.folder)


async def serve(url: str, namespace: str, folder: str) -> None:
    """Serve until SIGTERM comes."""
    ReplicaManager.folder = Path(folder)
    SessionStore.check_interval = PostgresSessionStore.check_interval = 0.5
    placeholders.PLACEHOLDER_TIMEOUT = float(os.environ.get("PLACEHOLDER_TIMEOUT", "300"))
    manager = ReplicaManager(store_url=url, namespace=namespace)
    (socket,) = bind_sockets(0, "127.0.0.1")
    server = HTTPServer(make_application(manager))
    server.add_sockets([socket])
    await manager.open()
    sys.stdout.write(f"{socket.getsockname()[1]}\n")
    sys.stdout.flush()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    server.stop()
    await manager.stop()
    manager.close()


class Replica:
    """Such a process."""

    def __init__(self, url: str, namespace: str, folder: Path) -> None:
        arguments = ["-m", "support.replica", url, namespace, str(folder)]
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(_TESTS)},
        )

    @property
    def base_url(self) -> str:
        """Its address, once it is open."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the replica ended"
        return f"http://127.0.0.1:{int(line)}"


@contextmanager
def running_replicas(
    count: int, url: str, namespace: str, folder: Path
) -> Iterator[tuple[list[Replica], list[str]]]:
    """Yield replicas and their addresses."""
    folder.mkdir()
    replicas = [Replica(url, namespace, folder) for _ in range(count)]
    try:
        yield replicas, [replica.base_url for replica in replicas]
    finally:
        for replica in replicas:
            replica.process.kill()
            replica.process.communicate()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
