"""What a real server answers, beside its own description: whatever Schemathesis can think of."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.rest import SESSIONS
from support.server import TOKEN, Server, StartServer

CONFIGURATION = f"""
continue-on-failure = true
request-timeout = 60

[headers]
Authorization = "token {TOKEN}"

[generation]
max-examples = 12
deterministic = true
database = "none"
# The host takes a token in the query before that in the header.
with-security-parameters = false

[checks]
# A kernelspec that is not installed is no fault of the server,
not_a_server_error.expected-statuses = ["2xx", "4xx", 501]
# and of what is well-formed, a kernel may not be there, or a path be outside the root directory.
positive_data_acceptance.expected-statuses = ["2xx", 400, 403, 404, 409, 501]
"""

ANSWERED = {("GET", 200), ("POST", 201), ("PATCH", 200), ("DELETE", 204)}
"""What has to be among the replies, or little was tried."""


@pytest.fixture(scope="module", params=["newest", "notebook6"])
def server(request: pytest.FixtureRequest, start_shared_server: StartServer) -> Iterator[Server]:
    """A server whose default kernel is a light one."""
    server = start_shared_server(request.param, base_url="/user/x/", start=False)
    kernelspecs = server.data_dir / "kernels"
    shutil.copytree(kernelspecs / "light", kernelspecs / "python3")
    yield server.start()
    for model in server.list_sessions():
        server.delete(model["id"])
    assert server.kernel_ids() == set()


def test_every_reply_is_as_described(server: Server, tmp_path: Path) -> None:
    configuration, archive = tmp_path / "schemathesis.toml", tmp_path / "replies.har"
    configuration.write_text(CONFIGURATION)
    root = f"http://127.0.0.1:{server.port}{server.url_path('/api')}"
    unmeasured = {k: value for k, value in os.environ.items() if not k.startswith("COVERAGE_")}

    ran = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(configuration)),
            *("run", f"{root}/sessions/openapi.json", "--url", root, "--checks", "all"),
            *("--report", "har", "--report-har-path", str(archive), "--no-color"),
        ],
        cwd=tmp_path,
        # Only the server is measured: Schemathesis has nothing of ours in it.
        env={**unmeasured, "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=600,
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert answered(archive) >= ANSWERED, ran.stdout


def answered(archive: Path) -> set[tuple[str, int]]:
    """Return the methods that were tried, with the statuses of their replies."""
    return {
        (entry["request"]["method"], entry["response"]["status"])
        for entry in json.loads(archive.read_text())["log"]["entries"]
    }


def test_it_is_at_a_route_that_is_no_session_and_behind_the_same_token(server: Server) -> None:
    path = f"{SESSIONS}/openapi.json"

    reply = server.request("GET", path)
    assert (reply.status, reply.json()["openapi"][:4]) == (200, "3.1.")
    assert server.request("GET", path, with_token=False).status == 403
    assert server.request("PUT", path, b"").headers["allow"] == "GET, OPTIONS"
