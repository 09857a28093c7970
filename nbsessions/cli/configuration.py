"""Reads the server's configuration, without acting on it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from jupyter_core.paths import jupyter_data_dir
from traitlets import TraitError
from traitlets.config import Application, Config
from traitlets.utils.importstring import import_item

from nbsessions.async_sessionmanager import AsyncSessionManager
from nbsessions.cli.errors import CommandError
from nbsessions.plugins import inspection_factory, is_remote, scheme_of, store_factory
from nbsessions.stores.base import SessionStore
from nbsessions.stores.inspection import StoreInspection
from nbsessions.stores.memory import MemorySessionStore
from nbsessions.stores.sqlite.inspection import SQLiteInspection
from nbsessions.stores.sqlite.repair import real_path
from nbsessions.stores.sqlite.store import SQLiteSessionStore

CONFIG_NAMES = (
    "jupyter_config",
    "jupyter_notebook_config",
    "jupyter_server_config",
    "jupyter_lab_config",
)
"""The configuration files of the servers that load nbsessions. Later ones take precedence."""


MakeStore: TypeAlias = Callable[[str], SessionStore]
"""Returns the store of a namespace, which is not open yet."""


@dataclass(frozen=True, kw_only=True)
class StoreLocation:
    """Where sessions are kept."""

    label: str
    inspection: StoreInspection | None
    """None for a store that cannot be read from here."""
    is_memory: bool = False
    namespace: str | None = None
    """The configured namespace of a remote store. None if the configuration is wrong."""
    make_store: MakeStore | None = None
    """For changes that no server is there to make. None if ``inspection`` is None."""
    problem: str | None = None
    """Why servers with this configuration refuse to start, as far as it concerns the namespace."""

    @property
    def file(self) -> Path | None:
        """The file that the store consists of, if it is one."""
        return None if self.inspection is None else self.inspection.file

    @property
    def private_folder(self) -> bool:
        """Whether the folder of the file belongs to nbsessions alone."""
        return self.file is not None and _is_private(self.file)


def _is_private(file: Path) -> bool:
    return file.parent == real_path(Path(jupyter_data_dir())) / "nbsessions"


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


def store_location(parent: Application, url: str = "") -> StoreLocation:
    """Return where the servers with this configuration keep sessions. Raises CommandError.

    A ``url`` takes precedence over the configured one.
    """
    try:
        settings = _settings(parent, url)
        if settings.store_url:
            return _at(settings.store_url, settings, parent.log)
    except (TraitError, ImportError) as error:
        raise CommandError(str(error)) from error
    if settings.database_filepath == ":memory:":
        return _IN_MEMORY
    path = Path(os.path.expanduser(settings.database_filepath))
    return _in(SQLiteInspection(path), lambda namespace: _file_store(path, namespace, parent.log))


def configured_store_url(parent: Application) -> str:
    """Return the URL that servers with this configuration use, or "". Raises CommandError."""
    try:
        return _settings(parent).store_url
    except TraitError as error:
        raise CommandError(str(error)) from error


_IN_MEMORY = StoreLocation(label="the memory of the server", inspection=None, is_memory=True)


def _at(url: str, settings: AsyncSessionManager, log: logging.Logger) -> StoreLocation:
    if scheme_of(url) == "memory":
        return _IN_MEMORY
    factory = inspection_factory(url)
    if factory is None:
        # Show only the scheme: the URL may contain a password.
        return StoreLocation(label=f"a store of type {scheme_of(url)!r}", inspection=None)
    inspection = factory(url)

    def make_store(namespace: str) -> SessionStore:
        return store_factory(url)(url, namespace=namespace, log=log)

    if not is_remote(store_factory(url)):
        return _in(inspection, make_store)
    try:
        namespace = settings.namespace
        make_store(namespace)
    except TraitError as error:
        return replace(_in(inspection, make_store), problem=str(error))
    return replace(_in(inspection, make_store), namespace=namespace)


def _in(inspection: StoreInspection, make_store: MakeStore) -> StoreLocation:
    return StoreLocation(label=inspection.name, inspection=inspection, make_store=make_store)


def _file_store(path: Path, namespace: str, log: logging.Logger) -> SessionStore:
    private = _is_private(real_path(path))
    return SQLiteSessionStore(path, namespace, log=log, private_folder=private)


def _settings(parent: Application, url: str = "") -> AsyncSessionManager:
    """Return a closed session manager with the settings of the configured one, and no store.

    To make the store, a server needs a namespace. Operators do not. Raises TraitError.
    """
    manager = _manager_class(parent.config)
    # Settings are found by the names of the classes.
    without_store = type(manager.__name__, (manager,), {"_make_store": _make_no_store})
    settings: AsyncSessionManager = without_store(
        parent=parent, **({"store_url": url} if url else {})
    )
    settings.close()
    return settings


def _make_no_store(settings: AsyncSessionManager) -> SessionStore:
    return MemorySessionStore()


def _manager_class(config: Config) -> type[AsyncSessionManager]:
    """Return AsyncSessionManager, or the subclass of it that is configured."""
    try:
        found = configured_session_manager(config)
    except CommandError:
        found = None
    if found is not None and issubclass(found, AsyncSessionManager):
        return found
    return AsyncSessionManager
