"""Fits sessions into a jupyter_server: which class it makes, which handlers it serves."""

from __future__ import annotations

import signal
import threading
from typing import Any

from jupyter_core.utils import ensure_async
from jupyter_server.base.handlers import APIHandler
from tornado.web import HTTPError, RequestHandler

from nbsessions.async_sessionmanager import AsyncSessionManager
from nbsessions.handlers import session_handlers
from nbsessions.kernels import internals
from nbsessions.kernels.surviving.manager import (
    SurvivingKernels,
    SurvivingMappingKernelManager,
)


class AuthorizedAPIHandler(APIHandler):
    """A base handler with the server's authentication, XSRF check and authorizer."""

    auth_resource = "sessions"

    async def authorize(self, action: str) -> None:
        """Raise HTTPError(403) unless the server's authorizer lets the user do this."""
        resource = self.auth_resource
        allowed = await ensure_async(
            self.authorizer.is_authorized(self, self.current_user, action, resource)
        )
        if not allowed:
            raise HTTPError(403, f"User is not authorized to {action} on resource: {resource}.")


def offer_managers(serverapp: Any) -> None:
    """Make our managers the server's default; whatever is configured anywhere wins.

    Called while extensions are linked, before the server makes its managers.
    """
    stock = type(serverapp)._all_trait_default_generators

    def session_manager_class(app: Any) -> Any:
        # Kernels behind a gateway outlive us in ways that only its own manager knows.
        if app.gateway_config.gateway_enabled:
            return stock["session_manager_class"](app)
        return AsyncSessionManager

    def kernel_manager_class(app: Any) -> Any:
        # Kernels that survive are of use to those whose sessions do.
        ours = issubclass(app.session_manager_class, AsyncSessionManager)
        if app.gateway_config.gateway_enabled or not ours:
            return stock["kernel_manager_class"](app)
        return SurvivingMappingKernelManager

    # A method of this name is traitlets' default of lowest precedence.
    serverapp._session_manager_class_default = session_manager_class
    serverapp._kernel_manager_class_default = kernel_manager_class


def accepted_session_manager(serverapp: Any) -> AsyncSessionManager | None:
    """Return the server's session manager if it is ours; else say so in the log."""
    manager = serverapp.session_manager
    if isinstance(manager, AsyncSessionManager):
        return manager
    if serverapp.gateway_config.gateway_enabled:
        serverapp.log.info("nbsessions stands aside: kernels are managed by a gateway")
    else:
        serverapp.log.warning(
            "nbsessions stands aside: another session manager is configured (%s.%s)",
            type(manager).__module__,
            type(manager).__qualname__,
        )
    return None


def surviving_kernels(serverapp: Any) -> SurvivingKernels | None:
    """Return the server's kernel manager if its kernels survive; else say so in the log."""
    manager = serverapp.kernel_manager
    if isinstance(manager, SurvivingKernels):
        return manager
    serverapp.log.warning(
        "Kernels end with this server: another kernel manager is configured (%s.%s)",
        type(manager).__module__,
        type(manager).__qualname__,
    )
    return None


def handle_signals(serverapp: Any, kernels: SurvivingKernels) -> None:
    """Have signals stop the server that would end it without a word to its kernels.

    SIGINT does so in a server without a terminal, SIGHUP in any, and SIGTERM where the
    server is just writing to its log. What somebody has set up for a signal stays.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    stop_handler = internals.stop_handler(serverapp)
    io_loop = serverapp.io_loop

    def stop(signum: int, frame: Any) -> None:
        try:
            stop_handler(signum, frame)
        except RuntimeError:
            # It came while a line was being logged, and cannot log another one in there.
            io_loop.add_callback_from_signal(stop_handler, signum, None)

    if signal.getsignal(signal.SIGTERM) == stop_handler:
        signal.signal(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, stop)
    hangup = getattr(signal, "SIGHUP", None)
    if kernels.hangup == "stop" and hangup and signal.getsignal(hangup) is signal.SIG_DFL:
        signal.signal(hangup, stop)


def handlers() -> list[tuple[str, type[RequestHandler]]]:
    """Return the routes of sessions, without the server's base URL."""
    return session_handlers(AuthorizedAPIHandler)
