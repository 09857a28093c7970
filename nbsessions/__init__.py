"""A Jupyter server extension that keeps ``/api/sessions`` in a durable store."""

from __future__ import annotations

from typing import Any

from nbsessions._version import __version__
from nbsessions.async_sessionmanager import AsyncSessionManager
from nbsessions.sessionmanager import SessionManager

__all__ = ["AsyncSessionManager", "SessionManager", "__version__"]


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """Return the extensions that jupyter_server finds in this package."""
    from nbsessions.extension import SessionsExtension

    return [{"module": "nbsessions", "app": SessionsExtension}]


def load_jupyter_server_extension(notebook_app: Any) -> None:
    """Load the extension into a classic Notebook 6.5 server."""
    from nbsessions.hosts.notebook import load

    load(notebook_app)
