"""Where a keeper's files are, and how it is reached."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from nbsessions.keeper.folder import KeeperFolder, peer_is_us
from nbsessions.private import Untrusted


def reach(folder: KeeperFolder, listener: socket.socket) -> None:
    with folder.connect(5.0) as theirs:
        ours, _ = listener.accept()
        with ours:
            theirs.sendall(b"hello")
            assert ours.recv(5) == b"hello"
            assert peer_is_us(ours)


@pytest.mark.parametrize("length", [1, 60, 90, 250])
def test_a_keeper_is_reached_however_long_its_path_is(tmp_path: Path, length: int) -> None:
    folder = KeeperFolder(tmp_path / ("n" * length))
    folder.make()
    with folder.bind() as listener:
        reach(folder, listener)


def test_a_keeper_takes_the_place_of_one_that_was_killed(tmp_path: Path) -> None:
    folder = KeeperFolder(tmp_path)
    folder.make()
    folder.bind().close()
    with pytest.raises(ConnectionRefusedError):
        folder.connect(5.0)
    (folder.path / "socket.new").touch()
    with folder.bind() as listener:
        reach(folder, listener)


def test_a_keeper_that_ends_is_not_reached_any_more(tmp_path: Path) -> None:
    folder = KeeperFolder(tmp_path)
    folder.make()
    with folder.bind():
        folder.unbind()
        folder.unbind()
        with pytest.raises(FileNotFoundError):
            folder.connect(5.0)


def test_only_its_user_can_open_the_folder(tmp_path: Path) -> None:
    folder = KeeperFolder(tmp_path / "registry")
    folder.make()
    for each in (folder.path, *(folder.path / name for name in ("spools", "marks", "clients"))):
        assert each.stat().st_mode & 0o777 == 0o700


def test_a_folder_of_another_user_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = KeeperFolder(tmp_path)
    folder.make()
    with folder.bind() as listener, folder.connect(5.0):
        ours, _ = listener.accept()
        with ours:
            monkeypatch.setattr(os, "geteuid", lambda: -1)
            assert not peer_is_us(ours)
            with pytest.raises(Untrusted):
                folder.connect(5.0)
    with pytest.raises(Untrusted):
        folder.bind()


def test_machines_that_share_a_home_have_keepers_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = KeeperFolder(tmp_path).path
    assert KeeperFolder(tmp_path).path == here
    monkeypatch.setattr("nbsessions.keeper.folder.boot_id", lambda: "another")
    assert KeeperFolder(tmp_path).path != here


def test_failures_leave_no_descriptor(tmp_path: Path) -> None:
    folder = KeeperFolder(tmp_path)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        folder.bind()
    with pytest.raises(FileNotFoundError):
        folder.connect(5.0)
    assert os.listdir("/proc/self/fd") == before
