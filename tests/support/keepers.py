"""Real keepers, and the sockets of kernels that they listen to."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import zmq

from nbsessions.keeper.asking import ask_keeper
from nbsessions.keeper.delivery import sent_bytes
from nbsessions.keeper.folder import KeeperFolder
from nbsessions.keeper.link import Attached, KeeperLink
from nbsessions.keeper.marks import ANSWERED, IOPUB, Mark
from nbsessions.keeper.messages import DELIMITER, HEADER, PARENT, SIGNATURE, key_of, key_of_request
from nbsessions.keeper.protocol import Channel, Reply, Request, Status
from nbsessions.keeper.reading import SpoolReader
from nbsessions.keeper.records import Record
from nbsessions.keeper.starting import start_keeper
from nbsessions.registry.process import identify
from nbsessions.registry.servers import Servers
from support.spools import make_message, read_rest
from support.store_processes import OtherProcess
from support.surviving import SLEEP, Place
from support.waiting import wait_until

LOG = logging.getLogger("nbsessions.tests.keeper")
_TIMEOUT = 30.0
_OTHER_VERSION = """
import sys
from nbsessions.keeper import protocol
change, protocol.VERSION = sys.argv.pop(), int(sys.argv.pop())
from nbsessions.keeper.__main__ import main
exec(change)
main()
"""


def wait_for_clients(runtime_dir: Path, count: int) -> None:
    """Wait until the keeper knows of so many clients."""
    folder = KeeperFolder(runtime_dir / "nbsessions")

    def are_known() -> bool:
        try:
            kernels = ask_keeper(folder).kernels.values()
        except OSError:
            return False  # It has not started yet.
        return sum(each.clients for each in kernels) == count

    wait_until(are_known, f"the keeper knows {count} clients")


def wait_until_sent_is_known(runtime_dir: Path) -> None:
    """Wait until the keeper knows what the clients of a dead server have been sent."""
    folder = KeeperFolder(runtime_dir / "nbsessions")

    def is_known() -> bool:
        kernels = ask_keeper(folder).kernels.values()
        return all(kernel.needed_after is not None for kernel in kernels)

    wait_until(is_known, "the keeper knows what the clients have")


def wait_until_stood_in_for(runtime_dir: Path) -> None:
    """Wait until the keeper gets the replies to a client of a dead server."""
    folder = KeeperFolder(runtime_dir / "nbsessions")

    def is_stood_in_for() -> bool:
        return any(kernel.standing_in for kernel in ask_keeper(folder).kernels.values())

    wait_until(is_stood_in_for, "the keeper stands in for a client")


class RunningKeeper:
    """A keeper process."""

    def __init__(self, registry: Path) -> None:
        self.folder = KeeperFolder(registry)
        self.pids: set[int] = set()
        """All keepers that were seen."""

    def start(self) -> int:
        """Start a keeper. Return its process id."""
        start_keeper(self.folder.registry)
        return self.pid()

    def start_version(self, version: int, change: str = "") -> int:
        """Start a keeper with another version of the protocol. Return the id of the one that runs.

        ``change`` is code that changes what the keeper does.
        """
        with contextlib.suppress(OSError):
            self.pid()
        command = [sys.executable, "-c", _OTHER_VERSION, str(self.folder.registry)]
        subprocess.run([*command, str(version), change], check=True, timeout=_TIMEOUT)
        return self.pid()

    def connect(self) -> Channel:
        return Channel(self.folder.connect(_TIMEOUT))

    def ask(self, *requests: Request, descriptor: int | None = None) -> Reply:
        """Send requests on one connection. Return the reply to the last one."""
        channel = self.connect()
        try:
            for request in requests:
                channel.send(request, descriptor)
                while (reply := channel.next_reply()) is None:
                    if not channel.receive():
                        raise ConnectionResetError("the keeper has ended the connection")
            return reply
        finally:
            channel.close()

    def status(self) -> dict[str, Any]:
        status = self.ask(Status()).status
        assert status is not None
        self.pids.add(status["pid"])
        return status

    def pid(self) -> int:
        return int(self.status()["pid"])

    def descriptors(self) -> int:
        return psutil.Process(self.pid()).num_fds()

    def log(self) -> str:
        return (self.folder.path / "log").read_text()

    def kill(self) -> None:
        """End the keeper at once."""
        end_process(self.pid())

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.pid()
        for pid in self.pids:
            end_process(pid)


def end_process(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: has_gone(pid), "the keeper has ended")


def has_gone(pid: int) -> bool:
    """Return whether the process has ended. Nobody may wait for it."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class FakeKernel:
    """The sockets of a kernel, its record, and a process in its place."""

    def __init__(
        self, place: Place, server_id: str, limit: int = 1_000_000, total: int = 0
    ) -> None:
        self._place = place
        self._context = zmq.Context()
        self._process = subprocess.Popen(SLEEP)
        self._identity = identify(self._process.pid)
        self.iopub = self._context.socket(zmq.XPUB)
        self.iopub.sndhwm = 0
        self.routers = {name: self._context.socket(zmq.ROUTER) for name in ("shell", "stdin")}
        info = {"transport": "tcp", "ip": "127.0.0.1", "iopub_port": self._bind(self.iopub)}
        for name, router in self.routers.items():
            router.router_mandatory = router.router_handover = True
            info[f"{name}_port"] = self._bind(router)
        self._fields = {
            "connection_info": info,
            "output_limit": limit,
            "total_output_limit": total,
        }
        self.record = place.record(server_id, self._identity, **self._fields)
        self.kernel_id = self.record.kernel_id

    def _bind(self, bound: Any) -> int:
        return int(bound.bind_to_random_port("tcp://127.0.0.1"))

    def belongs_to(self, server_id: str) -> None:
        """Write the record of a kernel that another server has taken over."""
        self._place.record(server_id, self._identity, self.kernel_id, **self._fields)

    def move(self) -> None:
        """Publish at another port from now on."""
        self.iopub.close(linger=0)
        self.iopub = self._context.socket(zmq.XPUB)
        self.iopub.sndhwm = 0
        self._fields["connection_info"]["iopub_port"] = self._bind(self.iopub)
        self.belongs_to(self.record.server_id)

    def publish_again_at(self, port: int) -> None:
        """Publish at a port, after the socket was closed."""
        self.iopub = self._context.socket(zmq.XPUB)
        self.iopub.sndhwm = 0
        self.iopub.bind(f"tcp://127.0.0.1:{port}")

    def wait_for_keeper(self) -> None:
        """Wait until a keeper has subscribed."""
        assert self._next_subscription() == b"\x01"

    def wait_for_another_keeper(self) -> None:
        """Wait until the keeper has gone and another one has subscribed."""
        assert self._next_subscription() == b"\x00"
        self.wait_for_keeper()

    def _next_subscription(self) -> bytes:
        assert self.iopub.poll(_TIMEOUT * 1000), "no keeper has subscribed or gone"
        return bytes(self.iopub.recv())

    def publish(self, *messages: list[bytes]) -> None:
        for message in messages:
            self.iopub.send_multipart([b"topic", DELIMITER, *message])

    def reply(self, client: str, message: list[bytes], channel: str = "shell") -> None:
        """Send a client a message, once it is connected."""
        wait_until(
            lambda: self.send(client, message, channel), "the client or its stand-in is connected"
        )

    def send(self, client: str, message: list[bytes], channel: str) -> bool:
        """Send a client a message. Return False if it is not connected."""
        try:
            self.routers[channel].send_multipart([client.encode(), DELIMITER, *message])
        except zmq.ZMQError:
            return False
        return True

    def end(self) -> None:
        """Remove the record."""
        self._place.records.remove(self.kernel_id)

    def close(self) -> None:
        self._context.destroy(linger=0)
        self._process.kill()
        self._process.wait()


