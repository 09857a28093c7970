"""Integration with classic Notebook 6.5."""

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
    """Replace the server's session manager and handlers by ours.

    The server has no hook that runs before it creates its managers, so the instance is replaced.
    Extensions that have stored a reference to the old instance still use it.
    """
    stock = notebook_app.session_manager
    is_chosen = "session_manager_class" in notebook_app.config.NotebookApp
    if is_chosen or type(stock) is not StockSessionManager:
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
    manager.hide_store()
    notebook_app.session_manager = manager
    notebook_app.web_app.settings["session_manager"] = manager
    notebook_app.web_app.add_handlers(".*$", session_handlers(APIHandler, notebook_app.base_url))
    # The server does not notify extensions when it stops.
    atexit.register(manager.close)
    io_loop = IOLoop.current()
    _stop_before_kernels(notebook_app, manager, io_loop)
    io_loop.add_callback(manager.begin)
    # Wait until all extensions are loaded, because some of them replace the contents manager.
    io_loop.add_callback(lambda: follow_renames(notebook_app.contents_manager, manager))
    notebook_app.log.info("nbsessions keeps the sessions of this server")


def _stop_before_kernels(notebook_app: Any, manager: AsyncSessionManager, io_loop: IOLoop) -> None:
    """Stop the manager before the server ends its kernels, as jupyter_server does.

    Otherwise, it would take them for kernels that end while the server runs.
    """
    cleanup_kernels = notebook_app.cleanup_kernels

    def stop() -> None:
        try:
            io_loop.run_sync(manager.stop)
        finally:
            cleanup_kernels()

    notebook_app.cleanup_kernels = stop
