"""How durations, sizes and the help read."""

from __future__ import annotations

import pytest

from nbsessions.cli.command import Command
from nbsessions.cli.doctor_command import DoctorCommand
from nbsessions.cli.keeper.stop import StopKeeperCommand
from nbsessions.cli.keeper_command import KeeperCommand
from nbsessions.cli.list_command import ListCommand
from nbsessions.cli.output import format_bytes, format_duration, format_size
from nbsessions.cli.show_command import ShowCommand
from nbsessions.cli.stop_command import StopCommand


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0.2, "0 s"), (59, "59 s"), (60, "1 min"), (7200, "2 h"), (200_000, "2 d")],
)
def test_a_duration_is_in_its_largest_unit(seconds: float | None, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(None, ""), (54_000_000, "54 MB"), (2_340_000_000, "2.3 GB")]
)
def test_a_size_is_in_megabytes_or_gigabytes(count: int | None, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 kB"), (999_000, "999 kB"), (3_140_000, "3.1 MB"), (2e9, "2.0 GB")]
)
def test_the_size_of_files_is_in_its_largest_unit(count: int, text: str) -> None:
    assert format_size(count) == text


@pytest.mark.parametrize(
    "command",
    [
        ListCommand,
        ShowCommand,
        StopCommand,
        DoctorCommand,
        KeeperCommand,
        StopKeeperCommand,
    ],
)
def test_the_examples_of_the_help_stand_below_each_other(command: type[Command]) -> None:
    lines = "\n".join(command().emit_examples()).splitlines()
    examples = [line for line in lines if "jupyter nbsessions" in line]
    assert len(examples) >= 2
    assert len({len(line) - len(line.lstrip()) for line in examples}) == 1
