"""Classes as a user may have them, in place of the server's own and of ours."""

from __future__ import annotations

from typing import Any

from jupyter_server.auth.authorizer import Authorizer
from jupyter_server.services.kernels.kernelmanager import (
    AsyncMappingKernelManager,
    ServerKernelManager,
)
from jupyter_server.services.sessions.sessionmanager import SessionManager

from nbsessions.kernels.surviving.manager import SurvivingKernel, SurvivingKernels


class OwnSessionManager(SessionManager):
    """Marks its models."""

    async def row_to_model(self, row: Any, tolerate_culled: bool = False) -> Any:
        """Return the model with a mark."""
        model = await super().row_to_model(row, tolerate_culled)
        return model and {**model, "made_by": "own"}


class RoleAuthorizer(Authorizer):
    """Goes by the header ``X-Role``: readers may not change sessions, strangers not see them."""

    def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
        """Return whether the role allows the action."""
        role = handler.request.headers.get("X-Role")
        if resource != "sessions" or role is None:
            return True
        return bool((role, action) == ("reader", "read"))


class OwnKernelManager(ServerKernelManager):
    """One kernel's manager, as somebody may have it."""


class OwnMappingKernelManager(AsyncMappingKernelManager):
    """The manager of all kernels, as somebody may have it."""


class MixedKernelManager(SurvivingKernel, ServerKernelManager):
    """One whose kernel survives."""


class MixedMappingKernelManager(SurvivingKernels, AsyncMappingKernelManager):
    """One that adopts kernels."""
