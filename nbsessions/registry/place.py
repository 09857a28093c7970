"""The place where local kernels run, which determines which servers can see them."""

from __future__ import annotations

import os
import socket
from urllib.parse import quote

from msgspec import Struct

from nbsessions.identity import machine_key, pid_namespace
from nbsessions.models import KernelTrace

IMPORTED = "local:"
"""The provider of sessions that are imported from jupyter_server's own session file.

Their kernels ended with their server.
"""


def is_local(provider: str) -> bool:
    """Return whether the kernels of the provider with this name are processes of some machine."""
    return provider.startswith("local:")


class Place(Struct, frozen=True, kw_only=True):
    """A boot of a host, a pid namespace on it, and the folder that holds the kernels' files.

    Servers with the same place see the same processes and kernel records. Other servers cannot
    determine whether one of these kernels still runs.
    """

    host: str
    boot_id: str
    """Empty if the platform does not provide one."""
    pid_namespace: str
    """Empty if the platform has no pid namespaces."""
    folder: str

    @property
    def name(self) -> str:
        """The name of this place's kernel provider, as it is stored in sessions."""
        parts = (self.host, self.boot_id, self.pid_namespace, self.folder)
        return ":".join(["local", *(quote(part, safe="/[]") for part in parts)])

    def sees(self, provider: str) -> bool:
        """Return whether the provider with this name has the kernels of this place."""
        if not self.boot_id:
            return False
        # The host may have been renamed, so the host is ignored. The boot id is unique.
        return provider.split(":")[2:] == self.name.split(":")[2:]

    def has_rebooted(self, provider: str) -> bool:
        """Return whether the provider's kernels ended because this host has rebooted since."""
        ours, theirs = self.name.split(":"), provider.split(":")
        is_here = len(theirs) == len(ours) and theirs[:2] == ours[:2]
        return is_here and bool(ours[2]) and bool(theirs[2]) and theirs[2] != ours[2]


class RecordedKernel(Struct, frozen=True, kw_only=True):
    """A kernel that has a record in this place, and whether it may still run."""

    kernel_id: str
    token: str | None = None
    """The token of the start intent of the kernel, if it has one."""
    readable: bool = True
    may_run: bool
    """False when the record proves that the kernel has ended."""

    def matches(self, trace: KernelTrace) -> bool:
        """Return whether the trace may belong to this kernel."""
        if trace.kernel_id == self.kernel_id:
            return True
        return trace.token is not None and (trace.token == self.token or not self.readable)


def this_place(folder: str, boot_id: str) -> Place:
    """Return the place of a server that stores its kernels' files in this folder."""
    real = os.path.realpath(folder)
    return Place(
        # A cloned machine has the same machine id, and another machine may have the same name.
        # Only the two together identify the host.
        host=f"{machine_key()}.{socket.gethostname()}",
        boot_id=boot_id,
        pid_namespace=pid_namespace(),
        # A path that is not valid UTF-8 cannot be stored as text.
        folder=os.fsencode(real).decode(errors="backslashreplace"),
    )
