"""Custom classes that a user might configure instead of the server's or ours."""

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
    """Adds a mark to its models."""

    async def row_to_model(self, row: Any, tolerate_culled: bool = False) -> Any:
        """Return the model with a mark."""
        model = await super().row_to_model(row, tolerate_culled)
        return model and {**model, "made_by": "own"}


class RoleAuthorizer(Authorizer):
    """Decides by ``X-Role``: a ``reader`` may only read sessions, other roles not even that.

    Neither may use kernels.
    """

    def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
        """Return whether the role allows the action."""
        role = handler.request.headers.get("X-Role")
        if resource not in ("sessions", "kernels") or role is None:
            return True
        return bool((role, resource, action) == ("reader", "sessions", "read"))


class OwnKernelManager(ServerKernelManager):
    """A custom manager of one kernel."""


class OwnMappingKernelManager(AsyncMappingKernelManager):
    """A custom manager of all kernels."""


class MixedKernelManager(SurvivingKernel, ServerKernelManager):
    """A custom manager of one kernel, which survives."""


class MixedMappingKernelManager(SurvivingKernels, AsyncMappingKernelManager):
    """A custom manager of all kernels, which adopts kernels."""
