"""Finds stores and kernel providers of this and other packages by their entry points."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, Protocol

from traitlets import TraitError

from nbsessions.kernels.base import KernelHost, KernelProvider
from nbsessions.stores.base import SessionStore

STORES = "nbsessions.stores"
KERNEL_PROVIDERS = "nbsessions.kernel_providers"


class StoreFactory(Protocol):
    """An object behind an ``nbsessions.stores`` entry point, whose name is a URL scheme.

    If its attribute ``is_remote`` is true, servers of many machines and users may share the
    store. The namespace has to be given then, or it is that of the server in JupyterHub, and the
    settings of the store are removed from the environment of kernels.
    """

    def __call__(self, url: str, *, namespace: str, log: logging.Logger) -> SessionStore:
        """Return a store that is not open yet."""


def store_factory(url: str) -> StoreFactory:
    """Return the factory for the URL's scheme. Raises TraitError for an unknown scheme."""
    factory: StoreFactory = _load("store_url", STORES, url.partition(":")[0])
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


def _load(trait: str, group: str, name: str) -> Any:
    check_plugin(trait, group, name)
    (entry, *_) = entry_points(group=group, name=name)
    try:
        return entry.load()
    except ImportError as error:
        raise TraitError(
            f"`{trait}`: {name!r} needs a package that cannot be imported ({error}). For "
            "PostgreSQL: pip install 'nbsessions[postgres]'"
        ) from error
