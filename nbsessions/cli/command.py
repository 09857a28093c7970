"""The base class of all subcommands: configuration, output, errors and exit codes."""

from __future__ import annotations

import logging
import os
from functools import cached_property
from pathlib import Path
from typing import Any

from jupyter_core.application import JupyterApp
from jupyter_core.paths import jupyter_runtime_dir
from rich.console import Console
from traitlets import Bool, Unicode
from traitlets.config import Configurable
from traitlets.config.application import Application

from nbsessions.async_sessionmanager import AsyncSessionManager
from nbsessions.cli.configuration import CONFIG_NAMES, store_location
from nbsessions.cli.errors import CommandError
from nbsessions.cli.masking import MaskingFormatter, mask
from nbsessions.cli.output import make_console, plain
from nbsessions.cli.overview import Overview
from nbsessions.stores.inspection import StoreInspection

_INTERRUPTED = 130

FLAGS: dict[str, Any] = {
    "debug": ({"Application": {"log_level": logging.DEBUG}}, "Log debug messages, too.")
}
ALIASES = {"log-level": "Application.log_level", "config": "JupyterApp.config_file"}
_ALIASES = {**ALIASES, "store": "Command.store"}
_CLASSES: list[type[Configurable]] = [AsyncSessionManager]
JSON_FLAG: dict[str, Any] = {
    "json": ({"Command": {"json": True}}, "Write JSON for programs instead of a table.")
}
ALL_NAMESPACES_FLAG: dict[str, Any] = {
    "all-namespaces": (
        {"Command": {"all_namespaces": True}},
        "Include the sessions of all servers that share the store, not only those of the "
        "configured namespace.",
    )
}


class Command(JupyterApp):
    """A subcommand. It reads the server's configuration files and creates no files."""

    flags = FLAGS
    aliases = _ALIASES
    classes = _CLASSES
    _log_formatter_cls = MaskingFormatter

    json = Bool(False, help="Whether to write JSON.").tag(config=True)
    all_namespaces = Bool(False, help="Whether to include all namespaces.").tag(config=True)
    store = Unicode(
        help="""The URL of the session store, as in c.AsyncSessionManager.store_url, which it
        overrides. Others on this machine can see what is on the command line, so put passwords
        where libpq looks for them: in PGPASSWORD, or in the file that PGPASSFILE names."""
    ).tag(config=True)

    @cached_property
    def out(self) -> Console:
        """The console for results: stdout."""
        return make_console()

    @cached_property
    def err(self) -> Console:
        """The console for messages: stderr."""
        return make_console(stderr=True)

    def start(self) -> None:
        """Run the command and exit with the code it returns."""
        try:
            status = self.run()
        except CommandError as error:
            self.say(str(error))
            status = 1
        except KeyboardInterrupt:
            status = _INTERRUPTED
        self.exit(status)

    def run(self) -> int:
        """Run the command and return its exit code. Raises CommandError."""
        raise NotImplementedError

    def say(self, message: str) -> None:
        """Print a message for the user to stderr, apart from the results."""
        for line in mask(message).splitlines():
            self.err.print(plain(line))

    def overview(self) -> Overview:
        """Return the overview, and print what could not be found out."""
        overview = Overview(self.runtime_path, *self._readable(), log=self.log)
        for notice in overview.notices:
            self.say(notice[:1].upper() + notice[1:])
        return overview

    def _readable(self) -> tuple[StoreInspection | None, str | None]:
        """Return the store to read, and the namespace or None for all, and say what is wrong."""
        try:
            location = store_location(self, self.store)
        except CommandError as error:
            self.say(f"The session store is configured wrongly: {error}")
            return None, None
        if location.problem is None or self.all_namespaces:
            return location.inspection, None if self.all_namespaces else location.namespace
        self.say(f"The sessions in {location.label} are not known: {location.problem}")
        return None, None

    @property
    def runtime_path(self) -> Path:
        """The runtime directory, which need not exist. (``runtime_dir`` would create it.)"""
        return Path(jupyter_runtime_dir())

    # Configuration

    def load_config_file(self, suppress_errors: bool = True) -> None:  # type: ignore[override]
        """Load the configuration files that servers load, or the one given with ``--config``."""
        if self.config_file:
            folder, name = os.path.split(os.path.abspath(self.config_file))
            Application.load_config_file(self, CONFIG_NAMES[0], path=self.config_file_paths)
            Application.load_config_file(self, name, path=folder)
            return
        for name in CONFIG_NAMES:
            Application.load_config_file(self, name, path=self.config_file_paths)

    def migrate_config(self) -> None:
        """Do nothing: migrating old IPython configuration is left to the servers."""

    def _find_subcommand(self, name: str) -> str:
        # The next argument is a path or an id. JupyterApp would look for a program of that name.
        return ""
