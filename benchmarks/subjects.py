"""The server with its own session manager, and the same with ours."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks import extension
from benchmarks.light_kernels import KEY, LightKernels
from benchmarks.server import Server

CORES = os.sched_getaffinity(0)
CLIENT_CORE, SERVER_CORE = min(CORES), max(CORES)
_MOMENT = 0.3

_OTHERS = (
    "jupyter_lsp",
    "jupyter_server_terminals",
    "jupyterlab",
    "notebook",
    "notebook_shim",
)
"""Extensions that may be installed, and that would only make servers start later."""


def bare_server(
    folder: Path,
    *options: str,
    ours: bool,
    more: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    core: int | None = SERVER_CORE,
) -> Server:
    """Return a server with nbsessions or without it, and with no extensions but these."""
    extensions = bare_extensions(ours=ours) | dict.fromkeys(more, True)
    folder.mkdir()
    return Server(folder, *options, extensions=extensions, environment=environment, core=core)


def bare_extensions(*, ours: bool) -> dict[str, bool]:
    """Return which extensions to load: nbsessions, or none."""
    return {**dict.fromkeys(_OTHERS, False), "nbsessions": ours}


@contextmanager
def running(server: Server, signum: int = signal.SIGTERM) -> Iterator[Server]:
    """Start the server, and end it with the signal afterwards."""
    server.start()
    try:
        server.first_list()
        yield server
    finally:
        server.end(signum)


class Subject:
    """A server with kernels that are no processes."""

    def __init__(self, server: Server, kernels: LightKernels) -> None:
        self.server = server
        self.kernels = kernels


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Let this thread run on one core only, and what it starts, too."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def subjects(
    folder: Path, kernels: int, *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[dict[str, Subject]]:
    """Start stock and ours, for so many light kernels each.

    If there are two cores, the servers have one, and the client and the kernels have the other.
    """
    with ExitStack() as stack:
        stack.enter_context(pinned(CLIENT_CORE))
        found = {}
        for name in ("stock", "ours"):
            light = stack.enter_context(LightKernels(kernels))
            server = _server_for(
                light, folder / name, *options, ours=name == "ours", environment=environment or {}
            )
            # Nothing is lost if it cannot stop: its kernels are no processes.
            stack.enter_context(running(server, signal.SIGKILL))
            if server.has_our_sessions() != (name == "ours"):
                raise RuntimeError(f"{name} has the wrong session manager")
            found[name] = Subject(server, light)
        yield found


def _server_for(
    kernels: LightKernels,
    folder: Path,
    *options: str,
    ours: bool,
    environment: Mapping[str, str],
) -> Server:
    ports = folder / "ports.json"
    environment = {**environment, extension.PORTS_VARIABLE: str(ports)}
    key = f"--Session.key={KEY}"
    more = [extension.__name__]
    server = bare_server(folder, key, *options, ours=ours, more=more, environment=environment)
    ports.write_text(json.dumps({"request": kernels.request_port, "iopub": kernels.ports}))
    kernelspec = folder / "data" / "kernels" / "light" / "kernel.json"
    kernelspec.parent.mkdir(parents=True)
    kernelspec.write_text(json.dumps(extension.KERNELSPEC))
    return server


@contextmanager
def alone(subject: Subject, *others: Subject) -> Iterator[None]:
    """Let the other servers do nothing meanwhile, as they would need a part of the core.

    This one may have been stopped before, and has a moment for what was due meanwhile.
    """
    for other in others:
        other.server.process.suspend()
    time.sleep(_MOMENT)
    try:
        yield
    finally:
        for other in others:
            other.server.process.resume()
