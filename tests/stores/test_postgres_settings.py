"""The settings of connections to PostgreSQL: where they are from, and what is kept of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from nbsessions.environment import without_store
from nbsessions.errors import StoreUnavailable
from nbsessions.stores.postgres.database import Database
from nbsessions.stores.postgres.settings import connection_settings
from support.operators import PASSWORD
from support.postgres import shared_cluster


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of services."""
    file = tmp_path / "pg_service.conf"
    file.write_text(
        f"[hub]\nhost={shared_cluster().folder}\nport=5432\nuser=postgres\ndbname=postgres\n"
        f"password={PASSWORD}\ntarget_session_attrs=read-write\nchannel_binding=disable\n"
        "application_name=of the service\n"
        "[wrong]\nhost=a\nmistake=1\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    return file


def hide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove from the environment what a server removes."""
    for name in ("PGSERVICE", "PGSERVICEFILE", "PGSYSCONFDIR"):
        assert name not in without_store({name: "x"})
        monkeypatch.delenv(name, raising=False)


def ask(settings: Mapping[str, str]) -> object:
    with Database(settings).single_connection(10.0) as connection:
        return connection.execute("SELECT current_setting('application_name')").fetchone()


@pytest.mark.parametrize("place", ["PGSERVICEFILE", "PGSYSCONFDIR"])
@pytest.mark.parametrize("source", ["url", "environment"])
def test_a_service_is_used_after_the_environment_was_cleared(
    services: Path, monkeypatch: pytest.MonkeyPatch, place: str, source: str
) -> None:
    if place == "PGSYSCONFDIR":
        monkeypatch.delenv("PGSERVICEFILE")
        monkeypatch.setenv("HOME", str(services.parent / "nowhere"))
        monkeypatch.setenv("PGSYSCONFDIR", str(services.parent))
    if source == "environment":
        monkeypatch.setenv("PGSERVICE", "hub")
    settings = connection_settings("postgresql://" + "?service=hub" * (source == "url"))
    hide(monkeypatch)
    expected = {
        "host": str(shared_cluster().folder),
        "user": "postgres",
        "dbname": "postgres",
        "password": PASSWORD,
        "target_session_attrs": "read-write",
        "channel_binding": "disable",
        "application_name": "of the service",
    }
    # libpq may add what it takes for granted.
    assert {**settings, **expected} == settings
    assert "service" not in settings
    assert ask(settings) == ("of the service",)
    assert PASSWORD not in Database(settings).name


def test_the_url_is_before_the_service_and_the_service_before_the_environment(
    services: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGUSER", "nobody here")
    monkeypatch.setenv("PGPORT", "1")
    url = "postgresql:///?service=hub&application_name=of%20the%20url&target_session_attrs=any"
    settings = connection_settings(url)
    hide(monkeypatch)
    assert (settings["user"], settings["port"]) == ("postgres", "5432")
    assert settings["target_session_attrs"] == "any"
    assert ask(settings) == ("of the url",)


@pytest.mark.parametrize(
    ("name", "problem"),
    [("missing", 'definition of service "missing" not found'), ("wrong", "syntax error")],
)
def test_a_service_that_cannot_be_read_is_reported(
    services: Path, name: str, problem: str
) -> None:
    settings = connection_settings(f"postgresql:///?service={name}")
    with pytest.raises(StoreUnavailable, match=problem):
        ask(settings)
