"""Keeps the sessions of a Jupyter server in a durable store: takes over ``/api/sessions``."""

from __future__ import annotations

from typing import Any

from nbsessions._version import __version__
from nbsessions.async_sessionmanager import AsyncSessionManager
from nbsessions.sessionmanager import SessionManager

__all__ = ["AsyncSessionManager", "SessionManager", "__version__"]


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """Tell jupyter_server where its extension is."""
    from nbsessions.extension import SessionsExtension

    return [{"module": "nbsessions", "app": SessionsExtension}]


def load_jupyter_server_extension(notebook_app: Any) -> None:
    """Load the extension into a classic Notebook 6.5 server."""
    from nbsessions.hosts.notebook import load

    load(notebook_app)
