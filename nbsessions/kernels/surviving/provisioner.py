"""Launches local kernels so that they outlive their server, and holds those that did."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

from jupyter_client.connect import KernelConnectionInfo, LocalPortCache
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from nbsessions.kernels.registry.process import (
    KERNEL_ID_VARIABLE,
    ProcessIdentity,
    attach,
    identify,
)

_PORTS = ("shell_port", "iopub_port", "stdin_port", "hb_port", "control_port")


class SurvivingProvisioner(LocalProvisioner):
    """A LocalProvisioner whose kernels do not die with their server.

    ``launching`` is awaited before the process is started and tells whether the next server
    will know of it: if not, the kernel dies with its server, as others do. ``launched`` is
    awaited after the start; ``ended`` is called when the kernel is gone for good.
    """

    log_file: Path
    launching: Callable[[], Awaitable[bool]]
    launched: Callable[[], Awaitable[None]]
    ended: Callable[[], None]

    identity: ProcessIdentity | None = None

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Prepare the launch of a process that does not look for its parent."""
        # Twice: no connection file without a record of it, and no record with outdated ports.
        await self.launching()
        kwargs = await super().pre_launch(**kwargs)
        self.identity = None
        if await self.launching():
            kwargs["independent"] = True
            # ipykernel watches the process of this id, unless it is 1; we may have inherited one.
            kwargs["env"]["JPY_PARENT_PID"] = "1"
            kwargs["env"][KERNEL_ID_VARIABLE] = self.kernel_id
        return kwargs

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Launch the process. What it prints goes to its own file: ours end with the server."""
        if not kwargs.get("independent"):
            return await super().launch_kernel(cmd, **kwargs)
        try:
            with _appending(self.log_file) as file:
                output = {"stdout": file, "stderr": file}
                info = await super().launch_kernel(cmd, **{**output, **kwargs})
            assert self.pid is not None
            self.identity = identify(self.pid)
        except BaseException:
            self.ended()
            raise
        await self.launched()
        return info

    def adopt(
        self, identity: ProcessIdentity | None, connection_info: dict[str, Any], cwd: str | None
    ) -> None:
        """Take hold of a process that another server has launched, or was about to.

        Raises ProcessLookupError when it has ended.
        """
        if identity is not None:
            self.process = attach(identity)  # type: ignore[assignment]  # it is all that is used
            self.identity = identity
            self.pid = self.pgid = identity.pid  # it leads a session of its own
        self.cwd = cwd
        self.connection_info = cast(KernelConnectionInfo, connection_info)
        if connection_info.get("transport") == "tcp":
            ports = [connection_info[port] for port in _PORTS]
            LocalPortCache.instance().currently_used_ports.update(ports)
            self.ports_cached = True

    async def send_signal(self, signum: int) -> None:
        """Send a signal to the kernel's process group, if the kernel still runs.

        The id of a group whose leader is gone may belong to a stranger.
        """
        if self.process is not None and self.process.poll() is None:
            await super().send_signal(signum)

    async def kill(self, restart: bool = False) -> None:
        """End the kernel's process group at once."""
        await self.send_signal(signal.SIGKILL)

    async def cleanup(self, restart: bool = False) -> None:
        """Forget a kernel that was shut down for good."""
        await super().cleanup(restart=restart)
        if not restart:
            self.ended()


@contextlib.contextmanager
def _appending(path: Path) -> Iterator[int]:
    """Yield the descriptor of a file that is its user's alone."""
    descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
