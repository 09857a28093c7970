"""A gateway that fails as a test wants it to. Its kernels are entries in a dictionary."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import tornado
from jupyter_server.gateway.gateway_client import GatewayClient
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler

from nbsessions.kernels.base import KernelHost, StartRequest
from nbsessions.kernels.gateway.manager import GatewayKernels
from nbsessions.kernels.gateway.provider import GatewayKernelProvider
from support.hosts import make_contents_manager

KERNELSPECS = ("light", "other")
BROKEN = "broken"
"""A kernelspec whose kernels fail to start."""


class FakeGateway:
    """Answers as Kernel Gateway 3 does, unless told otherwise."""

    def __init__(self) -> None:
        self.kernels: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str]] = []
        """The method and the path below ``/api/`` of each request."""
        self.bodies: list[dict[str, Any]] = []
        """The bodies of all starts."""
        self.headers: list[dict[str, str]] = []
        self.messages: asyncio.Queue[str | bytes | None] = asyncio.Queue()
        """What clients have sent over websockets. None: one of them has closed its connection."""
        self.lists = True
        self.takes_ids = True
        self.default_name = "light"
        self.answers: dict[tuple[str, str], tuple[int, str]] = {}
        """Status and body with which to answer a method and path instead. "*" is any path."""
        self.next_statuses: list[int] = []
        """Statuses with which to answer the next requests instead."""
        self.flows = asyncio.Event()
        """While it is not set, no request is answered."""
        self.flows.set()
        self.delayed: asyncio.Event | None = None
        """A start whose client has hung up takes until this is set."""
        self.specs: dict[str, Any] = {}
        """The kernelspecs of those names that have more than a name."""
        self.url = ""

    def count(self, method: str, path: str) -> int:
        """Return the number of such requests."""
        return self.requests.count((method, path))

    def start(self, kernel_id: str, name: str = "light") -> None:
        """Start a kernel, as a request would."""
        self.kernels[kernel_id] = {
            "id": kernel_id,
            "name": name,
            "last_activity": "2024-01-01T00:00:00.000000Z",
            "execution_state": "starting",
            "connections": 0,
        }


class _Handler(RequestHandler):
    def initialize(self, gateway: FakeGateway) -> None:
        self.gateway = gateway

    async def _answer(self, path: str) -> None:
        gateway, method = self.gateway, self.request.method or ""
        gateway.requests.append((method, path))
        gateway.headers.append(dict(self.request.headers))
        await gateway.flows.wait()
        if gateway.next_statuses:
            self.send_error(gateway.next_statuses.pop(0))
            return
        for key in ((method, path), (method, "*")):
            if key in gateway.answers:
                status, body = gateway.answers[key]
                self.set_status(status)
                self.finish(body)
                return
        kind, _, name = path.partition("/")
        if kind == "kernelspecs":
            spec = {"name": name, **gateway.specs.get(name, {})}
            self._tell(200 if name in (*KERNELSPECS, BROKEN) else 404, name, spec)
        elif method == "POST":
            await self._start(json.loads(self.request.body))
        elif not name:
            if gateway.lists:
                self._tell(200, "", list(gateway.kernels.values()))
            else:
                self._tell(403, "Forbidden", None)
        elif method == "DELETE":
            self._tell(204 if gateway.kernels.pop(name, None) else 404, name, None)
        else:
            self._tell(200 if name in gateway.kernels else 404, name, gateway.kernels.get(name))

    get = post = delete = _answer

    async def _start(self, body: dict[str, Any]) -> None:
        gateway = self.gateway
        gateway.bodies.append(body)
        if gateway.delayed is not None:
            await gateway.delayed.wait()
        name = body["name"] or gateway.default_name
        if name not in KERNELSPECS:
            self._tell(500, "Unknown server error", None)
            return
        requested = body.get("kernel_id") if gateway.takes_ids else None
        kernel_id = requested or "of-the-gate-way-itself"
        gateway.start(kernel_id, name)
        self._tell(201, "", gateway.kernels[kernel_id])

    def _tell(self, status: int, name: str, answer: Any) -> None:
        self.set_status(status)
        if status >= 400:
            self.finish({"reason": "", "message": f"Kernel does not exist: {name}"})
        elif status == 204:
            self.finish()
        else:
            self.finish(json.dumps(answer))


class _Channels(WebSocketHandler):
    def initialize(self, gateway: FakeGateway) -> None:
        self.gateway = gateway

    async def get(self, *path: str) -> None:
        await self.gateway.flows.wait()
        await super().get(*path)

    def on_message(self, message: str | bytes) -> None:
        self.gateway.messages.put_nowait(message)

    def on_close(self) -> None:
        self.gateway.messages.put_nowait(None)


class FakeSessions:
    """Sessions that exist only for the kernel manager, by the ids of their kernels."""

    def __init__(self, of_kernels: Mapping[str, Collection[str]]) -> None:
        self.of_kernels = dict(of_kernels)
        self.error: Exception | None = None
        """What is raised instead of an answer."""
        self.ended: list[str] = []
        """The kernels that were to end."""
        self.models: list[dict[str, Any]] = []
        self.stay = True
        """Whether other servers can go on with the sessions."""

    async def list_sessions(self) -> Sequence[Mapping[str, Any]]:
        """Return the models of the sessions, as the test has set them."""
        if self.error is not None:
            raise self.error
        return self.models

    async def outlive_server(self) -> bool:
        """Return what the test has set."""
        return self.stay

    async def list_session_kernels(self) -> Mapping[str, Collection[str]]:
        """Return the sessions by kernel."""
        if self.error is not None:
            raise self.error
        return self.of_kernels

    async def end_kernel(self, kernel_id: str, session_ids: Collection[str]) -> bool:
        """Take note of the kernel, if these are its sessions."""
        if self.error is not None:
            raise self.error
        if set(self.of_kernels.pop(kernel_id, ())) != set(session_ids):
            return False
        self.ended.append(kernel_id)
        return True


def make_started(gateway: FakeGateway) -> str:
    """Start a kernel at the gateway, past all servers, and return its id."""
    kernel_id = str(uuid.uuid4())
    gateway.start(kernel_id)
    return kernel_id


@asynccontextmanager
async def fake_gateway(*, tls: bool = False, **settings: Any) -> AsyncIterator[FakeGateway]:
    """Yield a gateway that the server's gateway client is set to use.

    ``tls``: it has a certificate that no client trusts.
    """
    gateway = FakeGateway()
    (socket,) = bind_sockets(0, "127.0.0.1")
    options = {"gateway": gateway}
    certificate = Path(tornado.__file__).parent / "test"
    server = HTTPServer(
        Application(
            [
                (r"/api/kernels/[^/]+/channels", _Channels, options),
                (r"/api/(.*)", _Handler, options),
            ]
        ),
        ssl_options={
            "certfile": str(certificate / "test.crt"),
            "keyfile": str(certificate / "test.key"),
        }
        if tls
        else None,
    )
    server.add_sockets([socket])
    gateway.url = f"{'https' if tls else 'http'}://127.0.0.1:{socket.getsockname()[1]}"
    GatewayClient.clear_instance()
    GatewayClient.instance(**{"url": gateway.url, **settings})
    try:
        yield gateway
    finally:
        gateway.flows.set()
        if gateway.delayed is not None:
            gateway.delayed.set()
        GatewayClient.clear_instance()
        server.stop()
        await server.close_all_connections()


def make_gateway_provider(folder: Path, **traits: Any) -> GatewayKernelProvider:
    """Return a provider with a kernel manager of its own, as one server has it."""
    (folder / "root").mkdir(exist_ok=True)
    manager = GatewayKernels(default_kernel_name="light", root_dir=str(folder / "root"), **traits)
    return GatewayKernelProvider(
        KernelHost(
            kernel_manager=manager,
            contents_manager=make_contents_manager(folder),
            kernel_env=lambda path, name: {"KERNEL_OF": str(path), "SECRET": "of the server"},
            boot_id="this boot",
            log=logging.getLogger("provider under test"),
        )
    )


def make_start_request(
    provider: GatewayKernelProvider, kernel_name: str | None = None, path: str = "a.ipynb"
) -> StartRequest:
    """Return a request to start the kernel of a new session."""
    return StartRequest(
        token=str(uuid.uuid4()),
        session_id=str(uuid.uuid4()),
        kernel_name=kernel_name,
        kernel_id=provider.new_kernel_id(),
        path=path,
        name=None,
        type="notebook",
    )
