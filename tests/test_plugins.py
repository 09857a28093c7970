"""Stores and kernel providers of this and of other packages."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from traitlets import TraitError

from nbsessions.async_sessionmanager import AsyncSessionManager
from nbsessions.kernels.host import HostKernelProvider
from nbsessions.plugins import (
    KERNEL_PROVIDERS,
    STORES,
    check_plugin,
    kernel_provider_factory,
    store_factory,
)
from nbsessions.stores.base import SessionStore
from nbsessions.stores.memory import MemorySessionStore
from nbsessions.stores.sqlite.store import SQLiteSessionStore

made: list[tuple[str, str]] = []


def make_foreign_store(url: str, *, namespace: str, log: logging.Logger) -> SessionStore:
    """A stub for the factory of another package."""
    made.append((url, namespace))
    return MemorySessionStore()


def open_store(url: str) -> SessionStore:
    """Return the store for a URL, without opening it."""
    return store_factory(url)(url, namespace="here", log=logging.getLogger())


def test_a_url_names_its_store() -> None:
    assert isinstance(open_store("memory:"), MemorySessionStore)
    store = open_store("sqlite:///a%20folder/sessions.db")
    assert isinstance(store, SQLiteSessionStore)
    assert store.path == Path("/a folder/sessions.db")


def test_the_hosts_kernel_manager_is_a_provider() -> None:
    assert kernel_provider_factory("host") is HostKernelProvider


@pytest.mark.parametrize("url", ["", "nothing://x", "no-scheme", "SQLITE:///x"])
def test_an_unknown_store_names_the_choices(url: str) -> None:
    with pytest.raises(TraitError, match=r"store_url.*memory.*sqlite"):
        store_factory(url)


def test_an_unknown_provider_names_the_choices() -> None:
    with pytest.raises(TraitError, match=r"kernel_provider.*'nothing'.*host"):
        kernel_provider_factory("nothing")


def test_every_entry_point_of_ours_can_be_loaded() -> None:
    for scheme in ("memory", "sqlite"):
        check_plugin("store_url", STORES, scheme)
        assert callable(store_factory(f"{scheme}:"))
    check_plugin("kernel_provider", KERNEL_PROVIDERS, "host")


def test_another_package_can_provide_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    made.clear()
    entry = EntryPoint("foreign", f"{__name__}:make_foreign_store", STORES)

    def entry_points(*, group: str, name: str | None = None) -> Sequence[EntryPoint]:
        return [entry] if group == STORES and name in (None, "foreign") else []

    monkeypatch.setattr("nbsessions.plugins.entry_points", entry_points)
    AsyncSessionManager(store_url="foreign://server/x", namespace="mine").close()
    assert made == [("foreign://server/x", "mine")]


def test_settings_in_place_of_a_url_are_not_repeated() -> None:
    for settings in ("host=there password=a-secret", "password=a-secret:2 host=there"):
        with pytest.raises(TraitError) as caught:
            AsyncSessionManager(store_url=settings)
        assert "secret" not in str(caught.value)
