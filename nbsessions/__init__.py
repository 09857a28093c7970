"""A Jupyter server extension that keeps ``/api/sessions`` in a durable store."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nbsessions._version import __version__

if TYPE_CHECKING:
    from nbsessions.async_sessionmanager import AsyncSessionManager
    from nbsessions.sessionmanager import SessionManager

__all__ = ["AsyncSessionManager", "SessionManager", "__version__"]

_MODULES = {
    "AsyncSessionManager": "nbsessions.async_sessionmanager",
    "SessionManager": "nbsessions.sessionmanager",
}


def __getattr__(name: str) -> Any:
    # Imported late, because the process that keeps output needs neither Tornado nor traitlets.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """Return the extensions that jupyter_server finds in this package."""
    from nbsessions.extension import SessionsExtension

    return [{"module": "nbsessions", "app": SessionsExtension}]


def load_jupyter_server_extension(notebook_app: Any) -> None:
    """Load the extension into a classic Notebook 6.5 server."""
    from nbsessions.hosts.notebook import load

    load(notebook_app)
