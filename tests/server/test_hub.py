"""Servers that JupyterHub starts for its users."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.hub import StartHub, hubs_in

USER = "ada"


@pytest.fixture
def start_hub(tmp_path: Path) -> Iterator[StartHub]:
    with hubs_in(tmp_path) as start:
        yield start


def test_a_server_that_is_killed_and_started_again_by_the_hub_has_its_sessions(
    start_hub: StartHub,
) -> None:
    hub = start_hub()
    with hub.log_in(USER) as browser:
        server = hub.start_user_server(USER)
        model = server.create("a.ipynb", "python3")
        assert server.execute(model["kernel"]["id"], "x = 42; x") == "42"
        # The first page asks the hub who this is, and leaves a cookie for what follows.
        browser.get(f"{hub.url}/user/{USER}/lab", timeout=60).raise_for_status()
        listed = browser.get(f"{hub.url}/user/{USER}/api/sessions", timeout=60)
    assert [each["id"] for each in listed.json()] == [model["id"]]

    hub.kill_user_server(USER)
    hub.wait_for_end(USER)
    hub.start_user_server(USER)

    assert [each["id"] for each in server.list_sessions()] == [model["id"]]
    assert server.execute(model["kernel"]["id"], "x") == "42"
