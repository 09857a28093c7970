"""The kernel provider for the kernels of a gateway."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from jupyter_core.utils import ensure_async
from jupyter_server.gateway.gateway_client import GatewayClient
from tornado.web import HTTPError

from nbsessions.errors import (
    InvalidRequest,
    KernelspecNotFound,
    KernelStartFailed,
    KernelStartUncertain,
    KernelsUnavailable,
)
from nbsessions.kernels.addresses import is_addressable
from nbsessions.kernels.base import KernelHost, KernelProvider, StartRequest
from nbsessions.kernels.gateway.events import emit_action
from nbsessions.kernels.gateway.listing import is_model
from nbsessions.kernels.gateway.names import provider_name
from nbsessions.kernels.gateway.requests import GatewayError
from nbsessions.models import EndReason, Kernel, KernelModels, KernelTrace

_REFUSALS = (401, 403, 429)
"""Statuses of a gateway that starts no kernel for this server. 403: it runs as many as it may."""

_SETTLES_AFTER = 10.0
"""Seconds after which a start that was cut short cannot bring a kernel up any more, at least.

A gateway does not tell of a kernel before its process runs, and goes on with a start although
the client has hung up. It does so for as long as it was told that a launch may take.
"""

_REMEMBERED = 1000
"""How many starts are remembered."""


class GatewayKernelProvider(KernelProvider):
    """Starts kernels at the gateway, each under an id that is known before."""

    accepts_kernel_ids = False

    def __init__(self, host: KernelHost) -> None:
        self._kernels = host.kernel_manager
        self._requests = host.kernel_manager.requests
        self._models = host.kernel_manager.models
        self._contents_manager = host.contents_manager
        self._kernel_env = host.kernel_env
        self._log = host.log
        self.name = provider_name(self._requests.url)
        self.shared_scope = self.name
        seconds: float = host.kernel_manager.orphan_timeout
        self.orphan_timeout = timedelta(seconds=seconds) if seconds else None
        self._final_after: dict[str, float] = {}
        """When a 404 proves that no kernel will come up, by the ids of kernels that were started.

        Kernels that have ended are forgotten.
        """
        self._kernels.watch(self._forget_start)

    @property
    def settling_time(self) -> timedelta:  # type: ignore[override]  # it follows the settings
        return timedelta(seconds=max(_SETTLES_AFTER, self._requests.start_timeout))

    @property
    def default_kernel_name(self) -> str | None:
        name: str | None = self._kernels.default_kernel_name
        return name

    def new_kernel_id(self) -> str:
        return str(uuid.uuid4())

    async def start(self, request: StartRequest) -> Kernel:
        kernel_id = request.kernel_id or self.new_kernel_id()
        name = request.kernel_name
        body = {
            # None is the gateway's own default.
            "name": name,
            # Kernel Gateway takes the first one and Enterprise Gateway the second one.
            "kernel_id": kernel_id,
            "env": {**await self._environment(request), "KERNEL_ID": kernel_id},
        }
        try:
            model = await self._requests.kernels("POST", body=body)
        except GatewayError as error:
            emit_action(self._kernels, "start", kernel_id, name, error=error)
            raise await self._failure(error, kernel_id, name) from error
        if not is_model(model):
            raise KernelStartUncertain("The answer of the gateway to a start makes no sense")
        started: str = model["id"]
        self._remember_start(started, 0.0)
        self._kernels.add(model)
        emit_action(self._kernels, "start", started, model["name"])
        return Kernel(kernel_id=started, kernel_name=model["name"], provider=self.name)

    async def _environment(self, request: StartRequest) -> dict[str, str]:
        """Return the variables that jupyter_server's own client would send."""
        client = GatewayClient.instance()
        allowed = set(client.allowed_envs.split(","))
        return {
            name: value
            for name, value in {
                **({"KERNEL_USERNAME": client.http_user} if client.http_user else {}),
                "KERNEL_WORKING_DIR": self._kernels.cwd_for_path(await self._path(request.path)),
                **os.environ,
                **self._kernel_env(request.path, request.name),
            }.items()
            if name.startswith("KERNEL_") or name in allowed
        }

    async def _path(self, path: str | None) -> str:
        try:
            kernel_path: str = await ensure_async(
                self._contents_manager.get_kernel_path(path=path or "")
            )
        except HTTPError as error:
            if error.status_code >= 500:
                raise
            raise InvalidRequest("path", "is not inside the server's root directory") from error
        return kernel_path

    async def _failure(self, error: GatewayError, kernel_id: str, name: str | None) -> Exception:
        if not error.done:
            return KernelStartUncertain(f"The gateway did not start the kernel in time: {error}")
        if error.status is None:
            return KernelsUnavailable(f"The gateway cannot be reached: {error}")
        if error.status in _REFUSALS:
            return KernelsUnavailable(f"The gateway refused to start a kernel: {error}")
        if name is not None and await self._lacks_kernelspec(name):
            return KernelspecNotFound(name)
        self._log.error("Kernel %s (%r) did not start: %s", kernel_id, name, error.body[:2000])
        # It answered, so the start is over. What it may have left behind ends now.
        self._remember_start(kernel_id, 0.0)
        try:
            await self.undo_start(kernel_id)
        except GatewayError:
            return KernelStartUncertain(f"The gateway did not start the kernel: {error}")
        return KernelStartFailed(name, error, told=error.told)

    async def _lacks_kernelspec(self, name: str) -> bool:
        try:
            await self._requests.kernelspec(name)
        except GatewayError as error:
            return error.is_missing(name)
        return False

    async def models(self, kernel_ids: Sequence[str]) -> KernelModels:
        models: KernelModels = await self._models.get(kernel_ids)
        for kernel_id in filter(models.is_dead, kernel_ids):
            self._forget_start(kernel_id)
        return models

    def can_address(self, kernel_id: str) -> bool:
        return is_addressable(kernel_id)

    async def shutdown(self, kernel_id: str) -> None:
        if not await self._kernels.end(kernel_id) and not self._models.can_be_dead(kernel_id):
            raise KernelsUnavailable(f"Kernel {kernel_id} may run at another gateway")

    async def undo_start(self, kernel_id: str) -> None:
        now = asyncio.get_running_loop().time()
        if kernel_id not in self._final_after:
            self._remember_start(kernel_id, now + self.settling_time.total_seconds())
        final_after = self._final_after[kernel_id]
        if not await self._kernels.end(kernel_id) and now < final_after:
            raise KernelStartUncertain(f"Kernel {kernel_id} may still come up")
        self._remember_start(kernel_id, 0.0)

    def _remember_start(self, kernel_id: str, final_after: float) -> None:
        self._final_after[kernel_id] = final_after
        while len(self._final_after) > _REMEMBERED:
            del self._final_after[next(iter(self._final_after))]

    def _forget_start(self, kernel_id: str) -> None:
        self._final_after.pop(kernel_id, None)

    def update_env(self, kernel_id: str, *, path: str | None, name: str | None) -> None:
        # Gateways offer no way to change the environment of a kernel's next restart.
        return

    def find_started(self, token: str) -> str | None:
        # The intent has the id that the kernel was started under.
        return None

    async def find_ended(self, traces: Collection[KernelTrace]) -> Mapping[KernelTrace, EndReason]:
        # Sessions in the shared scope are those of this server. Others have other kernels.
        return {}

    def list_adopted(self) -> Collection[str]:
        return ()

    def watch(self, ended: Callable[[str], None]) -> None:
        self._kernels.watch(ended)

    def was_connected(self, kernel_id: str) -> bool:
        model: Any = self._models.find_last_known(kernel_id)
        # A kernel is "starting" for the gateway until it has had its first client.
        return model is None or model["connections"] > 0 or model["execution_state"] != "starting"

    def list_running(self) -> Collection[str]:
        # The gateway runs them.
        return ()
