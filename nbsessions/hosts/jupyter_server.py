"""Integration with jupyter_server: its manager classes and handlers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jupyter_core.utils import ensure_async
from jupyter_server.base.handlers import APIHandler
from jupyter_server.services.kernels.websocket import KernelWebsocketHandler
from tornado.web import HTTPError, RequestHandler

from nbsessions.async_sessionmanager import AsyncSessionManager
from nbsessions.handlers import session_handlers
from nbsessions.kernels.surviving.manager import (
    SurvivingKernels,
    SurvivingMappingKernelManager,
)
from nbsessions.kernels.surviving.websockets import SurvivingConnection

if TYPE_CHECKING:
    from nbsessions.kernels.gateway.manager import GatewayKernels

_CHANNELS = r"/api/kernels/(?P<kernel_id>\w+-\w+-\w+-\w+-\w+)/channels"


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


class GatewayWebsocketHandler(KernelWebsocketHandler):
    """Connects a websocket to a kernel of the gateway, even if another server has started it."""

    async def pre_get(self) -> None:
        """Let the kernel manager learn of the kernel, if the user may use kernels."""
        authorized = self.authorizer.is_authorized(self, self.current_user, "execute", "kernels")
        if not await ensure_async(authorized):
            raise HTTPError(403)
        kernels: Any = self.kernel_manager
        await kernels.learn(self.kernel_id)
        await super().pre_get()  # type: ignore[no-untyped-call]


def offer_managers(serverapp: Any) -> None:
    """Make our classes the server's defaults. Any configured class takes precedence.

    Called while extensions are linked, before the server creates its managers.
    """
    stock = type(serverapp)._all_trait_default_generators

    def session_manager_class(app: Any) -> Any:
        if app.gateway_config.gateway_enabled and not _serves_gateway(app):
            return stock["session_manager_class"](app)
        return AsyncSessionManager

    def kernel_manager_class(app: Any) -> Any:
        # Kernels that survive are useful only if their sessions survive, too.
        if not issubclass(app.session_manager_class, AsyncSessionManager):
            return stock["kernel_manager_class"](app)
        if app.gateway_config.gateway_enabled:
            # Imported only by servers that use a gateway, because it takes a while.
            from nbsessions.kernels.gateway.manager import GatewayKernels

            return GatewayKernels
        return SurvivingMappingKernelManager

    def connection_class(app: Any) -> Any:
        if _has_gateway_kernels(app.kernel_manager_class):
            from nbsessions.kernels.gateway.websockets import GatewayConnection

            return GatewayConnection
        if issubclass(app.kernel_manager_class, SurvivingKernels):
            return SurvivingConnection
        return stock["kernel_websocket_connection_class"](app)

    # traitlets uses a method with this name only if nothing else sets the trait.
    serverapp._session_manager_class_default = session_manager_class
    serverapp._kernel_manager_class_default = kernel_manager_class
    serverapp._kernel_websocket_connection_class_default = connection_class


def _serves_gateway(serverapp: Any) -> bool:
    """Return whether the server's kernel manager is ours, or will be, because none is configured.

    That default depends on the class of the session manager, so it must not be asked for here.
    """
    if not serverapp.trait_has_value("kernel_manager_class"):
        return True
    return _has_gateway_kernels(serverapp.kernel_manager_class)


def _has_gateway_kernels(manager: object) -> bool:
    """Return whether a kernel manager, or a class of them, is a GatewayKernels."""
    return getattr(manager, "session_provider", None) == "gateway"


def accepted_session_manager(serverapp: Any) -> AsyncSessionManager | None:
    """Return the server's session manager if it is ours. Otherwise log why not."""
    manager = serverapp.session_manager
    if isinstance(manager, AsyncSessionManager):
        return manager
    if serverapp.gateway_config.gateway_enabled:
        # The kernel manager decides, too: see offer_managers.
        serverapp.log.warning(
            "nbsessions stands aside: another session manager or kernel manager is configured "
            "(%s, %s)",
            _name_of(manager),
            _name_of(serverapp.kernel_manager),
        )
    else:
        serverapp.log.warning(
            "nbsessions stands aside: another session manager is configured (%s)",
            _name_of(manager),
        )
    return None


def _name_of(manager: object) -> str:
    return f"{type(manager).__module__}.{type(manager).__qualname__}"


def publish_namespace(serverapp: Any, manager: AsyncSessionManager) -> None:
    """Let the pages of JupyterLab and Notebook 7 know the namespace that they are loaded from.

    Called when the extension is loaded. Both copy this setting to the configuration of each page.
    """
    page_config = serverapp.web_app.settings.setdefault("page_config_data", {})
    page_config["nbsessionsNamespace"] = manager.namespace_id


def gateway_kernels(serverapp: Any) -> GatewayKernels | None:
    """Return the server's kernel manager if its kernels are those of a gateway."""
    manager = serverapp.kernel_manager
    return manager if _has_gateway_kernels(manager) else None


def surviving_kernels(serverapp: Any) -> SurvivingKernels | None:
    """Return the server's kernel manager if its kernels survive. Otherwise log why not."""
    manager = serverapp.kernel_manager
    if isinstance(manager, SurvivingKernels):
        return manager
    serverapp.log.warning(
        "Kernels end with this server: another kernel manager is configured (%s)",
        _name_of(manager),
    )
    return None


def handlers() -> list[tuple[str, type[RequestHandler]]]:
    """Return the routes of sessions, without the server's base URL."""
    return session_handlers(AuthorizedAPIHandler)


def gateway_handlers() -> list[tuple[str, type[RequestHandler]]]:
    """Return the routes that a gateway's kernels need besides those of sessions."""
    return [(_CHANNELS, GatewayWebsocketHandler)]
