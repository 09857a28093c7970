"""The value types that the layers exchange: sessions, kernels, intents and owners."""

from __future__ import annotations

import enum
import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, TypeAlias

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

ABANDONED_AFTER = timedelta(days=30)
"""How long to keep the rows and records of a vanished server whose kernels cannot be checked.

The kernels may still run on a host, or in a container, that is seldom used.
"""


def utcnow() -> datetime:
    """Return the current time as a timezone-aware datetime in UTC."""
    return datetime.now(timezone.utc)


def document_of(path: str | None) -> str | None:
    """Return the normalised form of an API path.

    This is the only function that normalises paths. ``/a.ipynb`` and ``a.ipynb`` are the same
    document. Case, Unicode forms, ``:`` and backslashes are left alone, because their meaning
    depends on the contents manager.
    """
    return None if path is None else path.strip("/")


def is_within(document: str, top: str) -> bool:
    """Return whether the document is ``top`` or lies in the folder ``top``."""
    return document == top or document.startswith(f"{top}/")


_UUID4 = "(?i)[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


def named_document(path: str | None, name: str | None, type_: str | None) -> str | None:
    """Return the document that a session belongs to, even if its path is a placeholder.

    JupyterLab and Notebook 7 first request a session with a made-up path: a uuid4 in the
    notebook's folder. They send the notebook's name in the ``name`` field.
    """
    document = document_of(path)
    if document is None or not is_placeholder(path, name, type_):
        return document
    folder, slash, _ = document.rpartition("/")
    return f"{folder}{slash}{name}"


def is_placeholder(path: str | None, name: str | None, type_: str | None) -> bool:
    """Return whether the client made up the path and will replace it with the real one."""
    last = (document_of(path) or "").rpartition("/")[2]
    return bool(name) and name != last and type_ != "console" and bool(re.fullmatch(_UUID4, last))


class Session(Struct, frozen=True, kw_only=True):
    """A session, which attaches a document, console or file to a kernel."""

    session_id: str
    path: str | None
    """The API path exactly as the client sent it. None for some in-process callers."""
    name: str | None
    type: str | None
    kernel_id: str
    kernel_name: str | None
    provider: str
    """The name of the kernel provider. Only this provider can decide that the kernel is dead."""
    scope: str
    """Which servers can serve the kernel: the id of an owner, or a name that several share."""
    created: datetime
    last_activity: datetime
    """When the session was created or last changed."""
    seq: int = 0
    """A number that the store assigns. Older sessions have lower numbers."""

    @property
    def document(self) -> str | None:
        """The normalised path, by which sessions are looked up."""
        return document_of(self.path)

    @property
    def named_document(self) -> str | None:
        """The document of the session, even while its path is a placeholder."""
        return named_document(self.path, self.name, self.type)

    @property
    def is_placeholder(self) -> bool:
        """Whether the client made up the path and will replace it with the real one."""
        return is_placeholder(self.path, self.name, self.type)

    @property
    def kernel(self) -> Kernel:
        """The kernel that the session is attached to."""
        return Kernel(
            kernel_id=self.kernel_id, kernel_name=self.kernel_name, provider=self.provider
        )

    def renamed(self, old: str, new: str) -> Session | None:
        """Return the session after the document or folder ``old`` is renamed to ``new``.

        Returns None if the rename does not affect the session. Leading and trailing slashes of
        the path are preserved. If the name equals the last part of the path, it is changed too.
        """
        path, document = self.path, self.document
        if path is None or document is None or old == new or not is_within(document, old):
            return None
        after = new + document[len(old) :]
        last, last_after = document.rpartition("/")[2], after.rpartition("/")[2]
        return replace(
            self,
            path=path.replace(document, after, 1),
            name=last_after if self.name == last else self.name,
        )


KernelModel: TypeAlias = Mapping[str, Any]
"""A kernel in the format of ``/api/kernels``: id, name, last_activity, execution_state, …"""

LiveSession: TypeAlias = tuple["Session", KernelModel]
"""A session and the model of its kernel."""


class KernelModels(Struct, frozen=True, kw_only=True):
    """A provider's answer about a set of kernels, by kernel id.

    A kernel in neither mapping is dead, which means that its provider no longer has it. A kernel
    that failed, but that the provider still lists with a reason, counts as alive.
    """

    alive: Mapping[str, KernelModel]
    unknown: Mapping[str, KernelModel | None] = {}
    """Kernels whose state could not be determined, with the last known model or None."""

    def is_dead(self, kernel_id: str) -> bool:
        """Return whether the provider no longer has the kernel."""
        return kernel_id not in self.alive and kernel_id not in self.unknown


class Kernel(Struct, frozen=True, kw_only=True):
    """A kernel that a session is attached to: its id, kernelspec name and provider."""

    kernel_id: str
    kernel_name: str | None
    provider: str


class Verb(str, enum.Enum):
    """What the owner of an intent is about to do or has done."""

    START = "start"
    LOST = "lost"
    """A start whose lease expired and whose path another request has taken over."""
    STOP = "stop"
    ENDED = "ended"


class EndReason(str, enum.Enum):
    """Why a session is gone, unless a client has deleted it."""

    STOPPED = "stopped"
    """Its server was stopped, and the kernel with it."""
    DIED = "died"
    """The kernel ended while no server was there to see it."""
    REBOOTED = "rebooted"
    """The machine was rebooted, which ended the kernel."""
    ENDED = "ended"
    """The kernel ended while its server ran: it crashed, or was culled or shut down."""
    ELSEWHERE = "elsewhere"
    """The session exists, but belongs to another server. This reason is never stored."""


