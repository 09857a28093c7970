"""``jupyter nbsessions doctor``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from rich.text import Text
from traitlets import Bool

from nbsessions.cli.checks.finding import Finding, Level, error
from nbsessions.cli.checks.gateway import check_gateway
from nbsessions.cli.checks.keeper import check_keeper
from nbsessions.cli.checks.kernels import check_orphans, check_records, check_running_servers
from nbsessions.cli.checks.locks import check_locks
from nbsessions.cli.checks.servers import check_servers
from nbsessions.cli.checks.store import check_store
from nbsessions.cli.checks.survival import Surroundings, check_survival
from nbsessions.cli.command import FLAGS, JSON_FLAG, Command
from nbsessions.cli.configuration import store_location
from nbsessions.cli.errors import CommandError
from nbsessions.cli.keeper.state import read_state
from nbsessions.cli.output import plain, write_json
from nbsessions.cli.overview import Overview

_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "bold red"}

_FLAGS = {
    **FLAGS,
    **JSON_FLAG,
    "start-kernel": (
        {"DoctorCommand": {"start_kernel": True}},
        "Start a kernel at the gateway and end it, to see whether kernels start under the ids "
        "that servers choose.",
    ),
}


class DoctorCommand(Command):
    """Looks for problems and changes nothing, unless asked to start a kernel."""

    name = "jupyter-nbsessions-doctor"
    description = """Look for anything that keeps sessions and kernels from surviving. A
    configured gateway is asked, too. The command changes nothing, except that with --start-kernel,
    it starts and ends a kernel at the gateway. The exit code is 1 if it finds an error.
    Limitations of this machine are only warnings.

    With --json, the output is an object. Its keys are ok (whether the exit code is 0) and checks,
    an array of objects with the keys check, level ("ok", "warning" or "error"), message and hint
    (or null).
    """
    examples = """
jupyter nbsessions doctor
jupyter nbsessions doctor --json
jupyter nbsessions doctor --start-kernel
"""
    flags = _FLAGS

    start_kernel = Bool(
        False, help="Whether to start a kernel at the gateway, and to end it."
    ).tag(config=True)

    def run(self) -> int:
        """Run all checks and print the findings."""
        if self.extra_args:
            raise CommandError("`doctor` takes no arguments")
        findings = list(self._findings())
        wrong = any(finding.level is Level.ERROR for finding in findings)
        if self.json:
            write_json({"ok": not wrong, "checks": [each.to_json() for each in findings]})
        else:
            self._print(findings)
        return 1 if wrong else 0

    def _findings(self) -> Iterator[Finding]:
        try:
            location = store_location(self, self.store)
        except CommandError as problem:
            location = None
            yield error("store", f"the session store is configured wrongly: {problem}")
        inspection = None if location is None else location.inspection
        namespace = None if location is None else location.namespace
        overview = Overview(self.runtime_path, inspection, namespace, log=self.log)
        if location is not None:
            yield from check_store(location)
        yield from check_locks(location.file if location else None, self.runtime_path)
        servers = list(check_servers(self.config, self.config_file_paths))
        yield from servers
        yield from check_gateway(self, start_kernel=self.start_kernel)
        yield from check_records(self.runtime_path)
        yield from check_running_servers(overview)
        yield from check_orphans(overview)
        state = read_state(self.runtime_path, overview.kernels)
        yield from check_keeper(self.config, state, overview)
        pids = [answer.server.pid for answer in overview.answers]
        yield from check_survival(self.config, Surroundings(environ=os.environ), pids, servers)

    def _print(self, findings: Sequence[Finding]) -> None:
        for finding in findings:
            line = Text(f"{finding.level.value:<8}", style=_STYLES[finding.level])
            self.out.print(line.append(plain(f"{finding.check}: {finding.message}")))
            if finding.hint is not None:
                self.out.print(plain(f"        {finding.hint}"))
