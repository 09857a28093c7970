"""Tells the server's event listeners about the gateway, as jupyter_server's own classes do."""

from __future__ import annotations

from typing import Any

from jupyter_server.gateway.gateway_client import GatewayClient

_KERNEL_ACTIONS = "https://events.jupyter.org/jupyter_server/kernel_actions/v1"


def emit_request(status_code: int, error: str = "") -> None:
    """Tell how a request to the gateway went."""
    client = GatewayClient.instance()
    if not _has_listeners(client.parent):
        return
    status = "error" if error else "success"
    data = {"status": status, "status_code": int(status_code), "msg": error or status}
    client.emit(data)  # type: ignore[no-untyped-call]


def emit_action(
    kernels: Any,
    action: str,
    kernel_id: str,
    kernel_name: str | None = None,
    error: Exception | None = None,
) -> None:
    """Tell that a kernel of this kernel manager was started or shut down, or why not."""
    if not _has_listeners(kernels.parent):
        return
    data = {
        "action": action,
        "kernel_id": kernel_id,
        "kernel_name": kernel_name,
        "status": "error" if error else "success",
        "status_code": getattr(error, "status", None),
        "msg": str(error or f"{action} of kernel {kernel_id}"),
    }
    # Only the manager of a single kernel knows these events.
    kernel = kernels.kernel_manager_factory(parent=kernels, log=kernels.log)
    known = {key: value for key, value in data.items() if value is not None}
    kernel.emit(schema_id=_KERNEL_ACTIONS, data=known)


def _has_listeners(parent: Any) -> bool:
    """Return whether this is a server, and not a command."""
    return hasattr(parent, "event_logger")
