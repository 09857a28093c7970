"""A kernel that ends while other work is under way leaves no files."""

from __future__ import annotations

import queue
from collections.abc import Callable
from pathlib import Path

import zmq

from nbsessions.keeper.folder import KeeperFolder
from nbsessions.keeper.inheritance import Inheritance
from nbsessions.keeper.kernel import KeptKernel
from nbsessions.keeper.marks import Mark
from nbsessions.keeper.writer import Writer
from support.keepers import LOG
from support.surviving import make_record


def test_what_a_client_was_sent_is_not_stored_after_the_end_of_its_kernel(tmp_path: Path) -> None:
    folder = KeeperFolder(tmp_path)
    folder.make()
    done: queue.Queue[Callable[[], None]] = queue.Queue()
    writer = Writer(done.put, log=LOG)
    answers: list[object] = []
    with zmq.Context() as context:
        kernel = KeptKernel(make_record(output_limit=10**6), folder, context, writer, log=LOG)
        kernel.open(Inheritance())
        kernel.attach("client", "first", None, "a-server", "", answers.append)
        Mark(folder.marks, "first").close()
        kernel.detach("client", "first")
        kernel.attach("client", "second", None, "a-server", "", answers.append)
        Mark(folder.marks, "second").close()
        kernel.remove()
        for _ in range(20):
            writer.run(lambda: None, lambda _: None)
            done.get(timeout=30)()
    writer.close(30)
    assert [each.name for each in folder.path.rglob("*") if not each.is_dir()] == []
    # The server is not left waiting.
    assert len(answers) == 2
