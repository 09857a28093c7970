"""Which folders count as local, and the location of the default file."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest

from nbsessions.stores import memory
from nbsessions.stores.sqlite import location
from nbsessions.stores.sqlite.filesystem import is_local, is_local_among
from nbsessions.stores.sqlite.location import default_file, store_from_url

ROOT = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw"


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    """A mount table in the format of Linux, with only the root mounted."""
    table = tmp_path / "mountinfo"
    table.write_text(ROOT + "\n")
    return table


def mount(mounts: Path, point: str, kind: str) -> None:
    with mounts.open("ab") as table:
        line = f"40 27 0:50 / {point} rw shared:1 master:2 - {kind} source rw\n"
        table.write(line.encode(errors="surrogateescape"))


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay"])
def test_a_folder_on_a_disk_is_local(mounts: Path, kind: str) -> None:
    mount(mounts, "/data", kind)
    assert is_local(Path("/data/folder"), mounts)


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "lustre", "ceph", "unheard-of"]
)
def test_a_folder_on_anything_else_is_not_local(mounts: Path, kind: str) -> None:
    mount(mounts, "/home", kind)
    assert not is_local(Path("/home"), mounts)
    assert not is_local(Path("/home/someone/folder"), mounts)
    assert is_local(Path("/homes/someone"), mounts)


def test_the_innermost_mount_counts(mounts: Path) -> None:
    mount(mounts, "/home/someone/scratch", "ext4")
    mount(mounts, "/home", "nfs")
    assert is_local(Path("/home/someone/scratch/folder"), mounts)
    assert not is_local(Path("/home/someone"), mounts)


def test_of_two_mounts_on_one_point_the_later_counts(mounts: Path) -> None:
    mount(mounts, "/data", "ext4")
    mount(mounts, "/data", "nfs")
    assert not is_local(Path("/data"), mounts)


def test_a_link_is_followed(mounts: Path, tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    link = tmp_path / "link"
    link.symlink_to(real)
    mount(mounts, str(real.resolve()), "nfs")
    assert not is_local(link, mounts)


@pytest.mark.parametrize(
    ("folder", "escaped"),
    [
        ("/my data", r"/my\040data"),
        ("/back\\slash", r"/back\134slash"),
        ("/Übung/データ", "/Übung/データ"),
        ("/bytes\udcff", "/bytes\udcff"),
        ("/line\u2028separator", "/line\u2028separator"),
    ],
)
def test_any_name_of_a_mount_point_is_understood(mounts: Path, folder: str, escaped: str) -> None:
    mount(mounts, escaped, "nfs")
    assert not is_local(Path(folder), mounts)
    assert is_local(Path("/elsewhere"), mounts)


def test_without_a_table_of_mounts_nothing_is_known_to_be_local(tmp_path: Path) -> None:
    assert not is_local(tmp_path, tmp_path / "missing")


def test_the_default_file_is_in_our_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(location, "is_local", lambda folder: asked.append(folder) or True)
    folder = tmp_path / "not" / "yet"
    assert default_file(folder) == folder / "sessions.db"
    assert asked == [tmp_path]


def test_where_hosts_may_share_the_folder_each_has_its_file_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(location, "is_local", lambda folder: False)
    monkeypatch.setattr(location, "machine_key", lambda: "0123456789ab")
    monkeypatch.setattr(socket, "gethostname", lambda: "in-a-cafe")
    assert default_file(tmp_path) == tmp_path / "sessions-0123456789ab.db"


@pytest.mark.parametrize(
    ("folder", "local"),
    [
        ("/Users/me", True),
        ("/Volumes/share/me", False),
        ("/Volumes/shared", True),
        ("/Volumes/share/disk/me", True),
        ("/net/home/me", False),
    ],
)
def test_macos_tells_which_file_systems_are_local(folder: str, local: bool) -> None:
    mounts = [
        ("/", "ro,local,rootfs,dovolfs,journaled,multilabel"),
        ("/Volumes/share/disk", "rw,local"),
        ("/Volumes/share", "rw,nosuid,nodev,multilabel"),
        ("/net", "rw,automounted"),
    ]
    assert is_local_among(Path(folder), mounts) is local


def test_without_a_mount_nothing_is_known_to_be_local() -> None:
    assert not is_local_among(Path("/Users/me"), [])


def test_a_store_in_memory_is_made_from_a_url() -> None:
    log = logging.getLogger()
    stores = [memory.store_from_url("memory:", namespace="namespace", log=log) for _ in range(2)]
    assert stores[0] is not stores[1]


def test_a_store_is_made_from_a_url(tmp_path: Path) -> None:
    url = (tmp_path / "a b%.db").as_uri().replace("file://", "sqlite://")
    store = store_from_url(url, namespace="namespace", log=logging.getLogger())
    assert store.path == tmp_path / "a b%.db"
    store.close()
