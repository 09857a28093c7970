"""Private attributes of jupyter_client and jupyter_server: all that are touched, and why.

There is no public way to these. A test goes through them by name, so that a release that
changes one is noticed before a user does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, KernelSpec
from traitlets.utils.importstring import import_item


def forget_failed_starts(kernel_manager: Any, connection_file: Callable[[str], str]) -> None:
    """Have the kernel manager forget the starts that failed.

    jupyter_client keeps the task of a start that failed, and shutdown_all of jupyter_server
    raises a 404 over it: the server would never stop. It also keeps the connection file, which
    would bar the kernel id.
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

    Any other class, of the kernel manager or of the manager of one kernel, may do otherwise.
    """
    try:
        of_one_kernel = import_item(kernel_manager.kernel_manager_class)
        kernel_manager.kernel_spec_manager  # noqa: B018
    except (AttributeError, ImportError):
        return False
    classes = {*type(kernel_manager).__mro__, *of_one_kernel.__mro__}
    return {each.__module__.partition(".")[0] for each in classes} <= _KNOWN_PACKAGES


def kernelspec_name(name: str) -> str:
    """Return the name of the kernelspec that jupyter_client starts under this name.

    It takes ``python`` for the native one (KernelManager._kernel_name_changed).
    """
    return NATIVE_KERNEL_NAME if name == "python" else name


# A server


def stopped_by_signal(serverapp: Any) -> bool:
    """Return whether the server stops because of a signal, rather than of /api/shutdown."""
    return bool(getattr(serverapp, "_stopping", False))


def stop_handler(serverapp: Any) -> Callable[[int, Any], None]:
    """Return what the server does on SIGTERM."""
    handler: Callable[[int, Any], None] = serverapp._signal_stop
    return handler


def open_websockets() -> Iterator[tuple[str, str]]:
    """Go through the websockets of kernels: the kernel's id and the client's session key.

    Only the class that jupyter_server uses by default keeps such a list.
    """
    from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection

    for key in list(ZMQChannelsWebsocketConnection._open_sessions):
        yield key.partition(":")[0], key


def websocket_channels(kernel_id: str) -> Iterator[dict[str, Any]]:
    """Go through the websockets of a kernel: their ZMQStreams by channel.

    Only the class that jupyter_server uses by default keeps such a list.
    """
    from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection

    for connection in list(ZMQChannelsWebsocketConnection._open_sockets):
        if connection.kernel_id == kernel_id:
            yield connection.channels


# One kernel's manager


def launch_arguments(kernel: Any) -> dict[str, Any]:
    """Return the arguments of the last launch: a restart launches with them again."""
    return kernel._launch_args or {}


def protocol_version(kernel: Any) -> str | None:
    """Return the version that the kernel told to the first websocket."""
    future = getattr(kernel, "_kernel_info_future", None)
    if future is None or not future.done() or future.cancelled() or future.exception():
        return None
    version: str | None = (future.result() or {}).get("protocol_version")
    return version


def set_kernel_spec(kernel: Any, spec: KernelSpec) -> None:
    """Give the manager a kernelspec that may not be installed any more."""
    kernel._kernel_spec = spec


def set_started(
    kernel: Any, *, launch_arguments: dict[str, Any], protocol_version: str | None
) -> None:
    """Make the manager believe that it has started its kernel."""
    kernel._launch_args = launch_arguments
    # The manager unlinks the connection file with its kernel when it has written it itself.
    kernel._connection_file_written = os.path.exists(kernel.connection_file)
    # Without these two, `ready` never resolves, and every websocket waits for it.
    kernel._attempted_start = True
    kernel._ready = _resolved(None)
    # Without it the first websocket to a busy kernel waits until its cell has ended.
    info = {} if protocol_version is None else {"protocol_version": protocol_version}
    kernel._kernel_info_future = _resolved(info)


def skip_initial_startup(kernel: Any) -> None:
    """Have an autorestart keep the ports: the kernel is long past its startup."""
    if kernel._restarter is not None:
        kernel._restarter._initial_startup = False


def leave_kernel(kernel: Any) -> None:
    """Let go of a kernel that goes on: its manager must not remove its connection file."""
    kernel._connection_file_written = False
    kernel._close_control_socket()


# The manager of all kernels


def add_kernel(kernel_manager: Any, kernel_id: str, kernel: Any) -> None:
    """Add a kernel that was started by another server, as if it had been started here."""
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
    """Let go of a kernel that could not be added, or only in part."""
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


def pending_kernels(kernel_manager: Any) -> list[asyncio.Task[None]]:
    """Return the tasks of kernels that are being started or shut down."""
    return list(kernel_manager._pending_kernels.values())


def activity_stream(kernel: Any) -> Any:
    """Return the ZMQStream on iopub by which the server tells whether the kernel is busy."""
    return kernel._activity_stream


def receiver(stream: Any) -> Callable[[list[bytes]], None]:
    """Return the callback that a ZMQStream has now."""
    callback: Callable[[list[bytes]], None] = stream._recv_callback
    return callback


def _resolved(result: object) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(result)
    return future
