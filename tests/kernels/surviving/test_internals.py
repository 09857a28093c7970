"""The private attributes of other packages that are used all exist, and work as assumed."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_server.serverapp import ServerApp
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application
from tornado.websocket import WebSocketClientConnection, WebSocketHandler, websocket_connect

from nbsessions.kernels import internals
from nbsessions.kernels.surviving.provisioner import SurvivingProvisioner
from support.hosts import running_kernel_manager
from support.surviving import Processes

_CLIENT, _SERVER, _ZMQ, _TORNADO = "jupyter_client", "jupyter_server", "pyzmq", "tornado"

MANAGER = {
    "_pending_kernels": _CLIENT,
    "_kernels": _CLIENT,
    "_kernel_connections": _SERVER,
    "_kernel_ports": _SERVER,
    "_check_kernel_id": _SERVER,
    "_handle_kernel_died": _SERVER,
    "_initialized_culler": _SERVER,
    "initialize_culler": _SERVER,
    "start_watching_activity": _SERVER,
    "stop_watching_activity": _SERVER,
    "add_restart_callback": _CLIENT,
}
KERNEL = {
    "_launch_args": _CLIENT,
    "_kernel_spec": _CLIENT,
    "_connection_file_written": _CLIENT,
    "_attempted_start": _CLIENT,
    "_ready": _CLIENT,
    "_restarter": _CLIENT,
    "_close_control_socket": _CLIENT,
    "_activity_stream": _SERVER,
}
RESTARTER = {"_initial_startup": _CLIENT}
STREAM = {"_recv_callback": _ZMQ}
SERVER = {"_stopping": _SERVER, "_signal_stop": _SERVER}
CONNECTION = {
    "_open_sessions": _SERVER,
    "_kernel_info_future": _SERVER,
}
OVERRIDDEN = {"_register_session": _SERVER, "create_stream": _SERVER}
IO_STREAM = {"_total_write_index": _TORNADO, "_total_write_done_index": _TORNADO}
WEBSOCKET = {"_compressor": _TORNADO}

KERNEL_ID = "11111111-2222-4333-8444-555555555555"


def missing(instance: Any, names: dict[str, str]) -> list[str]:
    """Return a message for each attribute that the instance lacks."""
    kind = instance if isinstance(instance, type) else type(instance)
    return [
        f"{package} {version(package)} has no {kind.__name__}.{name} any more: "
        "see nbsessions/kernels/internals.py"
        for name, package in names.items()
        if not hasattr(instance, name)
    ]


def touched() -> set[str]:
    """Return the private names of other packages that the module uses."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(inspect.getsource(internals))):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return {name for name in found if name.startswith("_") and not name.startswith("__")}


def test_every_private_attribute_is_looked_for_here() -> None:
    names = {*MANAGER, *KERNEL, *RESTARTER, *STREAM, *SERVER, *CONNECTION, *IO_STREAM, *WEBSOCKET}
    assert touched() == {name for name in names if name.startswith("_")}


def test_what_is_missing_is_said_plainly() -> None:
    class KernelManager:
        pass

    assert missing(KernelManager(), {"_launch_args": _CLIENT}) == [
        f"jupyter_client {version('jupyter_client')} has no KernelManager._launch_args any more: "
        "see nbsessions/kernels/internals.py"
    ]


# They exist


@pytest.mark.gen_test
async def test_a_started_kernel_has_them_all(tmp_path: Path) -> None:
    async with running_kernel_manager(tmp_path) as kernel_manager:
        kernel = kernel_manager.get_kernel(await kernel_manager.start_kernel())
        found = missing(kernel_manager, MANAGER) + missing(kernel, KERNEL)
        assert found == []
        assert missing(kernel._restarter, RESTARTER) == []
        assert missing(kernel._activity_stream, STREAM) == []


def test_a_server_has_them_all() -> None:
    app = ServerApp()
    assert missing(app, SERVER) == []
    assert not internals.stopped_by_signal(app)
    app._stopping = True
    assert internals.stopped_by_signal(app)
    assert internals.stop_handler(app) == app._signal_stop


def test_the_websockets_of_a_server_have_them_all() -> None:
    assert missing(ZMQChannelsWebsocketConnection, {**CONNECTION, **OVERRIDDEN}) == []


# They work as assumed


def test_open_websockets_are_listed_with_their_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = {f"{KERNEL_ID}:a-client": None}
    monkeypatch.setattr(ZMQChannelsWebsocketConnection, "_open_sessions", sessions)
    assert list(internals.open_websockets()) == [(KERNEL_ID, f"{KERNEL_ID}:a-client")]
    # jupyter_server itself stores the websockets there, with keys of this form.
    source = inspect.getsource(ZMQChannelsWebsocketConnection)
    assert "self._open_sessions[self.session_key]" in source
    assert 'f"{self.kernel_id}:{self.session.session}"' in source


