"""Asks a gateway what it is and what it lets servers do."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from jupyter_server.gateway.gateway_client import GatewayClient

from nbsessions.kernels.gateway.requests import GatewayError, GatewayRequests
from nbsessions.models import utcnow

_TIME_LIMIT = 10.0
"""Seconds for all requests together, except for the start of a kernel."""

_REQUESTS = 5
"""How many requests are timed."""

_HALF_A_SECOND = timedelta(seconds=0.5)
"""The time in a reply is in whole seconds."""


@dataclass(frozen=True, kw_only=True)
class GatewayCondition:
    """What a gateway tells about itself, and how it answers."""

    enterprise_version: str | None
    """The version of Enterprise Gateway. None if the gateway is not one."""
    server_version: str
    """The version of jupyter_server that the gateway is made with."""
    latency: timedelta
    """The median of several requests."""
    clock_difference: timedelta | None
    """How far its clock is ahead of this machine's, within a second. None if it tells no time."""
    lists_kernels: bool
    """Whether it tells all its kernels in one reply."""


@dataclass(frozen=True, kw_only=True)
class StartedKernel:
    """A kernel that was started to see under which id that happens."""

    kernel_id: str
    """The id that the gateway has given it."""
    has_ended: bool
    """Whether the gateway said that it has ended the kernel."""


async def examine(requests: GatewayRequests) -> GatewayCondition:
    """Examine the gateway within a few seconds. Raises GatewayError."""
    try:
        return await asyncio.wait_for(_examine(requests), _TIME_LIMIT)
    except asyncio.TimeoutError as error:
        raise _no_answer() from error


def _no_answer() -> GatewayError:
    return GatewayError(f"no answer in {_TIME_LIMIT:.0f} s", done=False)


async def _examine(requests: GatewayRequests) -> GatewayCondition:
    durations = []
    for _ in range(_REQUESTS):
        asked = utcnow()
        began = time.perf_counter()
        about, moment = await requests.about(timeout=_TIME_LIMIT)
        durations.append(time.perf_counter() - began)
    if not isinstance(about, dict) or not isinstance(about.get("version"), str):
        raise GatewayError("the answer is not that of a gateway")
    latency = timedelta(seconds=statistics.median(durations))
    return GatewayCondition(
        enterprise_version=about.get("gateway_version"),
        server_version=about["version"],
        latency=latency,
        clock_difference=_difference(moment, asked + (utcnow() - asked) / 2),
        lists_kernels=await _lists_kernels(requests),
    )


def _difference(moment: datetime | None, ours: datetime) -> timedelta | None:
    return None if moment is None else moment + _HALF_A_SECOND - ours


async def _lists_kernels(requests: GatewayRequests) -> bool:
    try:
        await requests.list_kernels(timeout=_TIME_LIMIT)
    except GatewayError as error:
        if error.status == 403:
            return False
        raise
    return True


async def start_and_end_kernel(requests: GatewayRequests, kernel_id: str) -> StartedKernel:
    """Ask for a kernel of the gateway's default kernelspec under this id, and end it.

    Raises GatewayError. The gateway may go on with the start after that.
    """
    try:
        model = await requests.kernels("POST", body=_start_body(kernel_id))
    except GatewayError:
        await _end(requests, kernel_id)
        raise
    if not isinstance(model, dict) or not isinstance(model.get("id"), str):
        raise GatewayError("the answer to the start makes no sense", done=False)
    started: str = model["id"]
    return StartedKernel(kernel_id=started, has_ended=await _end(requests, started))


def _start_body(kernel_id: str) -> dict[str, Any]:
    user = GatewayClient.instance().http_user
    variables = {name: value for name, value in os.environ.items() if name.startswith("KERNEL_")}
    return {
        # See GatewayKernelProvider.
        "kernel_id": kernel_id,
        "env": {
            **({"KERNEL_USERNAME": user} if user else {}),
            **variables,
            "KERNEL_ID": kernel_id,
        },
    }


async def _end(requests: GatewayRequests, kernel_id: str) -> bool:
    try:
        await requests.kernels("DELETE", kernel_id)
    except GatewayError as error:
        return error.is_missing(kernel_id)
    return True
