"""Finds the gateway that servers with this configuration use."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from traitlets.config import Application, Config

from nbsessions.cli.configuration import configured
from nbsessions.cli.errors import CommandError
from nbsessions.identity import boot_id

if TYPE_CHECKING:
    from nbsessions.kernels.base import KernelProvider
    from nbsessions.kernels.gateway.requests import GatewayRequests


def uses_gateway(config: Config) -> bool:
    """Return whether servers with this configuration use a gateway."""
    return bool(
        configured(config, "GatewayClient", "url") or os.environ.get("JUPYTER_GATEWAY_URL")
    )


def gateway_requests(parent: Application) -> GatewayRequests:
    """Return the requests to the configured gateway, with all settings of its client.

    Raises CommandError.
    """
    try:
        # Imported late, because it imports jupyter_server, which takes a second.
        from jupyter_server.gateway.gateway_client import GatewayClient

        from nbsessions.kernels.gateway.requests import GatewayRequests
    except ImportError as error:
        raise CommandError(f"jupyter_server is needed to ask a gateway: {error}") from error
    try:
        client = GatewayClient.instance(parent=parent)
        client.load_connection_args()  # type: ignore[no-untyped-call]
    except Exception as error:
        # Whatever the client raises here, it cannot use its settings.
        raise CommandError(f"the settings of the gateway client are wrong: {error}") from error
    return GatewayRequests()


def gateway_provider(parent: Application, url: str) -> KernelProvider:
    """Return the provider of the kernels of the configured gateway, to end some of them.

    Raises CommandError if the configured gateway is not the one with this URL.
    """
    configured_url = gateway_requests(parent).url if uses_gateway(parent.config) else None
    if configured_url != url:
        raise CommandError(
            f"its kernel is at the gateway {url}, which is not the configured one: set "
            f"--GatewayClient.url={url}, and JUPYTER_GATEWAY_AUTH_TOKEN if it needs a token"
        )
    from nbsessions.kernels.base import KernelHost
    from nbsessions.kernels.gateway.manager import GatewayKernels
    from nbsessions.kernels.gateway.provider import GatewayKernelProvider

    return GatewayKernelProvider(
        KernelHost(
            kernel_manager=GatewayKernels(parent=parent, log=parent.log),
            contents_manager=None,
            kernel_env=lambda path, name: {},
            boot_id=boot_id(),
            log=parent.log,
        )
    )