@pytest.mark.gen_test
async def test_a_restart_launches_with_the_arguments_that_are_kept(tmp_path: Path) -> None:
    async with running_kernel_manager(tmp_path) as kernel_manager:
        kernel_id = await kernel_manager.start_kernel(path="", env={"A": "1"})
        kernel = kernel_manager.get_kernel(kernel_id)
        arguments = internals.launch_arguments(kernel)
        assert arguments["env"]["A"] == "1"
        assert arguments["cwd"] == str(tmp_path / "root")
        await kernel_manager.shutdown_kernel(kernel_id, now=True)


@pytest.fixture
def adopted_fields() -> dict[str, Any]:
    return {"launch_arguments": {"env": {"A": "1"}, "cwd": "/"}, "protocol_version": "5.3"}


def made(kernel_manager: Any, folder: Path) -> Any:
    """Return the manager of a kernel that this process has not started."""
    file = folder / "runtime" / f"kernel-{KERNEL_ID}.json"
    kernel = kernel_manager.kernel_manager_factory(
        connection_file=str(file),
        parent=kernel_manager,
        kernel_name="light",
        kernel_spec_manager=kernel_manager.kernel_spec_manager,
    )
    kernel.kernel_id = KERNEL_ID
    kernel.write_connection_file()
    return kernel


@pytest.mark.gen_test
async def test_an_adopted_kernel_is_ready_and_has_told_its_version(
    tmp_path: Path, adopted_fields: dict[str, Any]
) -> None:
    async with running_kernel_manager(tmp_path) as kernel_manager:
        kernel = made(kernel_manager, tmp_path)
        assert internals.protocol_version(kernel) is None
        internals.set_started(kernel, **adopted_fields)
        await asyncio.wait_for(asyncio.wrap_future(kernel.ready), 5)
        assert internals.protocol_version(kernel) == "5.3"
        assert internals.launch_arguments(kernel) == adopted_fields["launch_arguments"]
        kernel.update_env(env={"B": "2"})
        assert internals.launch_arguments(kernel)["env"] == {"A": "1", "B": "2"}


@pytest.mark.parametrize("protocol_version", [None, "5.4"])
@pytest.mark.gen_test
async def test_a_websocket_to_an_adopted_kernel_does_not_ask_for_its_version(
    tmp_path: Path, adopted_fields: dict[str, Any], protocol_version: str | None
) -> None:
    async with running_kernel_manager(tmp_path) as kernel_manager:
        kernel = made(kernel_manager, tmp_path)
        internals.set_started(kernel, **{**adopted_fields, "protocol_version": protocol_version})
        opened: Any = ZMQChannelsWebsocketConnection(parent=kernel)
        info = await asyncio.wait_for(opened.request_kernel_info(), 5)
        assert (info or {}).get("protocol_version") == protocol_version
        assert opened.kernel_info_channel is None


@pytest.mark.gen_test
async def test_a_kernel_that_has_not_told_its_version_yet_has_none(tmp_path: Path) -> None:
    async with running_kernel_manager(tmp_path) as kernel_manager:
        kernel = made(kernel_manager, tmp_path)
        for outcome in ("pending", "cancelled", "failed", "empty"):
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            kernel._kernel_info_future = future
            if outcome == "cancelled":
                future.cancel()
            elif outcome == "failed":
                future.set_exception(RuntimeError("odd"))
            elif outcome == "empty":
                future.set_result({})
            assert internals.protocol_version(kernel) is None


@pytest.mark.gen_test
async def test_a_kernelspec_that_is_not_installed_can_be_given(tmp_path: Path) -> None:
    async with running_kernel_manager(tmp_path) as kernel_manager:
        kernel = made(kernel_manager, tmp_path)
        kernel.kernel_name = "uninstalled"
        spec = KernelSpec(argv=["python"], display_name="Uninstalled")
        internals.set_kernel_spec(kernel, spec)
        assert kernel.kernel_spec is spec


@pytest.mark.gen_test
@pytest.mark.parametrize("left", [True, False])
async def test_only_the_connection_file_of_a_kernel_that_was_left_outlives_its_manager(
    tmp_path: Path, adopted_fields: dict[str, Any], left: bool
) -> None:
    async with running_kernel_manager(tmp_path) as kernel_manager:
        kernel = made(kernel_manager, tmp_path)
        internals.set_started(kernel, **adopted_fields)
        if left:
            internals.leave_kernel(kernel)
        kernel.__del__()
        names = [file.name for file in (tmp_path / "runtime").iterdir()]
        assert names == ([f"kernel-{KERNEL_ID}.json"] if left else [])


