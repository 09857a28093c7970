"""Replies that were lost with a server: each cell gets one reply, in the order of the cells."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from support.channel import Channel
from support.keepers import wait_until_stood_in_for
from support.server import Server, StartServer
from support.waiting import wait_until


@pytest.fixture
def server(start_server: StartServer) -> Server:
    return start_server()


def wait_until_there(file: Path) -> str:
    """Return code that waits until the file is there."""
    return f"import os, time\nwhile not os.path.exists({str(file)!r}):\n    time.sleep(0.01)\n"


def replies_to(channel: Channel, *message_ids: str) -> list[dict[str, Any]]:
    """Return all replies on the shell channel until all of the requests have one, and after that.

    That is until half a second goes by without a message.
    """
    replies: list[dict[str, Any]] = []
    missing = set(message_ids)
    while (message := channel.receive()) is not None or missing:
        if message is not None and message["channel"] == "shell":
            replies.append(message)
            missing.discard(message["parent_header"]["msg_id"])
    return replies


def is_made_up(reply: dict[str, Any]) -> bool:
    return "nbsessions" in reply["metadata"]


@pytest.mark.parametrize("when", ["in the gap", "after it"])
def test_each_cell_has_one_reply_in_order_if_the_first_one_was_lost(
    server: Server, tmp_path: Path, when: str
) -> None:
    first_may_end, second_runs, second_may_end = (tmp_path / each for each in ("a", "b", "c"))
    kernel_id = server.create("a.ipynb", "python3")["kernel"]["id"]
    with Channel(server, kernel_id) as channel:
        first = channel.start(wait_until_there(first_may_end))
        channel.wait_for("execute_input", first)
        second = channel.start(
            f"open({str(second_runs)!r}, 'w')\n{wait_until_there(second_may_end)}'the result'"
        )
        # Kernels answer this while a cell runs. Before that, they have received the cell.
        asked = channel.send("debug_request", {"type": "request", "seq": 1}, channel="control")
        channel.wait_for("debug_reply", asked)
        # The server receives the first reply, and does not pass it on.
        server.send_signal(signal.SIGSTOP)
        first_may_end.touch()
        wait_until(second_runs.exists, "the first cell has ended")
        server.kill()
        if when == "in the gap":
            wait_until_stood_in_for(server.runtime_dir)
            second_may_end.touch()
    server.start(again=True)

    with Channel(server, kernel_id, channel.session_id, busy=True) as channel:
        asked = channel.send("kernel_info_request", {})
        second_may_end.touch()
        replies = replies_to(channel, first, second, asked)

    order = [each["parent_header"]["msg_id"] for each in replies]
    assert order == [first, second, asked]
    of = dict(zip(order, replies, strict=True))
    assert is_made_up(of[first])
    assert not is_made_up(of[second])
    assert [of[each]["content"]["execution_count"] for each in (first, second)] == [1, 2]
    sessions = {each["header"]["session"] for each in replies}
    assert len(sessions) == 1, "JupyterLab would take the kernel for a restarted one"
