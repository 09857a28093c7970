"""``jupyter nbsessions keeper stop``."""

from __future__ import annotations

from typing import Any

from traitlets import Bool

from nbsessions.cli.command import FLAGS, Command
from nbsessions.cli.confirmation import confirmed, require_terminal
from nbsessions.cli.errors import CommandError
from nbsessions.cli.keeper.state import KeeperState, read_state
from nbsessions.cli.local_kernels import LocalKernels
from nbsessions.cli.output import plain
from nbsessions.keeper.asking import stop_keeper

_YES = ({"StopKeeperCommand": {"yes": True}}, "Do not ask for confirmation.")
_FLAGS: dict[str, Any] = {**FLAGS, "y": _YES, "yes": _YES}


class StopKeeperCommand(Command):
    """Stops the keeper."""

    name = "jupyter-nbsessions-keeper-stop"
    description = """Stop the keeper, after asking for confirmation. It writes what it has first.
    While kernels may outlive their server, a running server starts another keeper within two
    seconds. Without a server, the next one does. What kernels say in the meantime is lost if
    nobody can receive it.
    """
    examples = """
jupyter nbsessions keeper stop
jupyter nbsessions keeper stop -y
"""
    flags = _FLAGS

    yes = Bool(False, help="Whether to skip the confirmation.").tag(config=True)

    def run(self) -> int:
        """Ask for confirmation, and stop it."""
        if self.extra_args:
            raise CommandError("`keeper stop` takes no arguments")
        state = read_state(self.runtime_path, LocalKernels(self.runtime_path, log=self.log))
        if state.status is None and state.trouble is None:
            raise CommandError("No keeper runs")
        if not self.yes:
            require_terminal()
        self.say(cost_of_stopping(state))
        if not self.yes and not confirmed("Stop the keeper?", self.err):
            raise CommandError("The keeper was not stopped")
        self._stop(state)
        return 0

    def _stop(self, state: KeeperState) -> None:
        try:
            stop_keeper(state.folder)
        except OSError as error:
            raise CommandError(f"The keeper was not stopped: {error}") from error
        process = "" if state.pid is None else f" (process {state.pid})"
        self.out.print(plain(f"Stopped the keeper{process}"))


def cost_of_stopping(state: KeeperState) -> str:
    """Return what is lost if the keeper stops."""
    if not state.audible:
        return "There is no kernel that it has to listen to: nothing that kernels say is lost"
    until = (
        "until a running server has started another keeper, within two seconds"
        if state.is_restarted
        else "until the next server is started, because no server of these kernels runs"
    )
    return (
        f"What kernels say is lost {until}, unless a client receives it. Clients that are away "
        "still get what is in the files"
    )