@pytest.mark.gen_test
async def test_an_added_kernel_is_managed_as_if_it_had_been_started(
    tmp_path: Path, adopted_fields: dict[str, Any], spawn: Processes
) -> None:
    async with running_kernel_manager(tmp_path) as kernel_manager:
        kernel = made(kernel_manager, tmp_path)
        internals.set_started(kernel, **adopted_fields)
        kernel.provisioner = SurvivingProvisioner(
            kernel_id=KERNEL_ID, kernel_spec=kernel.kernel_spec, parent=kernel
        )
        kernel.provisioner.adopt(spawn.stranger(), kernel.get_connection_info(), None)
        kernel.execution_state = "busy"
        internals.add_kernel(kernel_manager, KERNEL_ID, kernel)
        try:
            assert kernel_manager.list_kernel_ids() == [KERNEL_ID]
            model = kernel_manager.kernel_model(KERNEL_ID)
            assert (model["id"], model["execution_state"]) == (KERNEL_ID, "busy")
            assert model["connections"] == 0
            assert not kernel_manager.ports_changed(KERNEL_ID)
            assert kernel_manager._initialized_culler
            assert kernel._restarter is not None
            assert not kernel._restarter._initial_startup
            assert kernel._restarter.callbacks["dead"]
            assert callable(internals.receiver(internals.activity_stream(kernel)))
        finally:
            kernel_manager.stop_watching_activity(KERNEL_ID)
            kernel.stop_restarter()
            kernel_manager.remove_kernel(KERNEL_ID)


@pytest.mark.gen_test
async def test_without_a_restarter_there_is_no_startup_to_skip(tmp_path: Path) -> None:
    async with running_kernel_manager(tmp_path) as kernel_manager:
        internals.skip_initial_startup(made(kernel_manager, tmp_path))


@pytest.mark.gen_test
async def test_kernels_that_are_being_started_are_pending(tmp_path: Path) -> None:
    async with running_kernel_manager(tmp_path) as kernel_manager:
        assert list(internals.pending_kernels(kernel_manager)) == []
        kernel_manager.use_pending_kernels = True  # do not wait for the start
        await kernel_manager.start_kernel()
        assert len(internals.pending_kernels(kernel_manager)) == 1
        await asyncio.wait(internals.pending_kernels(kernel_manager))
        assert list(internals.pending_kernels(kernel_manager)) == []


@pytest.mark.gen_test
async def test_a_failed_start_is_pending_until_it_is_forgotten(tmp_path: Path) -> None:
    async with running_kernel_manager(tmp_path) as kernel_manager:
        with pytest.raises(FileNotFoundError):
            await kernel_manager.start_kernel(kernel_name="broken", kernel_id=KERNEL_ID)
        assert len(internals.pending_kernels(kernel_manager)) == 1
        file = tmp_path / "runtime" / f"kernel-{KERNEL_ID}.json"
        assert file.exists()
        internals.forget_failed_starts(kernel_manager, lambda kernel_id: str(file))
        assert list(internals.pending_kernels(kernel_manager)) == []
        assert not file.exists()


class _Socket(WebSocketHandler):
    opened: ClassVar[list[_Socket]] = []
    compression: ClassVar[dict[str, Any] | None] = None

    def open(self, *args: str, **kwargs: str) -> None:
        self.opened.append(self)

    def get_compression_options(self) -> dict[str, Any] | None:
        return self.compression


@contextlib.asynccontextmanager
async def open_socket(
    compression: dict[str, Any] | None = None,
) -> AsyncIterator[tuple[_Socket, WebSocketClientConnection]]:
    """Yield a websocket of a server, and its client."""
    listener, port = bind_unused_port()
    _Socket.compression = compression
    server = HTTPServer(Application([("/", _Socket)]))
    server.add_sockets([listener])
    client = await websocket_connect(
        f"ws://127.0.0.1:{port}/", compression_options=compression, max_message_size=2**24
    )
    try:
        yield _Socket.opened.pop(), client
    finally:
        client.close()
        server.stop()


@pytest.mark.gen_test
async def test_the_bytes_of_a_websocket_message_are_known_before_it_is_sent() -> None:
    async with open_socket() as (handler, client):
        stream = internals.websocket_stream(handler)
        assert missing(stream, IO_STREAM) == []
        assert missing(handler.ws_connection, WEBSOCKET) == []
        assert internals.is_plain(stream)
        for size in (0, 125, 126, 65535, 65536, 5_000_000):
            before, _ = internals.written_bytes(stream)
            sending = handler.write_message(bytes(size), binary=True)
            written, done = internals.written_bytes(stream)
            assert written - before == internals.frame_size(handler, size)
            assert done <= written
            assert await client.read_message() == bytes(size)
            await sending
            assert internals.written_bytes(stream) == (written, written)


@pytest.mark.gen_test
async def test_the_bytes_of_a_compressed_message_are_not_known() -> None:
    async with open_socket({}) as (handler, _):
        assert internals.frame_size(handler, 1000) is None


def test_the_connection_of_a_client_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = SimpleNamespace(connection="the connection")
    monkeypatch.setattr(ZMQChannelsWebsocketConnection, "_open_sessions", {"a-key": handler})
    assert internals.open_websocket("a-key") == "the connection"
    assert internals.open_websocket("another") is None
