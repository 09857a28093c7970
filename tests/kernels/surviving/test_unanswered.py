"""The replies that are made up from what a kernel has published."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jupyter_client.session import Session

from nbsessions.keeper.messages import key_of_request
from nbsessions.kernels.surviving.unanswered import Unanswered

CLIENT = "a-client"
kernel = Session(session="a-kernel", key=b"a-key")
server = Session(session=CLIENT, key=b"a-key")


@pytest.fixture
def cell() -> dict[str, Any]:
    """The request of a cell."""
    return Session(session=CLIENT).msg("execute_request", {"code": "1"})


def published(request: dict[str, Any], message_type: str, **content: Any) -> list[bytes]:
    """Return what a kernel publishes for a request."""
    return kernel.serialize(kernel.msg(message_type, content, parent=request))[1:]


def made_up(request: dict[str, Any], *messages: list[bytes]) -> dict[str, Any]:
    """Return the content of the reply that is made up after some messages and the cell's end."""
    unanswered = Unanswered(CLIENT, [])
    for each in (*messages, published(request, "status", execution_state="idle")):
        unanswered.see("iopub", each)
    (frames,) = unanswered.make_up(unanswered.ended(), server)
    reply = kernel.deserialize(kernel.feed_identities(frames)[1])
    assert reply["parent_header"]["msg_id"] == request["header"]["msg_id"]
    # JupyterLab would drop messages if they came from different sessions.
    assert reply["header"]["session"] == kernel.session
    content: dict[str, Any] = reply["content"]
    return content


def test_a_cell_that_was_skipped_is_aborted(cell: dict[str, Any]) -> None:
    assert made_up(cell)["status"] == "aborted"


def test_a_cell_that_ran_has_its_count(cell: dict[str, Any]) -> None:
    begun = published(cell, "execute_input", execution_count=7)
    assert made_up(cell, begun) == {
        "status": "ok",
        "payload": [],
        "user_expressions": {},
        "execution_count": 7,
    }


def test_a_cell_that_began_long_ago_was_not_skipped(cell: dict[str, Any]) -> None:
    content = made_up(cell, published(cell, "stream", name="stdout", text="x"))
    assert (content["status"], content["execution_count"]) == ("ok", None)


def test_a_cell_that_failed_has_its_error(cell: dict[str, Any]) -> None:
    content = made_up(cell, published(cell, "error", ename="E", evalue="", traceback=[]))
    assert (content["status"], content["ename"]) == ("error", "E")


def test_a_reply_shows_which_earlier_ones_are_lost() -> None:
    client = Session(session=CLIENT)
    cells = [client.msg("execute_request", {"code": "1"}) for _ in range(3)]
    keys = [key_of_request(json.dumps(each["header"], default=str).encode()) for each in cells]
    unanswered = Unanswered(CLIENT, [])
    for cell in cells[:2]:
        unanswered.see("iopub", published(cell, "status", execution_state="idle"))
    assert [len(unanswered.ended_before(each)) for each in keys] == [0, 1, 2]
    unanswered.see("shell", published(cells[0], "execute_reply"))
    assert [len(unanswered.ended_before(each)) for each in keys] == [1, 0, 1]
    assert unanswered.ended_before(keys[2]) == [keys[1]]
