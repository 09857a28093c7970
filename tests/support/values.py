"""Creates sessions, intents and owners, with defaults for all fields that do not matter."""

from __future__ import annotations

import os
import uuid
from datetime import datetime, timedelta

from nbsessions.identity import pid_namespace
from nbsessions.models import Changes, Intent, Kernel, Owner, Session, Verb, utcnow

SCOPE = "owner-1"
"""The owner of everything that is created without naming an owner."""

HOST = "this-host"
BOOT = "this-boot"
PROVIDER = f"local:{BOOT}"
ENDED_PROCESS = f"{pid_namespace()} {2**30} 1"
"""Identifies a process of this machine that has ended."""


def make_owner(
    owner_id: str = SCOPE,
    *,
    host: str = HOST,
    boot_id: str = BOOT,
    pid: int | None = None,
    process: str = "",
    shared_scope: str = "",
) -> Owner:
    return Owner(
        owner_id=owner_id,
        host=host,
        boot_id=boot_id,
        pid=os.getpid() if pid is None else pid,
        process=process,
        shared_scope=shared_scope,
    )


def make_id() -> str:
    return str(uuid.uuid4())


def make_session(
    path: str | None = "notebook.ipynb",
    *,
    session_id: str | None = None,
    name: str | None = "a name",
    type: str | None = "notebook",
    kernel_id: str | None = None,
    kernel_name: str | None = "python3",
    provider: str = PROVIDER,
    scope: str = SCOPE,
    created: datetime | None = None,
) -> Session:
    created = created or utcnow()
    return Session(
        session_id=session_id or make_id(),
        path=path,
        name=name,
        type=type,
        kernel_id=kernel_id or make_id(),
        kernel_name=kernel_name,
        provider=provider,
        scope=scope,
        created=created,
        last_activity=created,
    )


def make_start(
    document: str | None = "notebook.ipynb",
    *,
    token: str | None = None,
    kernel_id: str | None = None,
    scope: str = SCOPE,
) -> Intent:
    return Intent(
        token=token or make_id(),
        verb=Verb.START,
        scope=scope,
        document=document,
        kernel_id=kernel_id,
    )


def to_kernel(kernel_id: str, *, kernel_name: str = "python3") -> Changes:
    """Return the changes that move a session to this kernel."""
    return Changes(kernel=Kernel(kernel_id=kernel_id, kernel_name=kernel_name, provider=PROVIDER))


LAPSED = timedelta(seconds=-1)
"""A lease that has expired."""