def kept(keeper: RunningKeeper, kernel: FakeKernel, after: Reply | None = None) -> list[Record]:
    """Return what is in the spool of a kernel."""
    position, lines = (0, 0) if after is None else (after.position or 0, after.lines)
    reader = SpoolReader(keeper.folder.spools, kernel.kernel_id, position, lines)
    try:
        return read_rest(reader)
    finally:
        reader.close()


class Server:
    """A server with a link to the keeper, and websockets of clients."""

    def __init__(self, registry: Path) -> None:
        self.servers = Servers(registry / "servers")
        self.servers.register()
        self.link = KeeperLink(KeeperFolder(registry), self.servers.server_id, log=LOG)
        self._websockets: dict[str, tuple[str, socket.socket, Attached]] = {}

    def attach(self, kernel_id: str, client: str, websocket: socket.socket) -> Reply | None:
        """Return what the keeper knows of a client that connects."""
        base = sent_bytes(websocket)
        descriptor = os.dup(websocket.fileno())
        name, attaching = self.link.attach(kernel_id, client, descriptor, base)
        attached = attaching.result(_TIMEOUT)
        self._websockets[client] = name, websocket, attached
        return attached.known

    def send(self, client: str, messages: Iterable[list[bytes]], kind: int = IOPUB) -> None:
        """Send messages, and note them as a server does."""
        _, websocket, attached = self._websockets[client]
        sent = 0
        for message in messages:
            key = key_of(message[SIGNATURE], message[HEADER])
            if kind == ANSWERED:
                key = key_of_request(message[PARENT])
            data = b"".join(message)
            attached.mark.note(kind, key, sent + len(data), sent)
            websocket.sendall(data)
            sent += len(data)

    def mark(self, client: str) -> Mark:
        return self._websockets[client][2].mark

    def detach(self, client: str) -> None:
        name, _, _ = self._websockets.pop(client)
        self.link.detach(name)

    def close(self) -> None:
        self.link.close()
        self.servers.unregister(kernels_left=False)


