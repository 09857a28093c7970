"""Folders and files that other users cannot have tampered with.

Others may be able to create files next to ours, for example if the runtime directory is a shared
folder such as /tmp. A folder or file is therefore checked before it is used: on the descriptor
through which it is then used, so that it cannot be exchanged after the check.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

SUPPORTED = hasattr(os, "geteuid") and os.open in os.supports_dir_fd
"""Whether the platform has file owners, and functions that take a folder's descriptor."""

NO_LINK = getattr(os, "O_NOFOLLOW", 0)
"""The flag that makes ``os.open`` fail for a symbolic link. 0 if the platform has none."""

Trusts: TypeAlias = Callable[[os.stat_result], bool]
"""Returns whether the owner of a file is trusted."""

_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | NO_LINK
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Untrusted(PermissionError):
    """Another user may have made or changed a file or folder."""


class PrivateFolder:
    """A folder of files that only this user can change.

    Each use opens the folder anew and checks it, because it may be removed or replaced at any
    time. All methods block. They raise Untrusted, and OSError as the functions of ``os`` do.
    """

    def __init__(self, path: Path, *, parent: PrivateFolder | None = None) -> None:
        """``parent``: the folder that this one is in, if that must be private, too."""
        self.path = path
        self._parent = parent

    def folder(self, name: str) -> PrivateFolder:
        """Return a folder in this one."""
        return PrivateFolder(self.path / name, parent=self)

    def make(self) -> None:
        """Create the folder, and those it is in, unless they exist."""
        try:
            with self.opened():
                return
        except FileNotFoundError:
            self._make()
        with self.opened():
            pass

    def _make(self) -> None:
        if self._parent is None:
            # `mode` does not apply to other parents that are created. The umask determines theirs.
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        else:
            self._parent.make()
            with self._parent.opened() as parent, contextlib.suppress(FileExistsError):
                os.mkdir(self.path.name, 0o700, dir_fd=parent)

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """Yield a descriptor of the folder, after checking it."""
        if not SUPPORTED:
            raise FileNotFoundError(f"{self.path} is not used on this platform")
        with contextlib.ExitStack() as stack:
            if self._parent is None:
                descriptor = _open_folder(self.path)
            else:
                descriptor = _open_folder(self.path, stack.enter_context(self._parent.opened()))
            stack.callback(os.close, descriptor)
            try:
                yield descriptor
            except OSError as error:
                if error.errno is not None:
                    # The name is relative to the descriptor, or it is the descriptor.
                    name = error.filename if isinstance(error.filename, str) else ""
                    error.filename = str(self.path / name)
                raise

    # Files in the folder

    def open(self, name: str, flags: int, *, alone: bool = False) -> int:
        """Open a regular file and return its descriptor. A new file has mode 0600.

        For ``alone``, see ``check_file``.
        """
        with self.opened() as folder:
            return open_file(self.path / name, flags, folder=folder, trusts=is_owned, alone=alone)

    def list_names(self) -> list[str]:
        """Return the names of all files. A folder that does not exist has none."""
        try:
            with self.opened() as folder:
                return sorted(os.listdir(folder))
        except FileNotFoundError:
            return []

    def status(self, name: str) -> os.stat_result:
        """Return the status of a file, or of a symbolic link itself."""
        with self.opened() as folder:
            return os.stat(name, dir_fd=folder, follow_symlinks=False)

    def touch(self, name: str) -> None:
        """Set the time of the file's last modification to now."""
        with self.opened() as folder:
            os.utime(name, dir_fd=folder, follow_symlinks=False)

    def replace(self, name: str, new_name: str) -> None:
        """Rename a file, replacing a file with the new name."""
        with self.opened() as folder:
            os.replace(name, new_name, src_dir_fd=folder, dst_dir_fd=folder)

    def remove(self, name: str) -> None:
        """Remove a file."""
        with self.opened() as folder:
            os.unlink(name, dir_fd=folder)


