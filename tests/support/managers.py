"""A session manager as a user may have one, in place of the server's own and of ours."""

from __future__ import annotations

from typing import Any

from jupyter_server.services.sessions.sessionmanager import SessionManager


class OwnSessionManager(SessionManager):
    """Marks its models."""

    async def row_to_model(self, row: Any, tolerate_culled: bool = False) -> Any:
        """Return the model with a mark."""
        model = await super().row_to_model(row, tolerate_culled)
        return model and {**model, "made_by": "own"}
