"""A provisioner that launches local kernels so that they outlive their server."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

from jupyter_client.connect import KernelConnectionInfo, LocalPortCache
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from nbsessions.registry.process import (
    KERNEL_ID_VARIABLE,
    ProcessIdentity,
    attach,
    identify,
)

_PORTS = ("shell_port", "iopub_port", "stdin_port", "hb_port", "control_port")


class SurvivingProvisioner(LocalProvisioner):
    """A LocalProvisioner whose kernels outlive their server.

    ``launching`` is awaited before the process starts. It returns whether the kernel has been
    recorded, so that the next server can find it. If it returns False, the kernel ends with its
    server. ``open_log`` opens the file for the process's output. ``launched`` is awaited after
    the launch. ``announce`` is called afterwards, when the record names the process. ``ended`` is
    called when the kernel has ended and will not be restarted.
    """

    launching: Callable[[], Awaitable[bool]]
    open_log: Callable[[], int]
    launched: Callable[[], Awaitable[None]]
    announce: Callable[[], None]
    ended: Callable[[], None]

    identity: ProcessIdentity | None = None

    is_process_adopted = False
    """Whether another server has launched the process that runs, or ran last."""

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Prepare the launch of a kernel that does not exit when its parent process ends."""
        # Write the record twice. The first call ensures that a record exists before the connection
        # file does. The second one updates the ports, which the base class may have changed.
        await self.launching()
        kwargs = await super().pre_launch(**kwargs)
        self.identity = None
        self.is_process_adopted = False
        if await self.launching():
            kwargs["independent"] = True
            # ipykernel exits when the process with this id ends, unless the id is 1. Set it in any
            # case, because this server may have inherited another value.
            kwargs["env"]["JPY_PARENT_PID"] = "1"
            kwargs["env"][KERNEL_ID_VARIABLE] = self.kernel_id
        return kwargs

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Launch the process.

        Its output goes to a file, because the server's own output may be closed when it ends.
        """
        if not kwargs.get("independent"):
            return await super().launch_kernel(cmd, **kwargs)
        try:
            with _closing(self.open_log()) as file:
                output = {"stdout": file, "stderr": file}
                info = await super().launch_kernel(cmd, **{**output, **kwargs})
            assert self.pid is not None
            self.identity = identify(self.pid)
        except BaseException:
            self.ended()
            raise
        await self.launched()
        return info

    async def post_launch(self, **kwargs: Any) -> None:
        """Announce the kernel. Right after this, jupyter_client pauses for 10 ms."""
        await super().post_launch(**kwargs)
        if self.identity is not None:
            self.announce()

    def adopt(
        self, identity: ProcessIdentity | None, connection_info: dict[str, Any], cwd: str | None
    ) -> None:
        """Take over a process that another server launched, or was about to launch.

        Raises ProcessLookupError if the process has ended.
        """
        if identity is not None:
            self.process = attach(identity)  # type: ignore[assignment]  # has all that is used
            self.identity = identity
            self.is_process_adopted = True
            self.pid = self.pgid = identity.pid  # the kernel leads its own session
        self.cwd = cwd
        self.connection_info = cast(KernelConnectionInfo, connection_info)
        if connection_info.get("transport") == "tcp":
            ports = [connection_info[port] for port in _PORTS]
            LocalPortCache.instance().currently_used_ports.update(ports)
            self.ports_cached = True

    async def send_signal(self, signum: int) -> None:
        """Send a signal to the kernel's process group if the kernel still runs.

        After the group's leader has ended, its id may be reused for an unrelated process group.
        """
        if self.process is not None and self.process.poll() is None:
            await super().send_signal(signum)

    async def kill(self, restart: bool = False) -> None:
        """Send SIGKILL to the kernel's process group."""
        await self.send_signal(signal.SIGKILL)

    async def cleanup(self, restart: bool = False) -> None:
        """Clean up. Call ``ended`` unless this is part of a restart."""
        await super().cleanup(restart=restart)
        if not restart:
            self.ended()


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)
