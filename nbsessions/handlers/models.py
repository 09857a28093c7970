"""What clients get: a session manager's model with all that clients insist on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def reply_model(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the model for the wire: ``path`` and ``name`` are strings, never null.

    JupyterLab drops a whole list over one item that is not as it expects.
    """
    if model["path"] and model["name"] and model["type"]:
        return model
    path = model["path"] or ""
    name = model["name"] or path.rpartition("/")[2]
    reply = {**model, "path": path, "name": name, "type": model["type"] or ""}
    if "notebook" in model:
        reply["notebook"] = {"path": path, "name": name}
    return reply
