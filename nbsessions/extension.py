"""The extension that jupyter_server loads: it builds what sessions need, and closes it."""

from __future__ import annotations

from typing import Any

from jupyter_server.extension.application import ExtensionApp

from nbsessions.async_sessionmanager import AsyncSessionManager
from nbsessions.hosts import jupyter_server


class SessionsExtension(ExtensionApp):
    """Takes over ``/api/sessions``, unless another session manager is configured."""

    name = "nbsessions"
    _session_manager: AsyncSessionManager | None = None

    def _link_jupyter_server_extension(self, serverapp: Any) -> None:
        super()._link_jupyter_server_extension(serverapp)
        jupyter_server.offer_session_manager(serverapp)

    def initialize_handlers(self) -> None:
        """Mount our handlers, which are matched before the server's own."""
        self._session_manager = jupyter_server.accepted_session_manager(self.serverapp)
        if self._session_manager is not None:
            self.handlers.extend(jupyter_server.handlers())
            assert self.serverapp is not None
            self.serverapp.io_loop.add_callback(self._session_manager.open)

    async def stop_extension(self) -> None:
        """Let running requests finish, while their kernels still run."""
        if self._session_manager is not None:
            await self._session_manager.stop()
