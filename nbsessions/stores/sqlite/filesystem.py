"""Detects local file systems, where SQLite's WAL mode is safe."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

_LOCAL_TYPES = {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "nilfs2", "overlay"}
_LOCAL_TYPES |= {"ramfs", "reiserfs", "tmpfs", "xfs", "zfs"}
_MOUNTS = Path("/proc/self/mountinfo")


def is_local(folder: Path, mounts: Path = _MOUNTS) -> bool:
    """Return whether the folder is certainly on a local file system."""
    if sys.platform == "darwin":
        import psutil  # slow to import, and needed only here

        partitions = psutil.disk_partitions(all=True)
        return is_local_among(folder, [(each.mountpoint, each.opts) for each in partitions])
    return _type_of(folder, mounts) in _LOCAL_TYPES


def is_local_among(folder: Path, mounts: Iterable[tuple[str, str]]) -> bool:
    """Return whether the folder's mount point has the option "local", as on macOS.

    ``mounts`` are pairs of a mount point and its options.
    """
    real = os.path.realpath(folder)
    around = [(point, options) for point, options in mounts if _is_inside(real, point)]
    _, options = max(around, key=lambda mount: len(mount[0]), default=("", ""))
    return "local" in options.split(",")


def _is_inside(path: str, point: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")


def _type_of(folder: Path, mounts: Path) -> str | None:
    """Return the type of the folder's file system, or None if it cannot be determined."""
    try:
        table = os.fsdecode(mounts.read_bytes())
    except OSError:
        return None
    real = os.path.realpath(folder)
    best, best_type = "", None
    for line in filter(None, table.split("\n")):
        # proc(5): "36 35 98:0 /root /mount/point options … - type source options"
        left, _, right = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), left.split(" ")[4])
        if _is_inside(real, point) and len(point) >= len(best):
            best, best_type = point, right.split(" ")[0]
    return best_type
