"""Where local kernels run: what tells whether two servers see the same kernels."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from urllib.parse import quote

from nbsessions.identity import machine_key, pid_namespace
from nbsessions.models import KernelTrace

IMPORTED = "local:"
"""The provider of sessions from a file of jupyter_server, whose kernels end with their server."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A boot of a host, a pid namespace in it, and the folder of the kernels' files.

    Servers that agree in these see the same processes and the same records of kernels. Nobody
    else can tell whether a kernel that is started here still runs.
    """

    host: str
    boot_id: str
    """Empty where the platform does not tell."""
    pid_namespace: str
    """Empty where the platform has none."""
    folder: str

    @property
    def name(self) -> str:
        """The name of this place's kernel provider, as sessions keep it."""
        parts = (self.host, self.boot_id, self.pid_namespace, self.folder)
        return ":".join(["local", *(quote(part, safe="/[]") for part in parts)])

    def sees(self, provider: str) -> bool:
        """Return whether the kernels of the provider of this name are those of this place."""
        if not self.boot_id:
            return False
        # A host may be called something else by now. Its boot has one name only.
        return provider.split(":")[2:] == self.name.split(":")[2:]

    def has_rebooted(self, provider: str) -> bool:
        """Return whether that provider's kernels ended with an earlier boot of this host."""
        ours, theirs = self.name.split(":"), provider.split(":")
        is_here = len(theirs) == len(ours) and theirs[:2] == ours[:2]
        return is_here and bool(ours[2]) and bool(theirs[2]) and theirs[2] != ours[2]


@dataclass(frozen=True, kw_only=True)
class RecordedKernel:
    """What a kernel's record, in the folder of its place, tells about its end."""

    kernel_id: str
    token: str | None = None
    """The start intent that it was started under."""
    readable: bool = True
    may_run: bool
    """False when the record proves that the kernel has ended."""

    def may_be(self, trace: KernelTrace) -> bool:
        """Return whether the trace may be of this kernel."""
        if trace.kernel_id == self.kernel_id:
            return True
        return trace.token is not None and (trace.token == self.token or not self.readable)


def this_place(folder: str, boot_id: str) -> Place:
    """Return the place of a server whose kernels have their files in this folder."""
    real = os.path.realpath(folder)
    return Place(
        # A machine's copy has its id, and another one may have its name. Only both are proof.
        host=f"{machine_key()}.{socket.gethostname()}",
        boot_id=boot_id,
        pid_namespace=pid_namespace(),
        # A name that is not UTF-8 cannot be kept as text.
        folder=os.fsencode(real).decode(errors="backslashreplace"),
    )
