"""The values that travel between the layers: sessions, kernels, intents, owners."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any, Final, TypeAlias


class Unset(enum.Enum):
    """The type of UNSET: "not given", where None is a value."""

    UNSET = enum.auto()


UNSET: Final = Unset.UNSET

ABANDONED_AFTER = timedelta(days=30)
"""How long the rows and records are kept that a server left whose kernels nobody can see: they
may run on a host, or in a container, that is seldom used.
"""


def utcnow() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(timezone.utc)


def document_of(path: str | None) -> str | None:
    """Return the document that an API path is about: the one place that normalises paths.

    ``/a.ipynb`` and ``a.ipynb`` are one document. Nothing else is folded: not case, not
    Unicode forms, not ``:`` or backslashes, which are a contents manager's business.
    """
    return None if path is None else path.strip("/")


def is_within(document: str, top: str) -> bool:
    """Return whether the document is ``top``, or in the folder ``top``."""
    return document == top or document.startswith(f"{top}/")


_PLACEHOLDER = re.compile(
    "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.IGNORECASE
)


def named_document(path: str | None, name: str | None, type_: str | None) -> str | None:
    """Return the document that a session is about, also behind a placeholder.

    JupyterLab and Notebook 7 ask for a session under a path that they make up, a uuid4 in the
    notebook's folder, and give the notebook's name beside it.
    """
    document = document_of(path)
    if document is None or not is_placeholder(path, name, type_):
        return document
    folder, slash, _ = document.rpartition("/")
    return f"{folder}{slash}{name}"


def is_placeholder(path: str | None, name: str | None, type_: str | None) -> bool:
    """Return whether the path is made up, to be replaced by the real one."""
    last = (document_of(path) or "").rpartition("/")[2]
    return (
        bool(name) and name != last and type_ != "console" and bool(_PLACEHOLDER.fullmatch(last))
    )


@dataclass(frozen=True, kw_only=True)
class Session:
    """One session: a document, console or file, and the kernel that it is attached to."""

    session_id: str
    path: str | None
    """The API path, byte for byte as the client sent it; None for some in-process callers."""
    name: str | None
    type: str | None
    kernel_id: str
    kernel_name: str | None
    provider: str
    """The name of the kernel provider that alone may pronounce the kernel dead."""
    scope: str
    """Who can serve the kernel: an owner's id for local kernels."""
    created: datetime
    last_activity: datetime
    """When the session was created or changed last."""
    seq: int = 0
    """Age within the store, which hands it out: the lower, the older."""

    @property
    def document(self) -> str | None:
        """The normalised path, by which sessions are found."""
        return document_of(self.path)

    @property
    def named_document(self) -> str | None:
        """What the session is about, also while its path is a placeholder."""
        return named_document(self.path, self.name, self.type)

    @property
    def is_placeholder(self) -> bool:
        """Whether the path is made up, to be replaced by the real one."""
        return is_placeholder(self.path, self.name, self.type)

    def renamed(self, old: str, new: str) -> Session | None:
        """Return the session as it is once the document ``old``, or a folder, is ``new``.

        None when it is not concerned. The slashes around its path stay as they were sent; a
        name that was the last part of its path goes with it.
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
"""A kernel as a JSON object of ``/api/kernels``: id, name, last_activity, execution_state, …"""

LiveSession: TypeAlias = tuple["Session", KernelModel]
"""A session and the model of its kernel."""


@dataclass(frozen=True, kw_only=True)
class KernelModels:
    """What a provider knows of the kernels that it was asked about, by id.

    A kernel that is in neither mapping is dead: gone from its provider for good. (One that
    failed but is still listed there, with its reason, is among the living.)
    """

    alive: Mapping[str, KernelModel]
    unknown: Mapping[str, KernelModel | None] = field(default_factory=dict)
    """Those that could not be asked about, with the last known model if there is one."""

    def is_dead(self, kernel_id: str) -> bool:
        """Return whether the kernel is gone for good."""
        return kernel_id not in self.alive and kernel_id not in self.unknown


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A kernel that a session is attached to: its id, kernelspec name and provider."""

    kernel_id: str
    kernel_name: str | None
    provider: str


class Verb(str, enum.Enum):
    """What an intent is about to do, or has done."""

    START = "start"
    LOST = "lost"
    """A start whose lease lapsed and whose path somebody else has taken over."""
    STOP = "stop"
    ENDED = "ended"


@dataclass(frozen=True, kw_only=True)
class Intent:
    """What is committed before a kernel is started or stopped, so that a crash leaves a trace."""

    token: str
    verb: Verb
    scope: str
    document: str | None
    """The normalised path that a start is for; None when it is not to be shared."""
    kernel_id: str | None
    lease_until: datetime
    """When others may take a start over; when an ended stop may be forgotten."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """One run of one server, as it signs what it writes."""

    owner_id: str
    host: str
    boot_id: str
    """Identifies the host's current boot; empty where the platform does not tell."""
    pid: int
    provider: str = ""
    """The name of the kernel provider that the owner starts kernels with."""


@dataclass(frozen=True, kw_only=True)
class Orphans:
    """What other owners left behind in a namespace, and will not come back for."""

    owners: Mapping[str, str] = field(default_factory=dict)
    """The names of the dead owners' kernel providers, by the owners' ids."""
    sessions: tuple[Session, ...] = ()
    intents: tuple[Intent, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.owners or self.sessions)


@dataclass(frozen=True, kw_only=True)
class KernelTrace:
    """What is known of a kernel that a dead owner started, or was about to."""

    provider: str
    """Who started it; empty when that is not known."""
    kernel_id: str | None
    token: str | None
    """The start intent that it was started under."""


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What an update sets; a field that is UNSET stays as it is."""

    path: str | Unset = UNSET
    name: str | Unset = UNSET
    type: str | Unset = UNSET
    kernel: Kernel | Unset = UNSET

    def applied_to(self, session: Session) -> Session:
        """Return the session with these changes."""
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


@dataclass(frozen=True, kw_only=True)
class Release:
    """The outcome of a write that may have let go of a kernel.

    ``session`` is the session as it is now (after an update) or was (after a deletion).
    ``kernel_id`` is the kernel that the caller has to shut down, None when others hold it.
    """

    session: Session
    kernel_id: str | None


@dataclass(frozen=True, kw_only=True)
class NewSession:
    """What a client wants: a session for ``path``, with a new kernel or an existing one."""

    path: str | None
    name: str | None = None
    type: str | None = None
    kernel_name: str | None = None
    kernel_id: str | None = None

    @property
    def document(self) -> str | None:
        """The normalised path: requests of one path are answered with one session."""
        return document_of(self.path)

    @property
    def named_document(self) -> str | None:
        """What the session will be about: those who open it at once get one kernel."""
        return named_document(self.path, self.name, self.type)


@dataclass(frozen=True, kw_only=True)
class SessionPatch:
    """What a client wants changed; UNSET leaves a field alone. ``kernel_id`` goes first."""

    path: str | Unset = UNSET
    name: str | Unset = UNSET
    type: str | Unset = UNSET
    kernel_id: str | Unset = UNSET
    kernel_name: str | Unset = UNSET