def open_file(
    path: Path,
    flags: int,
    *,
    folder: int | None = None,
    trusts: Trusts | None = None,
    alone: bool = False,
) -> int:
    """Open a regular file of this user, which is not a symbolic link. Return its descriptor.

    A new file has mode 0600. ``folder`` is a descriptor of the folder that the file is in, if
    there is one. For the other arguments, see ``check_file``. Raises Untrusted and OSError.
    """
    name = path if folder is None else path.name
    try:
        # Opening a named pipe must not wait for its other end.
        descriptor = os.open(name, flags | NO_LINK | _NO_WAIT, 0o600, dir_fd=folder)
    except OSError:
        if os.path.islink(path):
            raise Untrusted(f"{path} is a symbolic link") from None
        raise
    try:
        check_file(path, _status(descriptor, path), trusts=trusts, alone=alone)
        if _NO_WAIT:
            os.set_blocking(descriptor, True)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_file(
    path: Path, status: os.stat_result, *, trusts: Trusts | None = None, alone: bool = False
) -> None:
    """Raise Untrusted unless the status is that of a regular file of this user.

    ``trusts`` decides about the owner. The default is ``is_ours``. With ``alone``, the file may
    have only one name: where others can create names, they may have linked a file of this user.
    """
    if stat.S_ISLNK(status.st_mode):
        raise Untrusted(f"{path} is a symbolic link")
    if not stat.S_ISREG(status.st_mode):
        raise Untrusted(f"{path} is not a regular file")
    if alone and status.st_nlink > 1:
        raise Untrusted(f"{path} has several names (hard links)")
    if not (trusts(status) if trusts else is_ours(status, path.parent)):
        raise Untrusted(f"{path} belongs to another user")


def follow_own_link(path: Path) -> Path:
    """Return the real path. If its last component is another user's link, leave it in place.

    A link of root counts as the user's own.
    """
    path = Path(os.path.realpath(path.parent), path.name)
    try:
        status = path.lstat()
    except OSError:
        return path
    if not stat.S_ISLNK(status.st_mode):
        return path
    try:
        trusted = status.st_uid == 0 or is_ours(status, path.parent)
    except OSError:
        trusted = False
    return Path(os.path.realpath(path)) if trusted else path


def is_owned(status: os.stat_result) -> bool:
    """Return whether this user is the owner that the file system shows."""
    return not SUPPORTED or status.st_uid == os.geteuid()


def is_ours(status: os.stat_result, folder: Path) -> bool:
    """Return whether a file in the folder, or the folder itself, belongs to this user.

    Some network file systems show the same owner for all files, whoever created them. Raises
    OSError if that has to be tried and cannot be.
    """
    if is_owned(status):
        return True
    new = _status_of_new_file(folder)
    return new is not None and status.st_uid == new.st_uid


def is_open_to_all(status: os.stat_result, folder: Path) -> bool:
    """Return whether every user can create files in the folder.

    Some network file systems show the same mode for all files. It then says nothing. Raises
    OSError if that has to be tried and cannot be.
    """
    if not SUPPORTED or not status.st_mode & stat.S_IWOTH:
        return False
    new = _status_of_new_file(folder)
    return new is None or not new.st_mode & stat.S_IWOTH


def _open_folder(path: Path, parent: int | None = None) -> int:
    try:
        descriptor = os.open(path if parent is None else path.name, _FOLDER, dir_fd=parent)
    except OSError as error:
        if os.path.islink(path):
            raise Untrusted(f"{path} is a symbolic link") from None
        if isinstance(error, NotADirectoryError):
            raise Untrusted(f"{path} is not a folder") from None
        raise
    try:
        status = _status(descriptor, path)
        if not is_owned(status):
            raise Untrusted(f"{path} belongs to another user")
        if status.st_mode & _OTHERS_WRITE:
            mode = stat.S_IMODE(status.st_mode)
            raise Untrusted(f"others can change the files in {path} (mode {mode:o})")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _status(descriptor: int, path: Path) -> os.stat_result:
    try:
        return os.fstat(descriptor)
    except OSError as error:
        error.filename = str(path)
        raise


def _status_of_new_file(folder: Path) -> os.stat_result | None:
    """Return the status that the file system shows for a file that this user creates there.

    Returns None if this user cannot create files there. Raises OSError.
    """
    file = folder / f".{uuid.uuid4()}"
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINK, 0o600)
    except OSError as error:
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            return None
        raise
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)
        file.unlink(missing_ok=True)
