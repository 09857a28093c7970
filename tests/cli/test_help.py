"""The command line in the environments of other hosts, and its help."""

from __future__ import annotations

import pytest

from support.cli import CommandLine
from support.server import StartServer


def test_the_help_has_the_settings_of_servers(start_server: StartServer) -> None:
    ran = CommandLine(start_server(start=False))("--help-all")
    assert ran.status == 0
    for option in (
        "AsyncSessionManager.store_url",
        "AsyncSessionManager.namespace",
        "SurvivingKernels.keep_kernels",
        "SurvivingKernels.orphan_timeout",
    ):
        assert f"--{option}=" in ran.out


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("list", ["--store", "--json", "--all-namespaces", "--orphans"]),
        ("show", ["--store", "--json", "--all-namespaces"]),
        ("stop", ["--store", "--yes", "--all", "--orphans"]),
        ("doctor", ["--store", "--json"]),
        ("keeper", ["--store", "--json", "--all-namespaces", "stop"]),
    ],
)
def test_the_help_of_a_command_has_its_options(
    start_server: StartServer, command: str, options: list[str]
) -> None:
    ran = CommandLine(start_server(start=False))(command, "--help")
    assert ran.status == 0
    listed = [line.partition("=")[0].strip() for line in ran.out.splitlines()]
    for option in options:
        assert option in listed


@pytest.mark.parametrize("host_name", ["oldest", "notebook6"])
def test_the_command_line_works_where_older_packages_are_installed(
    start_server: StartServer, host_name: str
) -> None:
    server = start_server(host_name, measured=False)
    server.create("a.ipynb")
    assert "a.ipynb" in server.run("-m", "nbsessions.cli", "list")
    assert "a.ipynb" in server.run("-m", "nbsessions.cli", "show", "a.ipynb")
    assert "store-integrity" in server.run("-m", "nbsessions.cli", "doctor")
    assert "--AsyncSessionManager.store_url=" in server.run("-m", "nbsessions.cli", "--help-all")