@contextlib.contextmanager
def slow_connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield the server's and the client's end of a connection.

    What is sent stays with the server's system until the client reads it, except for a few kB.
    """
    with socket.socket() as listener, socket.socket() as client:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200_000)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(listener.getsockname())
        client.settimeout(_TIMEOUT)
        server, _ = listener.accept()
        with server:
            yield server, client


def say(
    keeper: RunningKeeper, server: Server, kernel: FakeKernel, messages: list[list[bytes]]
) -> None:
    """Publish messages, and wait until they are kept."""
    kernel.publish(*messages)

    def are_kept() -> bool:
        server.link.flush(kernel.kernel_id).result(30)
        return len(kept(keeper, kernel)) == len(messages)

    wait_until(are_kept, "they are kept")


def send_and_let_go(
    server: Server, kernel: FakeKernel, websocket: socket.socket, messages: list[list[bytes]]
) -> None:
    """Send a client messages, and end its connection."""
    server.send("client", messages)
    server.detach("client")
    server.link.flush(kernel.kernel_id).result(30)
    websocket.close()


@contextlib.contextmanager
def being_delivered(
    keeper: RunningKeeper, server: Server, kernel: FakeKernel
) -> Iterator[tuple[socket.socket, list[list[bytes]]]]:
    """Yield a client that its server has let go before it has read, and what it was sent."""
    messages = [make_message("stream", 2000) for _ in range(50)]
    with slow_connection() as (websocket, client):
        server.attach(kernel.kernel_id, "client", websocket)
        say(keeper, server, kernel, messages)
        send_and_let_go(server, kernel, websocket, messages)
        yield client, messages


def start_elsewhere(
    keeper: RunningKeeper, make_kernel: Callable[..., FakeKernel], other: OtherProcess
) -> tuple[FakeKernel, int]:
    """Let the other process be a server with a kernel, which the keeper listens to.

    Return the kernel, and the port at which clients connect to the server.
    """
    server_id, port = other.ask(become_server, keeper.folder.registry)
    kernel = make_kernel(server_id)
    other.ask(watch, kernel.kernel_id)
    kernel.wait_for_keeper()
    return kernel, port


# Functions that OtherProcess calls in other processes

_servers: list[Server] = []
_listeners: list[socket.socket] = []


def become_server(registry: Path) -> tuple[str, int]:
    """Return the id of a server in this process, and a port at which clients connect to it."""
    _servers.append(Server(registry))
    _listeners.append(socket.create_server(("127.0.0.1", 0)))
    return _servers[0].servers.server_id, int(_listeners[0].getsockname()[1])


def watch(kernel_id: str) -> None:
    _servers[0].link.watch(kernel_id)


def accept(kernel_id: str, client: str) -> Reply | None:
    """Accept the connection of a client."""
    websocket, _ = _listeners[0].accept()
    return _servers[0].attach(kernel_id, client, websocket)


def send(client: str, messages: list[list[bytes]], kind: int = IOPUB) -> None:
    _servers[0].send(client, messages, kind)


def detach(client: str) -> None:
    _servers[0].detach(client)
