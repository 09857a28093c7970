"""What a user sees and does with the options of nbsessions, in a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.server import AS_A_USER, StartServer, forbidden


@pytest.mark.parametrize("option", ["database_filepath", "store_url"])
def test_a_store_in_a_folder_that_cannot_be_entered_is_replaced_by_memory(
    start_server: StartServer, tmp_path: Path, option: str
) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    value = f"{folder}/sessions.db" if option == "database_filepath" else f"sqlite://{folder}/x.db"
    config = {"AsyncSessionManager": {option: value}}
    server = start_server(start=False, wrapper=AS_A_USER, config=config)
    server.allow_errors("kept in memory")

    with forbidden(folder):
        server.start()
        server.create("a.ipynb")
        (line,) = server.log_lines("E", "kept in memory")

    assert str(folder) in line


_IN_PROCESS = """
import asyncio, signal, sys
from jupyter_server.serverapp import ServerApp

signals = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
app = ServerApp.instance()
app.init_signal = lambda: None  # as in pytest-jupyter's jp_serverapp
app.initialize(["--SurvivingKernels.hangup=stop", "--allow-root"], new_httpserver=False)
before = [signal.getsignal(each) for each in signals]

async def run():
    await asyncio.sleep(0)
    during = [signal.getsignal(each) for each in signals]
    await app._cleanup()
    after = [signal.getsignal(each) for each in signals]
    print([a != b for a, b in zip(before, during)], before == after)

app.io_loop.run_sync(run)
"""


def test_a_server_in_the_process_of_a_test_leaves_no_signal_handlers(
    start_server: StartServer,
) -> None:
    server = start_server(start=False)
    assert "[False, True, True] True" in server.run("-c", _IN_PROCESS)
