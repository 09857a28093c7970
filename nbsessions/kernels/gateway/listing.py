"""The gateway's list of kernels, and what the models in it have to contain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nbsessions.kernels.gateway.requests import GatewayError
from nbsessions.models import KernelModel

_MODEL = {"id": str, "name": str, "last_activity": str, "execution_state": str, "connections": int}


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The gateway's list of kernels, or why there is none."""

    models: Mapping[str, KernelModel] = field(default_factory=dict)
    odd: frozenset[str] = frozenset()
    """Kernels whose models make no sense."""
    changed: Mapping[str, KernelModel | None] = field(default_factory=dict)
    """Kernels that were started here after the list was requested. None if they have ended."""
    failed: bool = False
    forbidden: bool = False

    def find(self, kernel_ids: Iterable[str]) -> dict[str, KernelModel | None]:
        """Return the models of those kernels that are listed. None if they make no sense."""
        found: dict[str, KernelModel | None] = {}
        for kernel_id in kernel_ids:
            model = self.changed.get(kernel_id, self.models.get(kernel_id))
            is_odd = kernel_id in self.odd and kernel_id not in self.changed
            if model is not None or is_odd:
                found[kernel_id] = model
        return found


def parsed_models(answer: Any) -> tuple[dict[str, KernelModel], frozenset[str]]:
    """Return the models by kernel id, and the ids of those that make no sense.

    Raises GatewayError if the answer is not a list of kernels.
    """
    if not isinstance(answer, list) or not all(
        isinstance(each, dict) and isinstance(each.get("id"), str) for each in answer
    ):
        raise GatewayError("the answer is not a list of kernels")
    odd = frozenset(each["id"] for each in answer if not is_model(each))
    return {each["id"]: each for each in answer if each["id"] not in odd}, odd


def is_model(model: Any) -> bool:
    """Return whether a value from an answer is a kernel's model, with all that is used of it."""
    return isinstance(model, dict) and all(
        isinstance(model.get(key), kind) for key, kind in _MODEL.items()
    )
