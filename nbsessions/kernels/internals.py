"""All uses of private attributes of jupyter_client and jupyter_server.

They have no public equivalents. A test checks each attribute by name, so that a release that
changes one of them makes the test fail before users are affected.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from datetime import datetime
from typing import Any
from urllib.parse import quote

from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, KernelSpec
from tornado.iostream import IOStream
from traitlets.utils.importstring import import_item

from nbsessions.kernels.noted import NotedDict


def forget_failed_starts(kernel_manager: Any, connection_file: Callable[[str], str]) -> None:
    """Remove failed starts from the kernel manager, together with their connection files.

    jupyter_client does not remove the task of a failed start. jupyter_server's shutdown_all then
    raises a 404 error, and the server would never stop. jupyter_client also leaves the connection
    file behind, which would block the kernel id.
    """
    pending = getattr(kernel_manager, "_pending_kernels", {})
    for kernel_id, task in list(pending.items()):
        if task.done() and kernel_id not in kernel_manager:
            del pending[kernel_id]
            with contextlib.suppress(OSError):
                os.unlink(connection_file(kernel_id))


_KNOWN_PACKAGES = {"builtins", "jupyter_client", "jupyter_server", "nbsessions", "notebook"}
_KNOWN_PACKAGES |= {"traitlets", "tornado"}


def starts_by_kernelspec(kernel_manager: Any) -> bool:
    """Return whether kernels are started from the kernelspec that a request names.

    It is false if the kernel manager, or the manager of a single kernel, is of a class from an
    unknown package, because such a class may start kernels in another way.
    """
    try:
        of_one_kernel = import_item(kernel_manager.kernel_manager_class)
        kernel_manager.kernel_spec_manager  # noqa: B018
    except (AttributeError, ImportError):
        return False
    classes = {*type(kernel_manager).__mro__, *of_one_kernel.__mro__}
    return {each.__module__.partition(".")[0] for each in classes} <= _KNOWN_PACKAGES


def kernelspec_name(name: str) -> str:
    """Return the name of the kernelspec that jupyter_client starts for this name.

    It replaces ``python`` by the native kernel's name (KernelManager._kernel_name_changed).
    """
    return NATIVE_KERNEL_NAME if name == "python" else name


# A server


def stopped_by_signal(serverapp: Any) -> bool:
    """Return whether a signal stops the server, and not a request to /api/shutdown."""
    return bool(getattr(serverapp, "_stopping", False))


def stop_handler(serverapp: Any) -> Callable[[int, Any], None]:
    """Return the server's handler for SIGTERM."""
    handler: Callable[[int, Any], None] = serverapp._signal_stop
    return handler


def open_websockets() -> Iterator[tuple[str, str]]:
    """Yield the kernel id and the client's session key of each open websocket.

    Only jupyter_server's default websocket class has such a list.
    """
    from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection

    for key in list(ZMQChannelsWebsocketConnection._open_sessions):
        yield key.partition(":")[0], key


def open_websocket(session_key: str) -> Any:
    """Return the connection of the client with this session key, or None."""
    from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection

    handler = ZMQChannelsWebsocketConnection._open_sessions.get(session_key)
    return getattr(handler, "connection", None)


def websocket_stream(handler: Any) -> IOStream:
    """Return the stream of an open websocket."""
    stream: IOStream = handler.ws_connection.stream
    return stream


def is_plain(stream: IOStream) -> bool:
    """Return whether what is written to the stream is what is sent on the socket."""
    return type(stream) is IOStream


def written_bytes(stream: IOStream) -> tuple[int, int]:
    """Return how many bytes were written to the stream, and how many the system has accepted."""
    return stream._total_write_index, stream._total_write_done_index


def frame_size(handler: Any, size: int) -> int | None:
    """Return how many bytes a websocket message of this size takes on the wire.

    None if the connection compresses messages.
    """
    if handler.ws_connection is None or handler.ws_connection._compressor:
        return None
    return size + (2 if size < 126 else 4 if size <= 0xFFFF else 10)


# The manager of one kernel


def launch_arguments(kernel: Any) -> dict[str, Any]:
    """Return the arguments of the last launch, which a restart uses again."""
    return kernel._launch_args or {}


def protocol_version(kernel: Any) -> str | None:
    """Return the protocol version from the kernel's kernel_info_reply, or None.

    The server requests it when the first websocket connects.
    """
    future = getattr(kernel, "_kernel_info_future", None)
    if future is None or not future.done() or future.cancelled() or future.exception():
        return None
    version: str | None = (future.result() or {}).get("protocol_version")
    return version


def set_kernel_spec(kernel: Any, spec: KernelSpec) -> None:
    """Set the manager's kernelspec, which may no longer be installed."""
    kernel._kernel_spec = spec


