"""A kernel manager about whose kernels nothing is known but what it answers."""

from __future__ import annotations

from typing import Any

from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager


class AskedKernelManager(AsyncMappingKernelManager):
    """Makes its models itself, so that nobody else can know when they change."""

    def kernel_model(self, kernel_id: str) -> dict[str, Any]:
        model: dict[str, Any] = super().kernel_model(kernel_id)
        return dict(model)
