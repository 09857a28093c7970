"""What tells one boot of the host from another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from nbsessions import identity


@pytest.fixture(autouse=True)
def _macos(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Be on macOS, with the programs that are in the test's folder."""
    monkeypatch.setattr(identity, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setenv("PATH", f"{tmp_path}:/nowhere")
    identity._boot_session.cache_clear()
    yield
    identity._boot_session.cache_clear()


def test_macos_tells_its_boot(tmp_path: Path) -> None:
    program = tmp_path / "sysctl"
    program.write_text('#!/bin/sh\ntest "$*" = "-n kern.bootsessionuuid" && echo 1-2-3-4-5\n')
    program.chmod(0o755)
    assert identity.boot_id() == "1-2-3-4-5"
    program.unlink()
    assert identity.boot_id() == "1-2-3-4-5"


def test_a_boot_that_cannot_be_asked_for_is_not_known() -> None:
    assert identity.boot_id() == ""