def set_started(
    kernel: Any, *, launch_arguments: dict[str, Any], protocol_version: str | None
) -> None:
    """Put the manager into the state that it has after it has started its kernel."""
    kernel._launch_args = launch_arguments
    # The manager removes the connection file at shutdown only if this is set.
    kernel._connection_file_written = os.path.exists(kernel.connection_file)
    # Without these two, `ready` is never resolved, and all websockets wait for it.
    kernel._attempted_start = True
    kernel._ready = _resolved(None)
    # Without this, the first websocket to a busy kernel waits until its cell has finished.
    info = {} if protocol_version is None else {"protocol_version": protocol_version}
    kernel._kernel_info_future = _resolved(info)


def skip_initial_startup(kernel: Any) -> None:
    """Make an automatic restart use the same ports.

    The restarter chooses new ports during a kernel's startup, which this kernel has completed.
    """
    if kernel._restarter is not None:
        kernel._restarter._initial_startup = False


def leave_kernel(kernel: Any) -> None:
    """Release a kernel that continues to run, so that its connection file is not removed."""
    kernel._connection_file_written = False
    kernel._close_control_socket()


# The manager of all kernels


def add_kernel(kernel_manager: Any, kernel_id: str, kernel: Any) -> None:
    """Add a kernel that another server started, as if this one had started it."""
    kernel_manager._kernels[kernel_id] = kernel
    kernel_manager._kernel_connections[kernel_id] = 0
    kernel_manager._kernel_ports[kernel_id] = kernel.ports
    kernel_manager.start_watching_activity(kernel_id)
    kernel.start_restarter()
    skip_initial_startup(kernel)
    kernel_manager.add_restart_callback(
        kernel_id, lambda: kernel_manager._handle_kernel_died(kernel_id), "dead"
    )
    if not kernel_manager._initialized_culler:
        kernel_manager.initialize_culler()


def drop_kernel(kernel_manager: Any, kernel_id: str, kernel: Any) -> None:
    """Undo ``add_kernel`` after it failed, even if it added the kernel only partly."""
    if kernel_id in kernel_manager:
        kernel_manager.stop_watching_activity(kernel_id)
    for known in (
        kernel_manager._kernels,
        kernel_manager._kernel_connections,
        kernel_manager._kernel_ports,
    ):
        known.pop(kernel_id, None)
    kernel.stop_restarter()
    leave_kernel(kernel)


_MODEL_SOURCES = {"_check_kernel_id", "_kernels", "_kernel_connections", "get"}
"""What ``kernel_model`` uses of the manager of all kernels."""

_MODEL_TRAITS = {"kernel_name", "last_activity", "execution_state", "reason"}
"""What it uses of the manager of one kernel."""


def are_models_known(kernel_manager: Any) -> bool:
    """Return whether ``kernel_model`` returns what ``note_models`` and the traits cover.

    A subclass, or a later release of jupyter_server, may put more into the models.
    """
    from jupyter_server.services.kernels.kernelmanager import MappingKernelManager

    method = getattr(kernel_manager.kernel_model, "__func__", None)
    if method is not MappingKernelManager.kernel_model:
        return False
    used = set(method.__code__.co_names) - {"isoformat", "getattr"}
    return used <= _MODEL_SOURCES | _MODEL_TRAITS


def has_model_traits(kernel: Any) -> bool:
    """Return whether all that ``kernel_model`` uses of the kernel are traits."""
    return all(map(kernel.has_trait, _MODEL_TRAITS))


def note_models(
    kernel_manager: Any,
    kernel_changed: Callable[[str], object],
    connections_changed: Callable[[str], object],
) -> None:
    """Call the functions with the id of each kernel that is added or removed, or has new clients.

    jupyter_server changes these dictionaries in many places and announces none of it.
    """
    kernel_manager._kernels = NotedDict(kernel_manager._kernels, kernel_changed)
    kernel_manager._kernel_connections = NotedDict(
        kernel_manager._kernel_connections, connections_changed
    )


def pending_kernels(kernel_manager: Any) -> list[asyncio.Task[None]]:
    """Return the tasks that start or shut down kernels."""
    return list(kernel_manager._pending_kernels.values())


def set_remote_kernel(kernel: Any, model: Mapping[str, Any]) -> None:
    """Make a GatewayKernelManager manage the kernel with this model, which is running already.

    Its own methods would ask the gateway for the model once more.
    """
    kernel.kernel_id = model["id"]
    kernel.kernel_url = f"{kernel.kernels_url.rstrip('/')}/{quote(model['id'], '')}"
    kernel.kernel = model
    kernel.execution_state = model["execution_state"]
    with contextlib.suppress(ValueError):
        last_activity = datetime.fromisoformat(model["last_activity"].replace("Z", "+00:00"))
        kernel.last_activity = last_activity
    kernel.parent._kernel_connections[kernel.kernel_id] = model["connections"]


def activity_stream(kernel: Any) -> Any:
    """Return the iopub ZMQStream that the server uses to track the kernel's state."""
    return kernel._activity_stream


def receiver(stream: Any) -> Callable[[list[bytes]], None]:
    """Return the ZMQStream's current receive callback."""
    callback: Callable[[list[bytes]], None] = stream._recv_callback
    return callback


def _resolved(result: object) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(result)
    return future
