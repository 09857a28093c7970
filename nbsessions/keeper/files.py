"""The files that a keeper has for one kernel. The writer's thread reads and writes them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterator

from nbsessions.keeper.clients import Client, ClientFile, Sent, encode, examine_file
from nbsessions.keeper.folder import KeeperFolder
from nbsessions.keeper.spool import Spool
from nbsessions.keeper.writer import Writer


class KernelFiles:
    """A kernel's spool, its clients, and their marks."""

    def __init__(
        self, spool: Spool, folder: KeeperFolder, writer: Writer, *, log: logging.Logger
    ) -> None:
        self._spool = spool
        self._marks = folder.marks
        self._clients = ClientFile(folder.clients)
        self._writer = writer
        self._log = log
        self._removed = False

    def read_clients(self) -> Iterator[Client]:
        """Yield the clients that an earlier keeper has stored. Blocks."""
        return self._clients.read(self._spool.kernel_id)

    def store(self, clients: Collection[Client], *, settled: str | None = None) -> None:
        """Store the clients soon. Then remove the mark with this name."""
        data = encode(clients)

        def store() -> None:
            if not self._removed:
                self._clients.write(self._spool.kernel_id, data)
            if settled is not None:
                self._remove_mark(settled)

        self._writer.run(store, self._report)

    def examine(
        self,
        name: str,
        accepted: int | None,
        then: Callable[[Sent | OSError | None], None],
        *,
        newest: bool,
        earlier: Sent | None = None,
    ) -> None:
        """Call ``then`` with what a mark says, see ``examine_file``."""
        self._writer.run(
            lambda: examine_file(
                self._marks, name, accepted, self._spool, newest=newest, earlier=earlier
            ),
            then,
        )

    def shrink(self) -> None:
        """Thin out soon what is more than the limit of the spool."""
        self._writer.run(self._spool.shrink, self._report)

    def remove(self, clients: Collection[Client]) -> None:
        """Remove all files soon. Nothing is stored from now on."""
        self._removed = True
        marks = {name for each in clients for name in (each.connection, *each.settling) if name}

        def remove() -> None:
            self._spool.remove()
            self._clients.remove(self._spool.kernel_id)
            for name in marks:
                self._remove_mark(name)

        self._writer.run(remove, self._report)

    def _remove_mark(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._marks.remove(name)

    def _report(self, error: OSError | None) -> None:
        if error is not None:
            kernel_id = self._spool.kernel_id
            self._log.warning("The files of %s cannot be changed: %s", kernel_id, error)
