"""64 clients at once on one server: what it answers, and what it has in the end, agree.

``LOAD_SECONDS`` and ``LOAD_SEED`` in the environment set how long and which.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import psutil

from support.history import History, fields_of
from support.load import DOCUMENTS, Client
from support.server import Server, StartServer
from support.storefile import read_store, wait_for_rest
from support.waiting import wait_until

SECONDS = float(os.environ.get("LOAD_SECONDS", "12"))
SEED = int(os.environ.get("LOAD_SEED", "1"))
CLIENTS = 64
MORE_FILES = 10
KERNEL_ID = re.compile(r"(?<=kernel-)[\w-]+(?=\.json)")


def test_what_64_clients_at_once_are_told_is_so(
    start_server: StartServer, record_testsuite_property: Callable[[str, object], None]
) -> None:
    server = start_server()
    for folder in ("contended", "windows", "moved/one"):
        (server.root_dir / folder).mkdir(parents=True)
    for number in range(DOCUMENTS):
        (server.root_dir / "moved" / str(number)).touch()
    server.delete(server.create("first.ipynb")["id"])
    server.wait_for_kernels(0)
    process = psutil.Process(server.pid)
    files = process.num_fds()

    history = History()
    clients = _traffic(server, history)
    record_testsuite_property("operations", sum(history.operations.values()))
    record_testsuite_property("by kind", dict(history.operations))
    record_testsuite_property("kernels", len(server.log_lines("I", "Kernel started")))

    _check(server, history, clients)
    for model in server.list_sessions():
        assert server.delete(model["id"]).status == 204
    for kernel_id in history.kept:
        assert server.request("DELETE", f"/api/kernels/{kernel_id}").status == 204
    server.wait_for_kernels(0)
    wait_for_rest(server.store)
    assert read_store(server.store).sessions == []
    assert server.kernel_ids() == set()
    assert list(server.runtime_dir.glob("kernel-*.json")) == []
    wait_until(
        lambda: abs(process.num_fds() - files) <= MORE_FILES,
        f"about {files} files are open, as in the beginning",
    )


def _traffic(server: Server, history: History) -> list[Client]:
    dice = random.Random(SEED)
    with ExitStack() as stack, ThreadPoolExecutor(CLIENTS) as pool:
        clients = [
            Client(
                server,
                history,
                number,
                random.Random(dice.random()),
                stack.enter_context(server.connect()),
            )
            for number in range(CLIENTS)
        ]
        deadline = time.monotonic() + SECONDS
        list(pool.map(lambda client: client.work(deadline), clients))
    return clients


def _check(server: Server, history: History, clients: list[Client]) -> None:
    """The answers, the list, kernels, processes, records and the store agree."""
    known, begun = history.known(), time.monotonic()
    models = server.list_sessions()
    history.check_list(models, known, begun)
    listed = {model["id"]: model for model in models}
    # What was never told of is not there.
    assert listed.keys() == history.kernel_ids.keys()
    for client in clients:
        for session_id in client.own.keys() & listed.keys():
            assert fields_of(listed[session_id]) == client.own[session_id]
    held = {model["kernel"]["id"] for model in models} | history.kept

    def agree() -> bool:
        lines = server.kernel_commands().values()
        processes = [match[0] for match in map(KERNEL_ID.search, lines) if match]
        return sorted(processes) == sorted(held) and server.kernel_records() == held

    wait_until(agree, "there is a process and a record for each kernel")
    wait_for_rest(server.store)
    kernels = server.request("GET", "/api/kernels").json()
    assert sorted(kernel["id"] for kernel in kernels) == sorted(held)
    by_id = {kernel["id"]: kernel for kernel in kernels}
    again = server.list_sessions()
    assert [fields_of(model) for model in again] == [fields_of(model) for model in models]
    assert [model["kernel"] for model in again] == [by_id[m["kernel"]["id"]] for m in again]
    assert read_store(server.store).session_ids() == listed.keys()
