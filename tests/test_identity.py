"""Ids that distinguish machines, and the boots of one machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from nbsessions import identity
from nbsessions.identity import has_ended, process_key


@pytest.fixture
def _macos(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Simulate macOS, with the programs in the test's folder."""
    monkeypatch.setattr(identity, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setenv("PATH", f"{tmp_path}:/nowhere")
    _forget()
    yield
    _forget()


def _forget() -> None:
    identity._boot_session.cache_clear()
    identity.machine_key.cache_clear()


@pytest.fixture
def ids(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[Path]]:
    """The files that may contain the machine's id. None of them exists."""
    files = [tmp_path / "machine-id", tmp_path / "dbus-id"]
    monkeypatch.setattr(identity, "_MACHINE_IDS", files)
    _forget()
    yield files
    _forget()


@pytest.mark.usefixtures("_macos")
def test_macos_tells_its_boot(tmp_path: Path) -> None:
    program = tmp_path / "sysctl"
    program.write_text('#!/bin/sh\ntest "$*" = "-n kern.bootsessionuuid" && echo 1-2-3-4-5\n')
    program.chmod(0o755)
    assert identity.boot_id() == "1-2-3-4-5"
    program.unlink()
    assert identity.boot_id() == "1-2-3-4-5"


@pytest.mark.usefixtures("_macos")
def test_a_boot_that_cannot_be_asked_for_is_not_known() -> None:
    assert identity.boot_id() == ""


ID = "0123456789abcdef0123456789abcdef"


def key_of(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the machine's key while it has this host name."""
    _forget()
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    return identity.machine_key()


@pytest.mark.parametrize("number", [0, 1])
def test_a_machine_has_one_key_whatever_it_is_called(
    ids: list[Path], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids[number].write_text(f"{ID}\n")
    keys = {key_of(name, monkeypatch) for name in ("at-home", "in-a-cafe")}
    assert len(keys) == 1
    assert not any(ID.startswith(key) for key in keys)


@pytest.mark.parametrize("content", [None, "", "uninitialized\n", "\xff"])
def test_a_machine_without_an_id_goes_by_its_name(
    ids: list[Path], content: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content is not None:
        ids[0].write_text(content, encoding="latin-1")
    assert key_of("one", monkeypatch) == key_of("one", monkeypatch)
    assert key_of("one", monkeypatch) != key_of("two", monkeypatch)


@pytest.mark.usefixtures("_macos")
def test_macos_tells_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_name = key_of("a-mac", monkeypatch)
    program = tmp_path / "ioreg"
    program.write_text(f"""#!/bin/sh\necho '  "IOPlatformUUID" = "{ID}"'\n""")
    program.chmod(0o755)
    assert key_of("a-mac", monkeypatch) == key_of("another-name", monkeypatch) != by_name


def test_a_process_has_ended_once_it_was_killed_even_if_nobody_waits_for_it() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    key = process_key(process.pid)
    assert has_ended(key) is False
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert has_ended(key) is True
    process.communicate()
    assert has_ended(key) is True


def test_another_process_with_the_same_id_is_not_the_one() -> None:
    namespace, pid, started = process_key(os.getpid()).split()
    assert has_ended(f"{namespace} {pid} {float(started) + 1}") is True


@pytest.mark.parametrize("key", ["", "unknown", "pid:[1] 1 1", "pid:[1] x 1"])
def test_a_process_elsewhere_is_neither_alive_nor_dead(key: str) -> None:
    assert has_ended(key) is None
