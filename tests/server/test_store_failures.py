"""A live server whose store fails: it says so, loses nothing, leaks nothing, and recovers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest

from support.failpoints import Failpoints
from support.rest import Reply
from support.server import Server
from support.storefile import locked, read_store, wait_for_rest
from support.waiting import wait_until

LONG = "p" * 4000
"""A path that needs a page of its own in the file."""


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    """A server with the session ``kept.ipynb``; in the end, all of it has to work again."""
    kept = shared.create("kept.ipynb")
    yield shared
    assert shared.get(kept["id"]).status == 200
    assert shared.create("other.ipynb")["path"] == "other.ipynb"
    for model in shared.list_sessions():
        assert shared.delete(model["id"]).status == 204
    wait_until(lambda: not shared.kernel_ids(), "the server holds no kernel")
    shared.wait_for_kernels(0)
    wait_for_rest(shared.store)
    assert read_store(shared.store).sessions == []


@contextmanager
def broken(failpoints: Failpoints, action: str, point: str = "") -> Iterator[None]:
    """Have a failpoint set."""
    failpoints.set(action, point)
    try:
        yield
    finally:
        failpoints.clear(action)


@contextmanager
def in_background(run: Callable[[], object]) -> Iterator[None]:
    """Run something in a thread, and wait for its end."""
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def body(path: str) -> dict[str, object]:
    return {"path": path, "type": "notebook", "kernel": {"name": "light"}}


def post_into(
    trouble: AbstractContextManager[None],
    server: Server,
    failpoints: Failpoints,
    point: str,
    path: str,
) -> Reply:
    """POST a path; the trouble lasts from the point, after its kernel's start, to the reply."""
    replies: list[Reply] = []
    failpoints.set("hold", point)
    with in_background(lambda: replies.append(server.post(body(path)))):
        wait_until(lambda: failpoints.is_held, "the kernel was started")
        with trouble:
            failpoints.clear("hold")
            wait_until(lambda: replies, "the request was answered")
    return replies[0]


def check_refused(reply: Reply, problem: str) -> None:
    """It is a 503 that says what is wrong and when to try again."""
    assert reply.status == 503
    assert int(reply.headers["retry-after"]) > 0
    assert problem in reply.message


def check_reads_go_on(server: Server) -> None:
    """Lists and single sessions are answered, from what the server knows."""
    (kept,) = (model for model in server.list_sessions() if model["path"] == "kept.ipynb")
    assert server.get(kept["id"]).status == 200


# The file is locked


def test_writes_on_a_locked_file_are_refused_and_start_and_end_nothing(server: Server) -> None:
    (kept,) = server.list_sessions()
    replies: list[Reply] = []

    with locked(server.store), in_background(lambda: replies.append(server.delete(kept["id"]))):
        replies.append(server.post(body("new.ipynb")))
        check_reads_go_on(server)

    for reply in replies:
        check_refused(reply, "locked")
    assert server.kernel_ids() == {kept["kernel"]["id"]}
    assert server.post(body("new.ipynb")).status == 201


def test_reads_are_quick_while_a_write_waits_for_a_lock(server: Server) -> None:
    replies: list[Reply] = []
    with ExitStack() as stack, locked(server.store):
        stack.enter_context(in_background(lambda: replies.append(server.post(body("new.ipynb")))))
        check_reads_go_on(server)
        check_reads_go_on(server)
        assert not replies

    assert replies[0].status == 201


def test_a_file_that_is_locked_during_a_start_costs_the_kernel_and_no_more(
    server: Server, failpoints: Failpoints
) -> None:
    reply = post_into(locked(server.store), server, failpoints, "before commit", "new.ipynb")

    check_refused(reply, "locked")
    wait_until(lambda: len(server.kernel_ids()) == 1, "its kernel was shut down")
    wait_for_rest(server.store)
    assert server.post(body("new.ipynb")).status == 201


# The disk is full, or the file read-only


