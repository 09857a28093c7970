"""The JSON of sessions: their documented models, and what replies make of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import starmap
from typing import Any

import msgspec

from nbsessions.models import KernelModel, LiveSession, Session, document_of


class Encoded(msgspec.Struct, frozen=True):
    """A session, or a list of them, as in a reply."""

    content: bytes
    version: str | None
    """Identifies the content among all that servers ever send. None if there is no such text."""


encode = msgspec.json.Encoder().encode
"""Returns a value as JSON."""


def session_model(session: Session, kernel: KernelModel) -> dict[str, Any]:
    """Return the documented model of a session, see AsyncSessionManager."""
    path, name = session.path, session.name
    model = {
        "id": session.session_id,
        "path": path,
        "name": name,
        "type": session.type,
        "kernel": kernel,
    }
    if session.type == "notebook":
        # Deprecated since IPython 4; the classic tree page still reads it.
        model["notebook"] = {"path": path, "name": name}
    return model


def reply_model(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the model for a reply, where ``path``, ``name`` and ``type`` are never null.

    JupyterLab rejects a whole list if one of its items is not valid.
    """
    if model["path"] and model["name"] and model["type"]:
        return model
    path = model["path"] or ""
    name = model["name"] or path.rpartition("/")[2]
    reply = {**model, "path": path, "name": name, "type": model["type"] or ""}
    if "notebook" in model:
        reply["notebook"] = {"path": path, "name": name}
    return reply


def reply_models(
    models: Iterable[Mapping[str, Any]],
    *,
    path: str | None = None,
    type: str | None = None,
    kernel_id: str | None = None,
) -> list[Mapping[str, Any]]:
    """Return the models for a reply that have these values, of which None stands for any."""
    return [
        reply_model(model)
        for model in models
        if (path is None or document_of(model["path"]) == document_of(path))
        and (type is None or model["type"] == type)
        and (kernel_id is None or model["kernel"]["id"] == kernel_id)
    ]


def encode_session(session: Session, kernel: KernelModel) -> bytes:
    """Return the session as it is in replies."""
    return encode(reply_model(session_model(session, kernel)))


def encode_list(sessions: Iterable[LiveSession]) -> bytes:
    """Return the list of these sessions as it is in replies."""
    return encode(list(map(reply_model, starmap(session_model, sessions))))


def join_list(encoded: Iterable[bytes]) -> bytes:
    """Return the list of sessions that are encoded already."""
    items = list(encoded)
    if not items:
        return b"[]"
    # With the brackets in the items, the join makes the only copy of what may be megabytes.
    items[0] = b"[" + items[0]
    items[-1] += b"]"
    return b",".join(items)
