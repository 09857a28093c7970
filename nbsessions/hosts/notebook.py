"""Fits sessions into a classic Notebook 6.5 server."""

from __future__ import annotations

import atexit
from typing import Any

from notebook.base.handlers import APIHandler
from notebook.services.sessions.sessionmanager import SessionManager as StockSessionManager
from tornado.ioloop import IOLoop

from nbsessions.async_sessionmanager import AsyncSessionManager
from nbsessions.handlers import session_handlers
from nbsessions.hosts.renames import follow_renames


def load(notebook_app: Any) -> None:
    """Put our session manager and handlers in the place of the server's own.

    There is no hook before the managers are made, so the instance is replaced; extensions
    that took hold of the old one before this keep it.
    """
    stock = notebook_app.session_manager
    if type(stock) is not StockSessionManager:
        notebook_app.log.warning(
            "nbsessions stands aside: another session manager is configured (%s.%s)",
            type(stock).__module__,
            type(stock).__qualname__,
        )
        return
    manager = AsyncSessionManager(
        parent=notebook_app,
        log=notebook_app.log,
        kernel_manager=notebook_app.kernel_manager,
        contents_manager=notebook_app.contents_manager,
    )
    notebook_app.session_manager = manager
    notebook_app.web_app.settings["session_manager"] = manager
    notebook_app.web_app.add_handlers(".*$", session_handlers(APIHandler, notebook_app.base_url))
    # Nothing tells extensions there that the server stops.
    atexit.register(manager.close)
    io_loop = IOLoop.current()
    io_loop.add_callback(manager.begin)
    # Once all extensions are loaded: some put a contents manager of theirs in its place.
    io_loop.add_callback(lambda: follow_renames(notebook_app.contents_manager, manager))
    notebook_app.log.info("nbsessions keeps the sessions of this server")
