"""A kernel manager without kernels, so that only the session managers are measured."""

from __future__ import annotations

import uuid
from typing import Any

from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager


class FakeKernelManager(AsyncMappingKernelManager):
    """Its kernels are entries of a dict. Both session managers use this class."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # A plain attribute: looking up a trait would take most of the measured time.
        self.models: dict[str, dict[str, Any]] = {}

    async def start_kernel(  # type: ignore[override]  # the base class takes anything
        self, *, kernel_id: str | None = None, kernel_name: str | None = None, **_: Any
    ) -> str:
        kernel_id = kernel_id or str(uuid.uuid4())
        self.models[kernel_id] = {
            "id": kernel_id,
            "name": kernel_name or "python3",
            "last_activity": "2026-01-01T00:00:00.000000Z",
            "execution_state": "idle",
            "connections": 1,
        }
        return kernel_id

    async def shutdown_kernel(  # type: ignore[override]  # as above
        self, kernel_id: str, **_: Any
    ) -> None:
        del self.models[kernel_id]

    def kernel_model(self, kernel_id: str) -> dict[str, Any]:
        return self.models[kernel_id]

    def list_kernel_ids(self) -> list[str]:
        return list(self.models)

    def __contains__(self, kernel_id: str) -> bool:
        return kernel_id in self.models

    def update_env(self, *, kernel_id: str, env: dict[str, str]) -> None:
        pass
