"""What a place does to kernels: told from a tree like that of /proc, and from systemctl."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from traitlets.config import Config

from nbsessions.cli.checks.finding import Finding, Level, error, warning
from nbsessions.cli.checks.survival import Surroundings, check_survival

UNIT = "0::/system.slice/jupyter.service\n"
USER_UNIT = "0::/user.slice/user-1.slice/user@1.service/app.slice/jupyter.service\n"
LOGIN = "0::/user.slice/user-1.slice/session-2.scope\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine on which nothing ends kernels."""
    root = tmp_path / "root"
    for process, group in {
        "self": "0::/user.slice/user-1.slice/user@1.service/app.slice/terminal.scope\n",
        "1": "0::/init.scope\n",
    }.items():
        set_group(root, process, group)
    return root


def set_group(root: Path, process: str, text: str) -> None:
    folder = root / "proc" / process
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cgroup").write_text(text)


def with_program(folder: Path, script: str, name: str = "systemctl") -> dict[str, str]:
    """Return an environment with a program that runs the script."""
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


def warnings(
    root: Path,
    environ: Mapping[str, str] | None = None,
    *,
    platform: str = "linux",
    config: Config | None = None,
    pids: tuple[int, ...] = (),
    servers: tuple[Finding, ...] = (),
) -> list[str]:
    """Return the warnings, and check that kernels are said to survive only without any."""
    surroundings = Surroundings(environ=environ or {}, platform=platform, root=root)
    findings = list(check_survival(config or Config(), surroundings, pids, servers))
    assert all(finding.level is not Level.ERROR for finding in findings)
    messages = [finding.message for finding in findings if finding.level is Level.WARNING]
    survive = any(finding.level is Level.OK for finding in findings)
    assert survive is not any([*messages, *servers])
    return messages


def test_a_plain_machine_is_fine(root: Path) -> None:
    assert warnings(root) == []
    assert warnings(root / "nowhere") == []


@pytest.mark.parametrize("finding", [warning("gateway", "it has"), error("extension", "none")])
def test_kernels_of_a_server_that_does_not_load_us_are_not_said_to_survive(
    root: Path, finding: Finding
) -> None:
    assert warnings(root, servers=(finding,)) == []


@pytest.mark.parametrize("mode", ["control-group", "mixed"])
def test_a_unit_that_ends_all_its_processes_is_named(
    root: Path, tmp_path: Path, mode: str
) -> None:
    set_group(root, "self", UNIT)
    environ = with_program(tmp_path, f"echo KillMode={mode}")
    (message,) = warnings(root, environ)
    assert message == (
        f"systemd ends kernels when the main process of jupyter.service ends (KillMode={mode})"
    )


@pytest.mark.parametrize("script", ["echo KillMode=process", "exit 1", "echo KillMode="])
def test_a_unit_that_spares_them_or_does_not_say_is_fine(
    root: Path, tmp_path: Path, script: str
) -> None:
    set_group(root, "self", UNIT)
    assert warnings(root, with_program(tmp_path, script)) == []


def test_where_there_is_no_systemctl_nothing_is_said(root: Path, tmp_path: Path) -> None:
    set_group(root, "self", UNIT)
    assert warnings(root, {"PATH": str(tmp_path)}) == []


def test_the_users_own_units_are_asked_of_the_users_systemd(root: Path, tmp_path: Path) -> None:
    set_group(root, "self", "12:pids:/a.service\n1:name=systemd:" + USER_UNIT[3:])
    environ = with_program(tmp_path, 'test "$1" = --user && echo KillMode=mixed')
    assert len(warnings(root, environ)) == 1


def test_the_units_of_running_servers_count_once(root: Path, tmp_path: Path) -> None:
    set_group(root, "7", UNIT)
    set_group(root, "8", UNIT)
    environ = with_program(tmp_path, "echo KillMode=control-group")
    assert len(warnings(root, environ, pids=(7, 8, 9))) == 1


@pytest.mark.parametrize("script", ["echo KillUserProcesses=yes", "exit 1", "echo"])
def test_a_login_that_may_end_kernels_is_named(root: Path, tmp_path: Path, script: str) -> None:
    set_group(root, "self", LOGIN)
    (message,) = warnings(root, with_program(tmp_path, script, "loginctl"))
    assert message.startswith("session-2.scope ends when you log out, and its kernels end too if")
    assert len(warnings(root, {"PATH": str(root)})) == 1


def test_a_login_that_ends_no_kernels_is_fine(root: Path, tmp_path: Path) -> None:
    set_group(root, "self", LOGIN)
    environ = with_program(tmp_path, "echo KillUserProcesses=no", "loginctl")
    assert warnings(root, environ) == []


@pytest.mark.parametrize("name", [".dockerenv", "run/.containerenv"])
def test_a_container_is_told_by_its_file(root: Path, name: str) -> None:
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).touch()
    assert "this is a container" in warnings(root)[0]


def test_a_container_is_told_by_its_group(root: Path) -> None:
    set_group(root, "1", "0::/kubepods/pod1\n")
    assert "this is a container" in warnings(root)[0]


def test_a_pod_is_told_by_its_environment(root: Path) -> None:
    assert "this is a container" in warnings(root, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})[0]


def test_a_job_of_slurm_is_named(root: Path) -> None:
    assert warnings(root, {"SLURM_JOB_ID": "42"}) == [
        "Slurm ends all processes of job 42 when the job ends"
    ]


def test_on_windows_kernels_end_with_their_server(root: Path) -> None:
    assert "Windows" in warnings(root, platform="win32")[0]


def test_settings_are_read_whatever_class_they_are_made_for(root: Path) -> None:
    ours = Config({"SurvivingMappingKernelManager": {"keep_kernels": "Never"}})
    base = Config({"SurvivingKernels": {"hangup": "stop", "keep_kernels": "restart"}})
    assert "keep_kernels is `never`" in warnings(root, config=ours)[0]
    assert "hangup is `stop`" in warnings(root, config=base)[0]
    assert len(warnings(root, config=base)) == 1
