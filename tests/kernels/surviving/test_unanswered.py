"""The replies that are made up from what a kernel has published."""

from __future__ import annotations

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


def test_only_replies_to_other_requests_have_to_wait(cell: dict[str, Any]) -> None:
    unanswered = Unanswered(CLIENT, [])
    key, other = (key_of_request(f'{{"msg_id": "{each}"}}'.encode()) for each in ("x", "other"))
    cell["header"]["msg_id"] = "x"
    assert not unanswered.waits_for_other_than(other)
    unanswered.see("iopub", published(cell, "status", execution_state="idle"))
    assert unanswered.waits_for_other_than(other)
    assert not unanswered.waits_for_other_than(key)
    unanswered.see("shell", published(cell, "execute_reply"))
    assert not unanswered.waits_for_other_than(other)
