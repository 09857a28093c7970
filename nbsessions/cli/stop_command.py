"""``jupyter nbsessions stop``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.progress import Progress
from traitlets import Bool

from nbsessions.cli.command import ALL_NAMESPACES_FLAG, FLAGS, Command
from nbsessions.cli.configuration import store_location
from nbsessions.cli.confirmation import confirmed, require_terminal
from nbsessions.cli.errors import CommandError
from nbsessions.cli.output import plain, session_table
from nbsessions.cli.overview import Overview
from nbsessions.cli.remote_kernels import RemoteKernels
from nbsessions.cli.selection import select_one
from nbsessions.cli.stopping import Outcome, Stopper
from nbsessions.cli.values import Entry

_MIN_FOR_PROGRESS = 5

_FLAGS = {
    **FLAGS,
    **ALL_NAMESPACES_FLAG,
    "all": ({"StopCommand": {"all": True}}, "End all sessions."),
    "orphans": (
        {"StopCommand": {"orphans": True}},
        "End all kernels that `list --orphans` shows.",
    ),
    "y": ({"StopCommand": {"yes": True}}, "Do not ask for confirmation."),
    "yes": ({"StopCommand": {"yes": True}}, "Do not ask for confirmation."),
}


class StopCommand(Command):
    """Ends sessions, and kernels whose server is dead."""

    name = "jupyter-nbsessions-stop"
    description = """End sessions, given by id, by the beginning of an id, or by path. The command
    asks for confirmation first. A running server ends its own sessions, and shuts a kernel down
    unless another session uses it. If the server is dead, the kernel's process is ended. If no
    server serves a session of a gateway, the gateway is asked to end the kernel, with the settings
    of the configured gateway client.
    """
    examples = """
jupyter nbsessions stop folder/notebook.ipynb
jupyter nbsessions stop --orphans
jupyter nbsessions stop --all -y
"""
    flags = _FLAGS

    all = Bool(False, help="Whether to end all sessions.").tag(config=True)
    orphans = Bool(False, help="Whether to end all orphaned kernels.").tag(config=True)
    yes = Bool(False, help="Whether to skip the confirmation.").tag(config=True)

    def run(self) -> int:
        """Ask for confirmation, and end the chosen sessions."""
        if bool(self.extra_args) + self.all + self.orphans != 1:
            raise CommandError("`stop` takes ids or paths, or --all, or --orphans")
        overview = self.overview()
        entries = self._select(overview)
        if not self.yes and not self._confirmed(entries):
            raise CommandError("Nothing was stopped")
        if any(each.session_id is None and overview.gateway_of(each) for each in entries):
            self.say(
                "This may take a minute: a gateway may be at work on a start that was cut short"
            )
        return self._stop(Stopper(overview, self._remote_kernels()), entries)

    def _remote_kernels(self) -> RemoteKernels | None:
        try:
            location = store_location(self, self.store)
        except CommandError:
            return None  # The overview has said so, and has no sessions of gateways.
        return location.make_store and RemoteKernels(self, location.make_store)

    def _select(self, overview: Overview) -> Sequence[Entry]:
        if self.extra_args:
            found = [select_one(overview, wanted) for wanted in self.extra_args]
            return list(dict.fromkeys(found))
        entries = overview.orphans if self.orphans else overview.sessions
        if not entries:
            raise CommandError(overview.no_orphans if self.orphans else overview.no_sessions)
        return entries

    def _confirmed(self, entries: Sequence[Entry]) -> bool:
        require_terminal()
        self.err.print(session_table(entries))
        return confirmed(f"Stop {_count(entries)}?", self.err)

    def _stop(self, stopper: Stopper, entries: Sequence[Entry]) -> int:
        failed = 0
        with Progress(
            console=self.err, transient=True, disable=len(entries) < _MIN_FOR_PROGRESS
        ) as progress:
            task = progress.add_task("Stopping", total=len(entries))
            for outcome in stopper.stop(entries):
                self._report(outcome)
                failed += len(outcome.entries) if outcome.problem else 0
                progress.advance(task, len(outcome.entries))
        return 1 if failed else 0

    def _report(self, outcome: Outcome) -> None:
        for entry in outcome.entries:
            if outcome.problem is None:
                self.out.print(plain(f"Stopped {entry.label}"))
            else:
                self.say(f"{entry.label} was not stopped: {outcome.problem}")


def _count(entries: Sequence[Entry]) -> str:
    return "this" if len(entries) == 1 else f"these {len(entries)}"
