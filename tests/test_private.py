"""Folders and files are used only if nobody else can have made or changed them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nbsessions.private import (
    PrivateFolder,
    Untrusted,
    check_file,
    follow_own_link,
    is_open_to_all,
    is_ours,
    is_owned,
    open_file,
)


@pytest.fixture
def folder(tmp_path: Path) -> PrivateFolder:
    """A folder in a folder, neither of which exists."""
    return PrivateFolder(tmp_path / "runtime" / "nbsessions").folder("kernels")


def someone_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the files that there are belong to somebody else."""
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)


def test_a_new_folder_is_for_its_user_only(folder: PrivateFolder) -> None:
    before = os.umask(0)
    try:
        folder.make()
        folder.make()
    finally:
        os.umask(before)
    for path in (folder.path, folder.path.parent):
        assert path.stat().st_mode & 0o777 == 0o700


def test_files_are_made_listed_replaced_and_removed(folder: PrivateFolder) -> None:
    folder.make()
    os.close(folder.open("b", os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    os.close(folder.open("a", os.O_WRONLY | os.O_CREAT))
    assert folder.list_names() == ["a", "b"]
    assert folder.status("a").st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        folder.open("a", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    folder.replace("a", "b")
    assert folder.list_names() == ["b"]
    folder.remove("b")
    assert folder.list_names() == []


def test_a_missing_folder_has_no_files(folder: PrivateFolder) -> None:
    assert folder.list_names() == []
    with pytest.raises(FileNotFoundError):
        folder.open("a", os.O_RDONLY)


def test_errors_name_the_whole_path(folder: PrivateFolder) -> None:
    folder.make()
    with pytest.raises(FileNotFoundError) as missing:
        folder.remove("a")
    assert missing.value.filename == str(folder.path / "a")


@pytest.mark.parametrize("level", ["kernels", "nbsessions"])
@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda path: path.chmod(0o720), "others can change the files in .* \\(mode 720\\)"),
        (lambda path: path.chmod(0o1777), "others can change the files in"),
        (lambda path: link_instead(path), "is a symbolic link"),
        (lambda path: file_instead(path), "is not a folder"),
    ],
)
def test_a_folder_that_others_could_have_made_is_refused(
    folder: PrivateFolder, level: str, spoil: Callable[[Path], object], problem: str
) -> None:
    folder.make()
    spoil(folder.path if level == "kernels" else folder.path.parent)
    for use in (folder.make, folder.list_names, lambda: folder.open("a", os.O_RDONLY)):
        with pytest.raises(Untrusted, match=problem):
            use()


def link_instead(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def file_instead(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.touch()


def test_a_folder_of_another_user_is_refused(
    folder: PrivateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.make()
    someone_else(monkeypatch)
    with pytest.raises(Untrusted, match="belongs to another user"):
        folder.list_names()


def test_a_folder_that_is_exchanged_in_use_stays_the_same(folder: PrivateFolder) -> None:
    folder.make()
    with folder.opened() as descriptor:
        folder.path.rename(folder.path.with_name("away"))
        folder.path.mkdir()
        name = "a"
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=descriptor))
    assert folder.list_names() == []
    assert (folder.path.with_name("away") / name).exists()


@pytest.mark.parametrize("target", ["a file", "missing"])
def test_a_link_is_not_opened(tmp_path: Path, target: str) -> None:
    (tmp_path / "a file").write_text("mine")
    link = tmp_path / "link"
    link.symlink_to(target)
    for flags in (os.O_RDONLY, os.O_RDWR | os.O_CREAT):
        with pytest.raises(Untrusted, match="is a symbolic link"):
            open_file(link, flags)
    assert not (tmp_path / "missing").exists()


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(Untrusted, match="is not a regular file"):
        open_file(tmp_path, os.O_RDONLY)


def test_a_file_with_a_second_name_is_refused_where_that_matters(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    (tmp_path / "link").hardlink_to(tmp_path / "precious")
    with pytest.raises(Untrusted, match="has several names"):
        open_file(tmp_path / "link", os.O_RDWR, alone=True)
    os.close(open_file(tmp_path / "link", os.O_RDWR))


def test_own_links_are_followed_and_those_of_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").symlink_to(".")
    (tmp_path / "link").symlink_to("target")
    given = tmp_path / "folder" / "link"
    assert follow_own_link(given) == tmp_path / "target"
    assert follow_own_link(tmp_path / "folder" / "missing") == tmp_path / "missing"
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    # As on a network file system that shows one owner for all files.
    assert follow_own_link(given) == tmp_path / "target"
    if uid == 0:
        os.chown(tmp_path / "link", 65534, -1, follow_symlinks=False)
        assert follow_own_link(given) == tmp_path / "link"


def test_a_folder_is_open_to_all_if_its_mode_says_so(tmp_path: Path) -> None:
    for mode, expected in ((0o700, False), (0o770, False), (0o1777, True), (0o777, True)):
        tmp_path.chmod(mode)
        assert is_open_to_all(tmp_path.stat(), tmp_path) == expected
    tmp_path.chmod(0o700)


def test_the_mode_says_nothing_if_new_files_have_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o777)
    status = tmp_path.stat()
    # As on a network file system that shows one mode for all files.
    monkeypatch.setattr(os, "fstat", lambda descriptor: status)
    assert not is_open_to_all(status, tmp_path)


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR | os.O_CREAT])
def test_a_named_pipe_is_not_waited_for(tmp_path: Path, flags: int) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Untrusted, match="is not a regular file"):
        open_file(tmp_path / "pipe", flags)


def test_no_descriptor_is_left_open(folder: PrivateFolder, tmp_path: Path) -> None:
    folder.make()
    (folder.path / "link").symlink_to(tmp_path)
    (folder.path / "folder").mkdir()
    before = len(os.listdir("/dev/fd"))
    for name in ("link", "folder", "missing"):
        with pytest.raises(OSError, match=name):
            folder.open(name, os.O_RDONLY)
    assert len(os.listdir("/dev/fd")) == before


def test_a_file_of_another_user_is_refused_in_a_private_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    status = file.stat()
    assert is_owned(status)
    someone_else(monkeypatch)
    assert not is_owned(status)
    with pytest.raises(Untrusted, match="belongs to another user"):
        check_file(file, status, trusts=is_owned)


def test_files_are_ours_if_new_ones_get_the_same_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a network file system that shows one owner for all files.
    file = tmp_path / "file"
    file.touch()
    someone_else(monkeypatch)
    check_file(file, file.stat())
    assert is_ours(tmp_path.stat(), tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC])
def test_files_are_not_ours_if_none_can_be_made_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*arguments: object, **options: object) -> int:
        raise OSError(code, os.strerror(code))

    someone_else(monkeypatch)
    monkeypatch.setattr(os, "open", refuse)
    if code == errno.EROFS:
        assert not is_ours(tmp_path.stat(), tmp_path)
    else:
        # A disk that is full says nothing.
        with pytest.raises(OSError, match="No space left"):
            is_ours(tmp_path.stat(), tmp_path)
