"""Finds stores and kernel providers of this and other packages by their entry points."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from typing import TYPE_CHECKING, Any, Protocol

from traitlets import TraitError

from nbsessions.kernels.base import KernelHost, KernelProvider
from nbsessions.stores.base import SessionStore

if TYPE_CHECKING:
    from nbsessions.stores.inspection import StoreInspection

STORES = "nbsessions.stores"
INSPECTIONS = "nbsessions.store_inspections"
KERNEL_PROVIDERS = "nbsessions.kernel_providers"

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*(?=:)"


class StoreFactory(Protocol):
    """An object behind an ``nbsessions.stores`` entry point, whose name is a URL scheme.

    If its attribute ``is_remote`` is true, servers of many machines and users may share the
    store. The namespace has to be given then, or it is that of the server in JupyterHub, and the
    settings of the store are removed from the environment of kernels.
    """

    def __call__(self, url: str, *, namespace: str, log: logging.Logger) -> SessionStore:
        """Return a store that is not open yet."""


class InspectionFactory(Protocol):
    """An object behind an ``nbsessions.store_inspections`` entry point: a URL scheme."""

    def __call__(self, url: str) -> StoreInspection:
        """Return an inspection that has not connected yet. Raises TraitError."""


def scheme_of(url: str) -> str:
    """Return the scheme of a store's URL, or "" if it has none.

    Such a text is not repeated in messages. It may be the settings of a database, with a password.
    """
    scheme = re.match(_SCHEME, url)
    return "" if scheme is None else scheme[0]


def store_factory(url: str) -> StoreFactory:
    """Return the factory for the URL's scheme. Raises TraitError for an unknown scheme."""
    factory: StoreFactory = _load("store_url", STORES, scheme_of(url))
    return factory


def inspection_factory(url: str) -> InspectionFactory | None:
    """Return the factory for the URL's scheme, or None if such stores cannot be inspected.

    Raises TraitError if a package that it needs cannot be imported.
    """
    scheme = scheme_of(url)
    if not entry_points(group=INSPECTIONS, name=scheme):
        return None
    factory: InspectionFactory = _load("store_url", INSPECTIONS, scheme)
    return factory


def is_remote(factory: StoreFactory) -> bool:
    """Return whether servers of many machines and users may share the store."""
    return bool(getattr(factory, "is_remote", False))


def kernel_provider_factory(name: str) -> Callable[[KernelHost], KernelProvider]:
    """Return the factory with this name. Raises TraitError for an unknown name."""
    factory: Callable[[KernelHost], KernelProvider] = _load(
        "kernel_provider", KERNEL_PROVIDERS, name
    )
    return factory


def check_plugin(trait: str, group: str, name: str) -> None:
    """Raise a TraitError that lists the choices unless the group has an entry with this name."""
    names = sorted(entry.name for entry in entry_points(group=group))
    if name not in names:
        raise TraitError(f"`{trait}`: {name!r} is not one of {', '.join(names)}")


def _own_entry(group: str, name: str) -> EntryPoint | None:
    """Return the entry of this package, which takes less time than looking into all packages."""
    with contextlib.suppress(PackageNotFoundError):
        for entry in distribution("nbsessions").entry_points.select(group=group, name=name):
            return entry
    return None


def _load(trait: str, group: str, name: str) -> Any:
    entry = _own_entry(group, name)
    if entry is None:
        check_plugin(trait, group, name)
        (entry, *_) = entry_points(group=group, name=name)
    try:
        return entry.load()
    except ImportError as error:
        raise TraitError(
            f"`{trait}`: {name!r} needs a package that cannot be imported ({error}). For "
            "PostgreSQL: pip install 'nbsessions[postgres]'"
        ) from error
