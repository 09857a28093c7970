"""Checks that Jupyter servers load nbsessions, and use its session and kernel managers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from traitlets.config import Config

from nbsessions.async_sessionmanager import AsyncSessionManager
from nbsessions.cli.checks.finding import Finding, error, ok, warning
from nbsessions.cli.configuration import configured, load_class
from nbsessions.cli.errors import CommandError
from nbsessions.cli.gateway import uses_gateway

EXTENSION = "nbsessions"


@dataclass(frozen=True, kw_only=True)
class Application:
    """A server application that may be installed, and where its configuration is."""

    label: str
    distribution: str
    releases: Callable[[int], bool]
    """Whether a major version of the distribution contains the application."""
    section: str
    extensions: str
    config_name: str
    command: str


APPLICATIONS = (
    Application(
        label="Jupyter Server",
        distribution="jupyter_server",
        releases=lambda major: True,
        section="ServerApp",
        extensions="jpserver_extensions",
        config_name="jupyter_server_config",
        command="jupyter server extension enable nbsessions",
    ),
    Application(
        label="classic Notebook",
        distribution="notebook",
        releases=lambda major: major < 7,
        section="NotebookApp",
        extensions="nbserver_extensions",
        config_name="jupyter_notebook_config",
        command="jupyter serverextension enable nbsessions",
    ),
)


def check_servers(config: Config, config_folders: Sequence[str]) -> Iterator[Finding]:
    """Check the server applications installed in this environment."""
    installed = [each for each in APPLICATIONS if _is_installed(each)]
    if not installed:
        yield warning("extension", "no Jupyter server is installed in this environment")
    for application in installed:
        if _is_enabled(application, config, config_folders):
            yield ok("extension", f"{application.label} loads nbsessions")
            yield from _check_session_manager(application, config)
        else:
            yield error(
                "extension", f"{application.label} does not load nbsessions", application.command
            )
        if application.section == "NotebookApp":
            yield warning("kernel-manager", "in classic Notebook, kernels end with their server")
    yield from _check_kernel_manager(config)
    yield from _check_gateway_manager(config)


def _is_installed(application: Application) -> bool:
    try:
        version = metadata.version(application.distribution)
    except metadata.PackageNotFoundError:
        return False
    return application.releases(int(version.partition(".")[0]))


def _is_enabled(application: Application, config: Config, config_folders: Sequence[str]) -> bool:
    # As in the servers, their own options take precedence over the extension files.
    chosen = configured(config, application.section, application.extensions) or {}
    if EXTENSION in chosen:
        return bool(chosen[EXTENSION])
    enabled = False
    for options in _files_of(application, config_folders):
        section = options.get(application.section) or {}
        enabled = (section.get(application.extensions) or {}).get(EXTENSION, enabled)
    return bool(enabled)


def _files_of(
    application: Application, config_folders: Sequence[str]
) -> Iterator[Mapping[str, Any]]:
    """Yield the files that enable extensions, in order of increasing precedence."""
    for folder in map(Path, reversed(config_folders)):
        parts: list[Path] = []
        with contextlib.suppress(OSError):
            parts = sorted(folder.joinpath(f"{application.config_name}.d").glob("*.json"))
        for path in (*parts, folder / f"{application.config_name}.json"):
            with contextlib.suppress(OSError, ValueError):
                yield json.loads(path.read_bytes())


def _check_session_manager(application: Application, config: Config) -> Iterator[Finding]:
    name = configured(config, application.section, "session_manager_class")
    check = "session-manager"
    if not name:
        yield ok(check, f"{application.label} uses the session manager of nbsessions")
        return
    try:
        found = load_class(name)
    except CommandError as problem:
        yield error(check, f"{application.section}.session_manager_class: {problem}")
        return
    label = f"{found.__module__}.{found.__qualname__}"
    if application.section == "ServerApp" and issubclass(found, AsyncSessionManager):
        yield ok(check, f"{application.label} uses {label}, a session manager of nbsessions")
    else:
        yield error(
            check,
            f"{application.label} is configured to use {label}: nbsessions stands aside",
            f"remove {application.section}.session_manager_class from the configuration",
        )


def _check_kernel_manager(config: Config) -> Iterator[Finding]:
    name = configured(config, "ServerApp", "kernel_manager_class")
    check = "kernel-manager"
    if not name:
        yield ok(check, "the kernel manager is the one of nbsessions")
        return
    try:
        found = load_class(name)
    except CommandError as problem:
        yield error(check, f"ServerApp.kernel_manager_class: {problem}")
        return
    label = f"{found.__module__}.{found.__qualname__}"
    if uses_gateway(config):
        return  # see _check_gateway_manager
    if _is_derived_from("SurvivingKernels", found):
        yield ok(check, f"the kernel manager is {label}, whose kernels survive")
    else:
        yield warning(
            check,
            f"another kernel manager is configured ({label}): kernels end with their server",
            "remove ServerApp.kernel_manager_class from the configuration",
        )


def _check_gateway_manager(config: Config) -> Iterator[Finding]:
    if not uses_gateway(config):
        return
    name = configured(config, "ServerApp", "kernel_manager_class")
    found = None
    if name:
        # What cannot be imported is an error of the check of the kernel manager.
        with contextlib.suppress(CommandError):
            found = load_class(name)
    if name and not _is_derived_from("GatewayKernels", found):
        yield warning(
            "gateway",
            f"behind a gateway, nbsessions stands aside if another kernel manager is configured "
            f"({name})",
            "remove ServerApp.kernel_manager_class from the configuration",
        )
    else:
        yield ok("gateway", "a gateway runs the kernels, and they outlive every server")


def _is_derived_from(name: str, found: type | None) -> bool:
    # Compare by name: importing the class requires jupyter_server.
    return any(base.__name__ == name for base in getattr(found, "__mro__", ()))
