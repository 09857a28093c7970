"""Tells whether a folder is on a local file system, where SQLite's WAL mode is safe."""

from __future__ import annotations

import os
import re
from pathlib import Path

_LOCAL_TYPES = {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "nilfs2", "overlay"}
_LOCAL_TYPES |= {"ramfs", "reiserfs", "tmpfs", "xfs", "zfs"}
_MOUNTS = Path("/proc/self/mountinfo")


def is_local(folder: Path, mounts: Path = _MOUNTS) -> bool:
    """Return whether the folder is known to be on a local file system; False when unsure."""
    return _type_of(folder, mounts) in _LOCAL_TYPES


def _type_of(folder: Path, mounts: Path) -> str | None:
    """Return the type of the file system of the folder, None where the platform does not tell."""
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
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, best_type = point, right.split(" ")[0]
    return best_type
