"""Completes session models with the fields that clients require."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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
