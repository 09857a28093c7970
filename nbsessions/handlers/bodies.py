"""Decodes and validates request bodies, and converts them to arguments of a session manager."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from nbsessions.errors import InvalidRequest

LONGEST_TEXT = 4096
"""The maximum length of each string in a body, in characters."""

T = TypeVar("T")


class KernelBody(msgspec.Struct):
    """The requested kernel. An id takes precedence over a name."""

    id: str | None = None
    name: str | None = None


class NotebookBody(msgspec.Struct):
    """The body format from before sessions had types. Classic Notebook still sends it."""

    path: str | None = None
    name: str | None = None


class SessionBody(msgspec.Struct):
    """The body of POST and PATCH. Unknown fields are ignored."""

    path: str | msgspec.UnsetType = msgspec.UNSET
    name: str | None = None
    type: str | msgspec.UnsetType = msgspec.UNSET
    kernel: KernelBody | None = None
    notebook: NotebookBody | None = None


def create_arguments(body: bytes) -> dict[str, Any]:
    """Return the arguments of ``create_session``. Raises InvalidRequest."""
    sent = _decode(body)
    kernel = sent.kernel or KernelBody()
    return {
        "path": _required("path", sent.path),
        "type": _required("type", sent.type),
        "name": sent.name,
        "kernel_name": kernel.name or None,
        "kernel_id": kernel.id or None,
    }


def update_arguments(body: bytes) -> dict[str, Any]:
    """Return the arguments of ``update_session`` that were sent. Raises InvalidRequest."""
    sent = _decode(body)
    kernel = sent.kernel or KernelBody()
    changes = {
        "path": sent.path,
        "type": sent.type,
        "name": sent.name,
        "kernel_id": kernel.id,
        "kernel_name": kernel.name or None if kernel.id is None else None,
    }
    return {
        column: value
        for column, value in changes.items()
        if value is not None and value is not msgspec.UNSET
    }


def _decode(body: bytes) -> SessionBody:
    if not body.strip():
        raise InvalidRequest("body", "a JSON object is needed")
    try:
        sent = msgspec.json.decode(body, type=SessionBody)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest("body", str(error)) from error
    _check_texts(sent, "path", "name", "type")
    _check_texts(sent.kernel, "id", "name", prefix="kernel.")
    _check_texts(sent.notebook, "path", "name", prefix="notebook.")
    if sent.notebook is not None and sent.notebook.path is not None:
        sent.path, sent.type = sent.notebook.path, "notebook"
        sent.name = sent.name if sent.notebook.name is None else sent.notebook.name
    return sent


def _required(field: str, value: T | msgspec.UnsetType) -> T:
    if isinstance(value, msgspec.UnsetType):
        raise InvalidRequest(field, "is missing")
    return value


def _check_texts(sent: msgspec.Struct | None, *fields: str, prefix: str = "") -> None:
    for field in fields:
        value = getattr(sent, field, None)
        if not isinstance(value, str):
            continue
        if len(value) > LONGEST_TEXT:
            raise InvalidRequest(prefix + field, f"is longer than {LONGEST_TEXT} characters")
        if "\0" in value:
            raise InvalidRequest(prefix + field, "contains a NUL character")