@pytest.mark.parametrize(
    ("action", "problem"), [("full", "full"), ("readonly", "readonly database")]
)
def test_a_file_that_cannot_be_written_is_a_503_and_reads_go_on(
    server: Server, failpoints: Failpoints, action: str, problem: str
) -> None:
    (kept,) = server.list_sessions()

    with broken(failpoints, action):
        # Some more may find room in the pages that are there.
        posted = [server.post(body(f"{number}{LONG}")) for number in range(4)]
        patched = server.patch(kept["id"], {"name": LONG})
        check_reads_go_on(server)
        acknowledged = {reply.json()["id"] for reply in posted if reply.status == 201}
        listed = {model["id"] for model in server.list_sessions()}

    check_refused(posted[-1], problem)
    check_refused(patched, problem)
    assert {kept["id"], *acknowledged} == listed
    assert len(server.kernel_ids()) == len(listed)
    assert server.patch(kept["id"], {"name": LONG}).status == 200


def test_what_a_full_disk_left_undone_is_settled_when_there_is_room(
    server: Server, failpoints: Failpoints
) -> None:
    trouble = broken(failpoints, "readonly")
    reply = post_into(trouble, server, failpoints, "before commit", LONG)

    check_refused(reply, "readonly")
    wait_until(lambda: len(server.kernel_ids()) == 1, "its kernel was shut down")
    wait_for_rest(server.store)
    assert server.post(body(LONG)).status == 201


# It is not known whether a commit was kept


@pytest.mark.parametrize("outcome", ["kept", "lost"])
def test_after_an_uncertain_commit_the_store_is_asked(
    server: Server, failpoints: Failpoints, outcome: str
) -> None:
    with broken(failpoints, outcome, "commit"):
        reply = server.post(body("new.ipynb"))

    if outcome == "kept":
        assert reply.status == 201
        assert server.get(reply.json()["id"]).json() == reply.json()
    else:
        check_refused(reply, "cut off")
        assert len(server.kernel_ids()) == 1
        wait_for_rest(server.store)


@pytest.mark.parametrize("outcome", ["kept", "lost"])
def test_an_uncertain_commit_that_cannot_be_asked_about_is_settled_later(
    server: Server, failpoints: Failpoints, outcome: str
) -> None:
    with broken(failpoints, outcome, "commit"), broken(failpoints, "unanswered"):
        reply = server.post(body("new.ipynb"))
        # Until it is known, the kernel stays: the session may hold it.
        assert len(server.kernel_ids()) == 2
        check_reads_go_on(server)

    check_refused(reply, "cut off")
    wait_for_rest(server.store)
    paths = {model["path"] for model in server.list_sessions()}
    if outcome == "kept":
        assert paths == {"kept.ipynb", "new.ipynb"}
        assert len(server.kernel_ids()) == 2
    else:
        assert paths == {"kept.ipynb"}
        wait_until(lambda: len(server.kernel_ids()) == 1, "the kernel was shut down")
    assert server.post(body("new.ipynb")).status == 201
    assert len(server.kernel_ids()) == 2


@pytest.mark.parametrize("outcome", ["kept", "lost"])
def test_after_an_uncertain_delete_the_store_is_asked(
    server: Server, failpoints: Failpoints, outcome: str
) -> None:
    model = server.create("new.ipynb")

    with broken(failpoints, outcome, "delete"):
        reply = server.delete(model["id"])

    if outcome == "kept":
        assert reply.status == 204
        assert len(server.kernel_ids()) == 1
    else:
        check_refused(reply, "cut off")
        assert server.get(model["id"]).json() == model
        assert len(server.kernel_ids()) == 2


@pytest.mark.parametrize("outcome", ["kept", "lost"])
def test_after_an_uncertain_exchange_of_kernels_the_store_is_asked(
    server: Server, failpoints: Failpoints, outcome: str
) -> None:
    model = server.create("new.ipynb")

    with broken(failpoints, outcome, "update"):
        reply = server.patch(model["id"], {"kernel": {"name": "light"}})

    after = server.get(model["id"]).json()
    if outcome == "kept":
        assert reply.status == 200
        assert after["kernel"]["id"] != model["kernel"]["id"]
    else:
        check_refused(reply, "cut off")
        assert after["kernel"]["id"] == model["kernel"]["id"]
    wait_until(lambda: len(server.kernel_ids()) == 2, "the other kernel was shut down")
    assert after["kernel"]["id"] in server.kernel_ids()
