"""Kernel records, which are stored as one file per kernel in the runtime directory."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from nbsessions.private import PrivateFolder, Untrusted, is_owned
from nbsessions.registry.process import ProcessIdentity, is_running

NEVER = 1e15
"""Seconds that never pass, as an ``orphan_timeout``."""


class KernelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The data that another server needs to adopt a kernel.

    It includes the key that signs the kernel's messages. Therefore only the user can read the
    file, and its contents must not appear in a log or database.
    """

    kernel_id: str
    server_id: str
    """The id of the server that owns the kernel. See Servers."""
    host: str
    root_dir: str
    """The real path of the server's root directory."""
    namespace: str | None = None
    """The namespace of the server's sessions. None if it is not known."""
    kernel_name: str
    kernel_spec: dict[str, Any]
    """A copy of the kernelspec, which may have been uninstalled since the start."""
    connection_file: str
    connection_info: dict[str, Any]
    cwd: str | None = None
    env: dict[str, str] = {}
    """Environment variables that the kernel has and the server does not, or with another value."""
    env_removed: list[str] = []
    """Names of environment variables that the server has and the kernel does not."""
    process: ProcessIdentity | None = None
    """The kernel's process. None while it is being launched."""
    restarting: bool = False
    """Whether the kernel is being restarted, so that a new process replaces the current one."""
    session_id: str | None = None
    token: str | None = None
    """The token of the start intent. None if the kernel was started through ``/api/kernels``."""
    execution_state: str = "starting"
    last_activity: datetime | None = None
    protocol_version: str | None = None
    clients: list[str] = []
    """Session keys of the last connected websockets. After an adoption, the server buffers the
    kernel's messages for each of them."""
    logged: int = 0
    """The number of bytes of the kernel's log file that servers have copied to their output."""
    orphan_timeout: float | None = None
    """Seconds after its server's death until the kernel is ended if no server adopts it.

    If it is None, the setting of the server that finds the record applies.
    """
    output_limit: int = 0
    """How many bytes of the kernel's messages the keeper may keep for clients. 0: none."""
    total_output_limit: int = 0
    """How many bytes it may keep of all kernels together. 0: any number."""
    adopted: bool = False
    """Whether the owning server adopted the kernel from a dead server."""


def may_run(record: KernelRecord) -> bool:
    """Return whether the kernel may be running or restarting, according to its record."""
    process = record.process
    if process is None or record.restarting or not process.is_of_this_boot:
        return True
    return is_running(process)


class KernelRecords:
    """The records of all servers that share a runtime directory. All methods block."""

    def __init__(self, folder: Path, *, log: logging.Logger) -> None:
        self.folder = folder
        self._files = PrivateFolder(folder.parent).folder(folder.name)
        self.log = log
        self._named: set[str] = set()
        """The ids of kernels whose records were reported in the log as unusable."""

    def make_folder(self) -> None:
        """Create the folder, accessible only to the user. Raises OSError."""
        self._files.make()

    def open_log(self, kernel_id: str) -> int:
        """Open the file that receives the kernel process's output, and create it if it is new.

        Returns a descriptor for appending. Raises OSError.
        """
        name, flags = _log_name(kernel_id), os.O_WRONLY | os.O_APPEND | os.O_CREAT
        try:
            return self._files.open(name, flags, alone=True)
        except Untrusted:
            # The file is not ours alone. Only we can write to the folder, so a new file is safe.
            self._files.remove(name)
            return self._files.open(name, flags | os.O_EXCL)

    def read_log(self, kernel_id: str) -> BinaryIO:
        """Open the file with the kernel process's output to read and to empty it.

        Raises OSError.
        """
        return os.fdopen(self._files.open(_log_name(kernel_id), os.O_RDWR), "r+b", buffering=0)

    def write(self, record: KernelRecord) -> None:
        """Write the record atomically, replacing the previous one. Raises OSError."""
        # msgspec's own JSON encoder would fail for paths that are not valid UTF-8.
        text = json.dumps(msgspec.to_builtins(record, enc_hook=str))
        draft = f"{_draft_prefix(record.server_id)}{uuid.uuid4()}.draft"
        descriptor = self._files.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            with open(descriptor, "w", encoding="ascii") as file:
                file.write(text)
            self._files.replace(draft, _record_name(record.kernel_id))
        except BaseException:
            with contextlib.suppress(OSError):
                self._files.remove(draft)
            raise

    def read(self, kernel_id: str) -> KernelRecord | None:
        """Return the kernel's record, or None if it is missing or cannot be used."""
        name = _record_name(kernel_id)
        try:
            with open(self._files.open(name, os.O_RDONLY), "rb") as file:
                record = msgspec.convert(json.load(file), KernelRecord)
            if record.kernel_id != kernel_id:
                raise ValueError(f"the record is for kernel {record.kernel_id}")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError, msgspec.ValidationError) as error:
            if kernel_id not in self._named:
                self._named.add(kernel_id)
                path = str(self.folder / name)
                self.log.warning("Ignoring the unusable kernel record %r: %r", path, error)
            return None
        return record

    def read_all(self) -> Iterator[KernelRecord]:
        """Yield all records that can be used. Raises OSError."""
        for kernel_id in self.list_ids():
            record = self.read(kernel_id)
            if record is not None:
                yield record

    def version(self, kernel_id: str) -> object:
        """Return a value that changes whenever the record is written. Raises OSError."""
        status = self._files.status(_record_name(kernel_id))
        return status.st_mtime_ns, status.st_ino

    def exists(self, kernel_id: str) -> bool:
        """Return whether there is a record, even an unusable one. Raises OSError."""
        try:
            self._files.status(_record_name(kernel_id))
        except FileNotFoundError:
            return False
        return True

    def is_foreign(self, kernel_id: str) -> bool:
        """Return whether the record belongs to another user. Raises OSError."""
        return not is_owned(self._files.status(_record_name(kernel_id)))

    def list_ids(self) -> list[str]:
        """Return the ids of all kernels with a record, even an unusable one. Raises OSError."""
        names = self._files.list_names()
        return [name.removesuffix(".json") for name in names if name.endswith(".json")]

    def remove_drafts(self, server_id: str) -> None:
        """Remove the temporary files that a server left when it was killed while writing.

        Raises OSError.
        """
        for name in self._files.list_names():
            if name.startswith(_draft_prefix(server_id)):
                with contextlib.suppress(OSError):
                    self._files.remove(name)

    def remove(self, kernel_id: str) -> None:
        """Remove the kernel's files. Raises OSError."""
        # The record is removed last, because it is needed to find the other files.
        for name in (_log_name(kernel_id), _record_name(kernel_id)):
            with contextlib.suppress(FileNotFoundError):
                self._files.remove(name)


def _record_name(kernel_id: str) -> str:
    return f"{kernel_id}.json"


def _log_name(kernel_id: str) -> str:
    return f"{kernel_id}.log"


def _draft_prefix(server_id: str) -> str:
    return f".{server_id}-"


def forget_kernel(records: KernelRecords, record: KernelRecord) -> None:
    """Remove the record and the connection file of a kernel that has ended."""
    with contextlib.suppress(OSError):
        os.unlink(record.connection_file)
    records.remove(record.kernel_id)
