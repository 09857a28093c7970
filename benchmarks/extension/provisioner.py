"""Kernels that are no processes, but have ports that somebody else binds."""

from __future__ import annotations

from collections import deque
from typing import Any, ClassVar

from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase


class LightProvisioner(KernelProvisionerBase):
    """Starts nothing. The kernel is alive until it is asked to end."""

    request_port: ClassVar[int] = 0
    free_ports: ClassVar[deque[int]] = deque()
    _iopub_port: int | None = None

    @property
    def has_process(self) -> bool:
        return self._iopub_port is not None

    async def poll(self) -> int | None:
        return None if self.has_process else 0

    async def wait(self) -> int:
        return 0

    async def send_signal(self, signum: int) -> None:
        pass

    async def kill(self, restart: bool = False) -> None:
        self._end()

    async def terminate(self, restart: bool = False) -> None:
        self._end()

    async def shutdown_requested(self, restart: bool = False) -> None:
        self._end()

    async def cleanup(self, restart: bool = False) -> None:
        self._end()

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        # As LocalProvisioner does: the rest is for the process, which there is not.
        kwargs.pop("extra_arguments", None)
        kwargs.pop("transport_encryption", None)
        launch: dict[str, Any] = await super().pre_launch(cmd=[], **kwargs)
        return launch

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        session: Any = self.parent.session  # type: ignore[union-attr]  # it has one by now
        self._iopub_port = self.free_ports.popleft()
        self.connection_info = {
            "transport": "tcp",
            "ip": "127.0.0.1",
            "iopub_port": self._iopub_port,
            "shell_port": self.request_port,
            "stdin_port": self.request_port,
            "control_port": self.request_port,
            "hb_port": self.request_port,
            "signature_scheme": session.signature_scheme,
            "key": session.key,
        }
        return self.connection_info

    def _end(self) -> None:
        if self._iopub_port is not None:
            self.free_ports.append(self._iopub_port)
            self._iopub_port = None