class Intent(Struct, frozen=True, kw_only=True, eq=False):
    """A record committed before a kernel is started or stopped, so that a crash leaves a trace."""

    token: str
    verb: Verb
    scope: str
    document: str | None
    """The normalised path that a start is for. None if the start is not to be shared."""
    kernel_id: str | None
    owner: str = ""
    """The id of the owner that carries it out. The store sets it."""
    lease_until: datetime | None = None
    """When other requests may take over a start, or when an ended stop may be deleted.

    The store sets it, by its own clock.
    """

    # Without what the store has set.

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Intent) and self._compared == other._compared

    def __hash__(self) -> int:
        return hash(self._compared)

    @property
    def _compared(self) -> tuple[object, ...]:
        return self.token, self.verb, self.scope, self.document, self.kernel_id


class Owner(Struct, frozen=True, kw_only=True):
    """One run of one server, to which the rows that it writes refer."""

    owner_id: str
    host: str
    boot_id: str
    """Identifies the current boot of the host. Empty if the platform does not provide it."""
    pid: int
    process: str = ""
    """Identifies the process among all of the same boot. Empty if that is not possible."""
    provider: str = ""
    """The name of the kernel provider that the owner starts kernels with."""
    shared_scope: str = ""
    """The scope of the owner's sessions if other servers can serve them too. Otherwise empty."""

    @property
    def scope(self) -> str:
        """The scope of the sessions that the owner serves."""
        return self.shared_scope or self.owner_id


class Orphans(Struct, frozen=True, kw_only=True):
    """What dead owners left in a namespace, and sessions to take over from other owners."""

    owners: Mapping[str, str] = {}
    """Maps the id of each dead owner to the name of its kernel provider."""
    sessions: tuple[Session, ...] = ()
    intents: tuple[Intent, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.owners or self.sessions)


class Takeover(Struct, frozen=True, kw_only=True):
    """What an owner has taken from a shared scope that no server serves, to end its kernels."""

    sessions: tuple[Session, ...] = ()
    """The sessions that were removed."""
    intents: tuple[Intent, ...] = ()
    """The starts and stops that the owner has to undo or to carry out."""


class KernelTrace(Struct, frozen=True, kw_only=True):
    """What is known about a kernel that a dead owner started or was about to start."""

    provider: str
    """The name of the provider that started the kernel. Empty if unknown."""
    kernel_id: str | None
    token: str | None
    """The token of the start intent for this kernel."""


class Changes(Struct, frozen=True, kw_only=True):
    """The changes of an update. Fields that are UNSET stay as they are."""

    path: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    kernel: Kernel | UnsetType = UNSET

    def applied_to(self, session: Session) -> Session:
        """Return the session with these changes applied."""
        session = replace(
            session,
            path=session.path if self.path is UNSET else self.path,
            name=session.name if self.name is UNSET else self.name,
            type=session.type if self.type is UNSET else self.type,
        )
        if self.kernel is UNSET:
            return session
        return replace(
            session,
            kernel_id=self.kernel.kernel_id,
            kernel_name=self.kernel.kernel_name,
            provider=self.kernel.provider,
        )


class Release(Struct, frozen=True, kw_only=True):
    """The outcome of a write that may have detached a session from its kernel.

    ``session`` is the session after the update, or before the deletion. ``kernel_id`` is the
    kernel that the caller has to shut down. It is None if there is none to shut down, for
    example because other sessions use the kernel.
    """

    session: Session
    kernel_id: str | None


class Ending(Struct, frozen=True, kw_only=True):
    """Why a session is gone, as far as the store knows."""

    session_id: str
    reason: EndReason
    ended: datetime | None = None
    """When that was noticed. None if it is not known."""


class Missed(Struct, frozen=True, kw_only=True):
    """What a client of a kernel had missed when it connected again."""

    client: str
    """The client's id, which is the ``session_id`` of its websocket."""
    lines: int
    """How many lines of output it got afterwards."""
    lost: int
    """How many lines of output it did not get, because they were not kept."""
    problem: str | None
    """A sentence for users about what is lost, or may be. None if that is nothing."""
    is_complete: bool
    """Whether the client has got everything that there is."""


class NewSession(Struct, frozen=True, kw_only=True):
    """A client's request for a session for ``path``, with a new or an existing kernel."""

    path: str | None
    name: str | None = None
    type: str | None = None
    kernel_name: str | None = None
    kernel_id: str | None = None

    @property
    def document(self) -> str | None:
        """The normalised path. All requests for the same path get the same session."""
        return document_of(self.path)

    @property
    def named_document(self) -> str | None:
        """The document of the session. Concurrent requests for it share one kernel."""
        return named_document(self.path, self.name, self.type)


class Sharing(Struct, frozen=True, kw_only=True):
    """What requests for sessions have in common if one kernel can serve all of them.

    Two windows that open one notebook send two different, generated paths. Only the document that
    both requests name shows that they want the same kernel.
    """

    document: str
    """See NewSession.named_document."""
    kernel_name: str | None
    """The requested kernelspec, or the default one."""

    @property
    def key(self) -> str:
        """A short text that identifies the document and the kernelspec."""
        return hashlib.sha256(json.dumps([self.document, self.kernel_name]).encode()).hexdigest()


class SessionPatch(Struct, frozen=True, kw_only=True):
    """A client's request to change a session. Fields that are UNSET stay as they are.

    ``kernel_id`` takes precedence over ``kernel_name``.
    """

    path: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    kernel_id: str | UnsetType = UNSET
    kernel_name: str | UnsetType = UNSET
