"""Integration with jupyter_server: its manager classes and handlers."""

from __future__ import annotations

from typing import Any

from jupyter_core.utils import ensure_async
from jupyter_server.base.handlers import APIHandler
from tornado.web import HTTPError, RequestHandler

from nbsessions.async_sessionmanager import AsyncSessionManager
from nbsessions.handlers import session_handlers
from nbsessions.kernels.surviving.manager import (
    SurvivingKernels,
    SurvivingMappingKernelManager,
)


class AuthorizedAPIHandler(APIHandler):
    """A base handler that uses the server's authentication, XSRF check and authorizer."""

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
    """Make our manager classes the server's defaults. Any configured class takes precedence.

    Called while extensions are linked, before the server creates its managers.
    """
    stock = type(serverapp)._all_trait_default_generators

    def session_manager_class(app: Any) -> Any:
        # Only jupyter_server's own managers know how long kernels behind a gateway live.
        if app.gateway_config.gateway_enabled:
            return stock["session_manager_class"](app)
        return AsyncSessionManager

    def kernel_manager_class(app: Any) -> Any:
        # Kernels that survive are useful only if their sessions survive, too.
        ours = issubclass(app.session_manager_class, AsyncSessionManager)
        if app.gateway_config.gateway_enabled or not ours:
            return stock["kernel_manager_class"](app)
        return SurvivingMappingKernelManager

    # traitlets uses a method with this name only if nothing else sets the trait.
    serverapp._session_manager_class_default = session_manager_class
    serverapp._kernel_manager_class_default = kernel_manager_class


def accepted_session_manager(serverapp: Any) -> AsyncSessionManager | None:
    """Return the server's session manager if it is ours. Otherwise log why not."""
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


def publish_namespace(serverapp: Any, manager: AsyncSessionManager) -> None:
    """Let the pages of JupyterLab and Notebook 7 know the namespace that they are loaded from.

    Called when the extension is loaded. Both copy this setting to the configuration of each page.
    """
    page_config = serverapp.web_app.settings.setdefault("page_config_data", {})
    page_config["nbsessionsNamespace"] = manager.namespace_id


def surviving_kernels(serverapp: Any) -> SurvivingKernels | None:
    """Return the server's kernel manager if its kernels survive. Otherwise log why not."""
    manager = serverapp.kernel_manager
    if isinstance(manager, SurvivingKernels):
        return manager
    serverapp.log.warning(
        "Kernels end with this server: another kernel manager is configured (%s.%s)",
        type(manager).__module__,
        type(manager).__qualname__,
    )
    return None


def handlers() -> list[tuple[str, type[RequestHandler]]]:
    """Return the routes of sessions, without the server's base URL."""
    return session_handlers(AuthorizedAPIHandler)
