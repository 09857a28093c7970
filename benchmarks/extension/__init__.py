"""A server extension for the benchmarks only. It is loaded beside nbsessions, and without it."""

from __future__ import annotations

import json
import os
import resource
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.provisioning.factory import KernelProvisionerFactory

from benchmarks.extension.handlers import handlers
from benchmarks.extension.provisioner import LightProvisioner

PORTS_VARIABLE = "NBSESSIONS_BENCHMARK_PORTS"
"""The environment variable with the name of the file that has the ports of light kernels."""

KERNELSPEC = {
    "argv": ["light"],
    "display_name": "Light",
    "language": "python",
    "metadata": {"kernel_provisioner": {"provisioner_name": "light"}},
}


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(serverapp: Any) -> None:
    serverapp.web_app.add_handlers(".*$", handlers(serverapp.base_url))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if PORTS_VARIABLE in os.environ:
        _offer_light_kernels(serverapp, json.loads(Path(os.environ[PORTS_VARIABLE]).read_text()))


def _offer_light_kernels(serverapp: Any, ports: dict[str, Any]) -> None:
    value = f"{LightProvisioner.__module__}:{LightProvisioner.__name__}"
    group = KernelProvisionerFactory.GROUP_NAME
    KernelProvisionerFactory.provisioners["light"] = EntryPoint("light", value, group)
    LightProvisioner.request_port = ports["request"]
    LightProvisioner.free_ports.extend(ports["iopub"])
    # Two sockets per kernel. ZMQ's own limit is 1023.
    context = serverapp.kernel_manager.context
    context.set(zmq.MAX_SOCKETS, context.get(zmq.SOCKET_LIMIT))
