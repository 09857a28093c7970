"""The extension that jupyter_server loads, which sets sessions up and shuts them down."""

from __future__ import annotations

from typing import Any

from jupyter_server.extension.application import ExtensionApp

from nbsessions.async_sessionmanager import AsyncSessionManager
from nbsessions.hosts import jupyter_server
from nbsessions.hosts.renames import follow_renames
from nbsessions.hosts.signals import StopSignals
from nbsessions.kernels.surviving.manager import SurvivingKernels


class SessionsExtension(ExtensionApp):
    """Takes over ``/api/sessions``, unless another session manager is configured."""

    name = "nbsessions"
    _session_manager: AsyncSessionManager | None = None
    _kernels: SurvivingKernels | None = None
    _signals: StopSignals | None = None

    def load_config_file(self, *args: Any, **kwargs: Any) -> None:
        """Load nothing. All settings are in the files of the server, which has loaded them.

        ``jupyter nbsessions`` reads these files only, too. So ``jupyter_nbsessions_config`` is
        ignored on purpose. To look for it would take a millisecond.
        """

    def parse_command_line(self, argv: Any = None) -> None:
        """Parse nothing. There are no options but those of traits, which the server has parsed."""

    def _link_jupyter_server_extension(self, serverapp: Any) -> None:
        super()._link_jupyter_server_extension(serverapp)
        jupyter_server.offer_managers(serverapp)

    def initialize_handlers(self) -> None:
        """Add the handlers of this extension, which take precedence over the server's own."""
        self._session_manager = jupyter_server.accepted_session_manager(self.serverapp)
        if self._session_manager is None:
            return
        self._session_manager.hide_store()
        self.handlers.extend(jupyter_server.handlers())
        jupyter_server.publish_namespace(self.serverapp, self._session_manager)
        assert self.serverapp is not None
        io_loop = self.serverapp.io_loop
        io_loop.add_callback(self._session_manager.begin)
        # Wait until all extensions are loaded, because some replace the contents manager.
        io_loop.add_callback(self._follow_renames)
        gateway = jupyter_server.gateway_kernels(self.serverapp)
        if gateway is not None:
            gateway.sessions = self._session_manager
            # Sessions may have idle kernels before this server is asked for any of them.
            io_loop.add_callback(gateway.initialize_culler)
            self.handlers.extend(jupyter_server.gateway_handlers())
            return
        self._kernels = jupyter_server.surviving_kernels(self.serverapp)
        if self._kernels is not None:
            self._kernels.adopt_left(self._session_manager.namespace)
            hangup = self._kernels.hangup == "stop"
            self._signals = StopSignals(self.serverapp, hangup=hangup)
            # Wait until the server has installed its own signal handlers.
            io_loop.add_callback(self._signals.install)

    def _follow_renames(self) -> None:
        assert self.serverapp is not None
        assert self._session_manager is not None
        follow_renames(self.serverapp.contents_manager, self._session_manager)

    async def stop_extension(self) -> None:
        """Let running requests finish while their kernels are still running."""
        if self._kernels is not None:
            self._kernels.begin_stop()
        try:
            if self._session_manager is not None:
                await self._session_manager.stop()
        finally:
            if self._signals is not None:
                self._signals.restore()
