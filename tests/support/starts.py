"""Requests to start a kernel."""

from __future__ import annotations

from typing import Any

from nbsessions.kernels.base import StartRequest


def start_request(**fields: Any) -> StartRequest:
    """Return a request with these fields. Without them, it asks for the default kernel."""
    values = {
        "token": "a-token",
        "session_id": "a-session",
        "kernel_name": None,
        "kernel_id": None,
        "path": None,
        "name": None,
        "type": None,
    }
    return StartRequest(**{**values, **fields})
