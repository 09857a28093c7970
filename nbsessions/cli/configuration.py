"""Reads the server's configuration, without acting on it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_data_dir
from traitlets import TraitError
from traitlets.config import Application, Config
from traitlets.utils.importstring import import_item

from nbsessions.async_sessionmanager import AsyncSessionManager
from nbsessions.cli.errors import CommandError
from nbsessions.stores.sqlite.location import store_from_url
from nbsessions.stores.sqlite.repair import real_path

CONFIG_NAMES = (
    "jupyter_config",
    "jupyter_notebook_config",
    "jupyter_server_config",
    "jupyter_lab_config",
)
"""The configuration files of the servers that load nbsessions. Later ones take precedence."""


@dataclass(frozen=True, kw_only=True)
class StoreLocation:
    """Where sessions are kept."""

    label: str
    file: Path | None
    """None for a store that is not an SQLite file."""
    private_folder: bool = False
    """Whether the folder belongs to nbsessions alone."""
    is_memory: bool = False


def configured(config: Config, section: str, option: str) -> Any:
    """Return the configured value of an option, or None."""
    return config[section].get(option) if section in config else None


def load_class(name: Any) -> type:
    """Return the class that a configuration names. Raises CommandError."""
    if isinstance(name, type):
        return name
    try:
        found = import_item(str(name))
    except Exception as error:
        raise CommandError(f"{name} cannot be imported: {error}") from error
    if not isinstance(found, type):
        raise CommandError(f"{name} is not a class")
    return found


def configured_session_manager(config: Config) -> type | None:
    """Return the configured session manager class, or None. Raises CommandError."""
    for section in ("ServerApp", "NotebookApp"):
        name = configured(config, section, "session_manager_class")
        if name:
            return load_class(name)
    return None


def store_location(parent: Application) -> StoreLocation:
    """Return where the servers with this configuration keep sessions. Raises CommandError."""
    try:
        settings = _manager_class(parent.config)(parent=parent)
    except (TraitError, ImportError) as error:
        raise CommandError(str(error)) from error
    url, file = settings.store_url, settings.database_filepath
    settings.close()
    scheme = url.partition(":")[0]
    if scheme == "sqlite":
        return _in_file(store_from_url(url, namespace="", log=parent.log).path)
    if scheme == "memory" or (not url and file == ":memory:"):
        return StoreLocation(label="the memory of the server", file=None, is_memory=True)
    if url:
        # Show only the scheme: the URL may contain a password.
        return StoreLocation(label=f"a store of type {scheme!r}", file=None)
    return _in_file(real_path(Path(os.path.expanduser(file))))


def _manager_class(config: Config) -> type[AsyncSessionManager]:
    """Return AsyncSessionManager, or the subclass of it that is configured."""
    try:
        found = configured_session_manager(config)
    except CommandError:
        found = None
    if found is not None and issubclass(found, AsyncSessionManager):
        return found
    return AsyncSessionManager


def _in_file(path: Path) -> StoreLocation:
    private = real_path(Path(jupyter_data_dir())) / "nbsessions"
    return StoreLocation(label=str(path), file=path, private_folder=path.parent == private)
