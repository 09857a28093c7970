"""Checks for anything here that ends kernels together with their server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from traitlets.config import Config

from nbsessions.cli.checks.finding import Finding, Level, ok, warning
from nbsessions.cli.configuration import configured

CHECK = "survival"

SECTIONS = ("SurvivingMappingKernelManager", "SurvivingKernels")
"""Where the settings of surviving kernels may be. Earlier ones take precedence."""
_CONTAINER_FILES = (".dockerenv", "run/.containerenv")
_CONTAINER_GROUPS = re.compile(r"docker|kubepods|containerd|libpod|lxc")
# By default, systemd ends all processes of a unit when the unit's main process ends.
_KILL_MODES_THAT_SPARE_KERNELS = {"process", "none"}
_UNIT = re.compile(r".*\.service|session-.*\.scope")
_ANSWER_TIMEOUT = 5.0


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Where servers run: the machine, as seen through /proc, and the environment."""

    environ: Mapping[str, str]
    platform: str = sys.platform
    root: Path = Path("/")


def check_survival(
    config: Config,
    surroundings: Surroundings,
    server_pids: Iterable[int],
    servers: Iterable[Finding],
) -> Iterator[Finding]:
    """Warn about anything that keeps kernels from surviving here. None of it is an error.

    Say that kernels survive only if there are no warnings, here or among ``servers``.
    """
    found = [
        *_check_configuration(config),
        *_check_platform(surroundings),
        *_check_systemd(surroundings, ["self", *map(str, server_pids)]),
        *_check_container(surroundings),
        *_check_slurm(surroundings),
    ]
    yield from found
    if all(finding.level is Level.OK for finding in (*servers, *found)):
        yield ok(CHECK, "kernels survive a crash of their server")


def _check_configuration(config: Config) -> Iterator[Finding]:
    if _setting(config, "keep_kernels") == "never":
        yield warning(CHECK, "keep_kernels is `never`: kernels always end with their server")
    if _setting(config, "hangup") == "stop":
        yield warning(
            CHECK, "hangup is `stop`: kernels end when the terminal or SSH connection is closed"
        )


def _setting(config: Config, option: str) -> str:
    values = (configured(config, section, option) for section in SECTIONS)
    return str(next(filter(None, values), "")).lower()


def _check_platform(surroundings: Surroundings) -> Iterator[Finding]:
    if surroundings.platform == "win32":
        yield warning(CHECK, "on Windows, kernels end with their server")


def _check_systemd(surroundings: Surroundings, processes: Iterable[str]) -> Iterator[Finding]:
    units = (_unit_of(surroundings.root / "proc" / each / "cgroup") for each in processes)
    for unit, is_users in sorted({unit for unit in units if unit is not None}):
        if unit.endswith(".scope"):
            yield from _check_login(unit, surroundings.environ)
            continue
        user = ["--user"] if is_users else []
        command = ["systemctl", *user, "show", "-p", "KillMode", unit]
        mode = _show_property(command, surroundings.environ)
        if mode and mode not in _KILL_MODES_THAT_SPARE_KERNELS:
            yield warning(
                CHECK,
                f"systemd ends kernels when the main process of {unit} ends (KillMode={mode})",
                f"set KillMode=process in the [Service] section of {unit}",
            )


def _check_login(scope: str, environ: Mapping[str, str]) -> Iterator[Finding]:
    # Without a session id, loginctl shows the properties of logind itself.
    if _show_property(["loginctl", "show-session", "-p", "KillUserProcesses"], environ) != "no":
        yield warning(
            CHECK,
            f"{scope} ends when you log out, and its kernels end too if logind.conf says "
            "KillUserProcesses=yes",
            "loginctl enable-linger, and start the server as a service of your own: "
            "systemd-run --user --same-dir -p KillMode=process jupyter lab",
        )


def _unit_of(file: Path) -> tuple[str, bool] | None:
    """Return the service or login scope of a process, and whether it is a user unit."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        # cgroups(7): "0::/path", or "1:name=systemd:/path" in the older hierarchy
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        parts = path.split("/")
        if controllers in ("", "name=systemd") and _UNIT.fullmatch(parts[-1]):
            return parts[-1], any(part.startswith("user@") for part in parts[:-1])
    return None


def _show_property(command: Sequence[str], environ: Mapping[str, str]) -> str:
    """Return the value of the property that the command shows, or '' if it is unknown."""
    try:
        ran = subprocess.run(
            command, capture_output=True, text=True, timeout=_ANSWER_TIMEOUT, env={**environ}
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return ran.stdout.strip().partition("=")[2]


def _check_container(surroundings: Surroundings) -> Iterator[Finding]:
    root = surroundings.root
    if (
        any((root / name).exists() for name in _CONTAINER_FILES)
        or "KUBERNETES_SERVICE_HOST" in surroundings.environ
        or _CONTAINER_GROUPS.search(_text(root / "proc" / "1" / "cgroup"))
    ):
        yield warning(
            CHECK,
            "this is a container: kernels end when it stops, or when its first process ends",
            "run the server under an init process (docker run --init) that outlives it",
        )


def _check_slurm(surroundings: Surroundings) -> Iterator[Finding]:
    job = surroundings.environ.get("SLURM_JOB_ID")
    if job:
        yield warning(CHECK, f"Slurm ends all processes of job {job} when the job ends")


def _text(file: Path) -> str:
    try:
        return os.fsdecode(file.read_bytes())
    except OSError:
        return ""
