"""Classes as a user may have them, in place of the server's own and of ours."""

from __future__ import annotations

from typing import Any

from jupyter_server.auth.authorizer import Authorizer
from jupyter_server.services.sessions.sessionmanager import SessionManager


class OwnSessionManager(SessionManager):
    """Marks its models."""

    async def row_to_model(self, row: Any, tolerate_culled: bool = False) -> Any:
        """Return the model with a mark."""
        model = await super().row_to_model(row, tolerate_culled)
        return model and {**model, "made_by": "own"}


class ReadOnlyAuthorizer(Authorizer):
    """Lets everybody read sessions, and nobody change them."""

    def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
        """Return whether the action is no write of sessions."""
        return (action, resource) != ("write", "sessions")
