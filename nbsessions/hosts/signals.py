"""Makes signals stop a Jupyter server in an orderly way, where they would just end it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

from nbsessions.kernels import internals


class StopSignals:
    """The signals that stop the server, while the extension runs.

    These are SIGINT in a server without a terminal, SIGHUP if ``hangup`` is true, and a SIGTERM
    that arrives while the server writes to its log. Signal handlers that other code has installed
    stay.
    """

    def __init__(self, serverapp: Any, *, hangup: bool) -> None:
        self._serverapp = serverapp
        self._hangup = hangup
        self._replaced: dict[int, Any] = {}
        self._stopped = False

    def install(self) -> None:
        """Install the handlers. Call it after the server has installed its own."""
        if self._stopped or threading.current_thread() is not threading.main_thread():
            return
        stop_handler = internals.stop_handler(self._serverapp)
        self._stop = _make_handler(stop_handler, self._serverapp.io_loop)
        self._replace(signal.SIGTERM, stop_handler)
        self._replace(signal.SIGINT, signal.default_int_handler)
        if self._hangup and hasattr(signal, "SIGHUP"):
            self._replace(signal.SIGHUP, signal.SIG_DFL)

    def restore(self) -> None:
        """Put back the handlers that were replaced, unless other code has replaced ours.

        A server that handles SIGTERM itself is about to exit. It keeps ours, so that a second
        signal does not interrupt it while it ends its kernels.
        """
        self._stopped = True
        if signal.SIGTERM in self._replaced:
            return
        for signum, handler in self._replaced.items():
            if signal.getsignal(signum) is self._stop:
                signal.signal(signum, handler)
        self._replaced.clear()

    def _replace(self, signum: int, expected: Any) -> None:
        current = signal.getsignal(signum)
        if current == expected:
            self._replaced[signum] = current
            signal.signal(signum, self._stop)


def _make_handler(
    stop_handler: Callable[[int, Any], None], io_loop: Any
) -> Callable[[int, Any], None]:
    def stop(signum: int, frame: Any) -> None:
        try:
            stop_handler(signum, frame)
        except RuntimeError:
            # The signal arrived while the server was writing to its log, which is not reentrant.
            io_loop.add_callback_from_signal(stop_handler, signum, None)

    return stop
