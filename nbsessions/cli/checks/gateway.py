"""Checks that the configured gateway can be reached, and what it lets servers do."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from traitlets.config import Application

from nbsessions.cli.checks.finding import Finding, error, ok, warning
from nbsessions.cli.errors import CommandError
from nbsessions.cli.gateway import gateway_requests, uses_gateway

if TYPE_CHECKING:
    from nbsessions.kernels.gateway.examination import GatewayCondition
    from nbsessions.kernels.gateway.requests import GatewayError, GatewayRequests

_SLOW = timedelta(milliseconds=500)
"""The gateway is asked for each list that is not recent."""
_CLOCK_TOLERANCE = timedelta(seconds=5)
_MAX_DETAIL = 200
_REACHABLE = "gateway-reachable"
_IDS = "gateway-kernel-ids"


def check_gateway(parent: Application, *, start_kernel: bool) -> Iterator[Finding]:
    """Ask the configured gateway, if there is one. With ``start_kernel``, start a kernel there."""
    if not uses_gateway(parent.config):
        return
    try:
        requests = gateway_requests(parent)
    except CommandError as problem:
        yield error(_REACHABLE, str(problem))
        return
    yield from _examine(requests, start_kernel=start_kernel)


def _examine(requests: GatewayRequests, *, start_kernel: bool) -> Iterator[Finding]:
    from nbsessions.kernels.gateway.examination import examine
    from nbsessions.kernels.gateway.requests import GatewayError

    try:
        condition = asyncio.run(examine(requests))
    except GatewayError as problem:
        yield _unreachable(requests.url, problem)
        return
    except ValueError as problem:
        # For example a URL without a host, or a certificate that is not one.
        yield error(_REACHABLE, f"the settings of the gateway client are wrong: {problem}")
        return
    yield ok(_REACHABLE, f"the gateway {requests.url} answers")
    yield _version(condition)
    yield _listing(condition)
    yield _clock(condition)
    yield _latency(condition)
    yield _start_kernel() if start_kernel else _ids_unknown()


def _unreachable(url: str, problem: GatewayError) -> Finding:
    message = f"the gateway {url} cannot be used: {problem}"
    if problem.status in (401, 403):
        hint = "check c.GatewayClient.auth_token, or JUPYTER_GATEWAY_AUTH_TOKEN"
    elif problem.status is not None:
        hint = "check the path in c.GatewayClient.url, or in JUPYTER_GATEWAY_URL"
    else:
        hint = (
            "check that the gateway runs, and the settings c.GatewayClient.url, validate_cert, "
            "ca_certs and client_cert"
        )
    return error(_REACHABLE, message, hint)


def _version(condition: GatewayCondition) -> Finding:
    server = f"jupyter_server {condition.server_version}"
    if condition.enterprise_version is not None:
        message = f"it is Enterprise Gateway {condition.enterprise_version}, made with {server}"
    else:
        message = f"it is a Kernel Gateway or another Jupyter server, made with {server}"
    return ok("gateway-version", message)


def _listing(condition: GatewayCondition) -> Finding:
    check = "gateway-listing"
    if condition.lists_kernels:
        return ok(check, "it tells all its kernels in one reply")
    setting = (
        "c.JupyterWebsocketPersonality.list_kernels"
        if condition.enterprise_version is None
        else "c.EnterpriseGatewayApp.list_kernels"
    )
    return warning(
        check,
        "it does not list its kernels, so that each server sends a request for each kernel, "
        "up to once per second",
        f"set {setting} = True in the configuration of the gateway",
    )


def _clock(condition: GatewayCondition) -> Finding:
    check = "gateway-clock"
    if condition.clock_difference is None:
        return ok(check, "it does not tell the time")
    seconds = condition.clock_difference.total_seconds()
    if abs(condition.clock_difference) <= _CLOCK_TOLERANCE:
        return ok(check, "its clock and ours agree")
    return warning(
        check,
        f"its clock is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} ours, so "
        "that idle times are wrong, also when kernels are culled",
        "let both machines set their clocks from the network (NTP)",
    )


def _latency(condition: GatewayCondition) -> Finding:
    message = f"a request takes {condition.latency.total_seconds() * 1000:.1f} ms"
    if condition.latency > _SLOW:
        hint = "move the gateway closer to the servers, or use a faster network"
        return warning("gateway-latency", f"{message}, and lists of sessions wait for one", hint)
    return ok("gateway-latency", message)


def _ids_unknown() -> Finding:
    return ok(
        _IDS,
        "it was not checked whether kernels start under the ids that servers choose. "
        "`doctor --start-kernel` starts and ends a kernel to find out",
    )


def _start_kernel() -> Finding:
    from nbsessions.kernels.gateway.examination import start_and_end_kernel
    from nbsessions.kernels.gateway.requests import GatewayError, GatewayRequests

    kernel_id = str(uuid.uuid4())
    try:
        # With connections of their own, since connections belong to an event loop.
        started = asyncio.run(start_and_end_kernel(GatewayRequests(), kernel_id))
    except GatewayError as problem:
        return _did_not_start(problem, kernel_id)
    if not started.has_ended:
        return error(
            _IDS,
            f"kernel {started.kernel_id} was started, but could not be ended",
            f"send DELETE /api/kernels/{started.kernel_id} to the gateway",
        )
    if started.kernel_id == kernel_id:
        return ok(_IDS, "kernels start under the ids that servers choose")
    return warning(
        _IDS,
        "kernels do not start under the ids that servers choose: a start that is cut short may "
        "leave a kernel behind",
        "use Kernel Gateway 3, Enterprise Gateway 3, or a newer one",
    )


def _did_not_start(problem: GatewayError, kernel_id: str) -> Finding:
    detail = f" ({problem.body[:_MAX_DETAIL]})" if problem.body else ""
    message = f"no kernel of the default kernelspec started: {problem}{detail}"
    if problem.done:
        return error(_IDS, message, "see the log of the gateway")
    return error(
        _IDS,
        message,
        f"see the log of the gateway, where kernel {kernel_id} may still start. If it does, send "
        f"DELETE /api/kernels/{kernel_id} to the gateway",
    )
