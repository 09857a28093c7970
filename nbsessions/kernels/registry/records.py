"""What is known of each kernel, in one file per kernel in the runtime directory."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from nbsessions.kernels.registry.process import ProcessIdentity


class KernelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """All that the next server has to know to take over a kernel.

    It holds the key that signs the kernel's messages: its file is for its user alone, and its
    contents belong in no log and no database.
    """

    kernel_id: str
    server_id: str
    """Who has the kernel now; see Servers."""
    host: str
    root_dir: str
    """The real path of the server's root directory."""
    kernel_name: str
    kernel_spec: dict[str, Any]
    """The kernelspec as it was at the start; it may be uninstalled meanwhile."""
    connection_file: str
    connection_info: dict[str, Any]
    cwd: str | None = None
    env: dict[str, str] = {}
    """What the kernel's environment has beside, or in place of, the server's."""
    env_removed: list[str] = []
    """What the server's environment has, and the kernel's has not."""
    process: ProcessIdentity | None = None
    """None while the kernel is being launched."""
    restarting: bool = False
    """Whether the process, if there is one, is to give way to a new one."""
    session_id: str | None = None
    token: str | None = None
    """The start intent that the kernel was started under; None for one of ``/api/kernels``."""
    execution_state: str = "starting"
    last_activity: datetime | None = None
    protocol_version: str | None = None
    clients: list[str] = []
    """The websocket sessions that were connected last: output is kept for each of them."""
    logged: int = 0
    """How far the kernel's log file has been passed on, in bytes."""
    orphan_timeout: float | None = None
    """Seconds after which it may be ended when its server is dead and nobody follows; None: what
    the server that finds it is set to."""
    adopted: bool = False
    """Whether its server took it over from a dead one."""


class KernelRecords:
    """The records of all servers that share a runtime directory. All methods block."""

    def __init__(self, folder: Path, *, log: logging.Logger) -> None:
        self.folder = folder
        self._log = log
        self._named: set[str] = set()
        """The records that the log has been told of."""

    def make_folder(self) -> None:
        """Make the folder, for its user alone. Raises OSError."""
        # The mode of parents that are made on the way is that of the umask.
        self.folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder.mkdir(exist_ok=True, mode=0o700)

    def log_file(self, kernel_id: str) -> Path:
        """Return where the kernel's own output goes."""
        return self.folder / f"{kernel_id}.log"

    def write(self, record: KernelRecord) -> None:
        """Write the record in the place of the one before it, whole or not at all."""
        # Not by msgspec's own JSON: names of files need not be UTF-8.
        text = json.dumps(msgspec.to_builtins(record, enc_hook=str))
        draft_of = f".{record.server_id}-"
        descriptor, draft = tempfile.mkstemp(dir=self.folder, prefix=draft_of, suffix=".draft")
        try:
            with open(descriptor, "w", encoding="ascii") as file:
                file.write(text)
            os.replace(draft, self._file(record.kernel_id))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(draft)
            raise

    def read(self, kernel_id: str) -> KernelRecord | None:
        """Return the kernel's record; None when there is none that can be used."""
        path = self._file(kernel_id)
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_uid != os.geteuid():
                    raise PermissionError("it is another user's")
                record = msgspec.convert(json.load(file), KernelRecord)
            if record.kernel_id != kernel_id:
                raise ValueError(f"it is of the kernel {record.kernel_id}")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError, msgspec.ValidationError) as error:
            if kernel_id not in self._named:
                self._named.add(kernel_id)
                self._log.warning("The kernel record %r cannot be used: %r", str(path), error)
            return None
        return record

    def read_all(self) -> Iterator[KernelRecord]:
        """Go through all records that can be used. Raises OSError."""
        for kernel_id in self.list_ids():
            record = self.read(kernel_id)
            if record is not None:
                yield record

    def is_foreign(self, kernel_id: str) -> bool:
        """Return whether the record is another user's. Raises OSError."""
        return self._file(kernel_id).stat().st_uid != os.geteuid()

    def list_ids(self) -> list[str]:
        """Return the ids of all kernels that have a record, whoever can use it. Raises OSError."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))

    def remove_drafts(self, server_id: str) -> None:
        """Remove what a server left that was killed while it wrote."""
        for path in self.folder.glob(f".{server_id}-*"):
            with contextlib.suppress(OSError):
                path.unlink()

    def remove(self, kernel_id: str) -> None:
        """Remove all that is kept of the kernel; the record last, by which the rest is found."""
        for path in (self.log_file(kernel_id), self._file(kernel_id)):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def _file(self, kernel_id: str) -> Path:
        return self.folder / f"{kernel_id}.json"


def forget_kernel(records: KernelRecords, record: KernelRecord) -> None:
    """Remove the record of a kernel that is gone, and its connection file."""
    with contextlib.suppress(OSError):
        os.unlink(record.connection_file)
    records.remove(record.kernel_id)
