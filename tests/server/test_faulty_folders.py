"""Whatever error the system reports for our folders when a server starts: Jupyter is there.

And what an earlier server left is found again once the error has passed.
"""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.server import SUPPORT, Server, StartServer

ERRORS = {
    "open": """EACCES EAGAIN EBUSY EDQUOT EFBIG EINVAL EIO EISDIR ELOOP EMFILE ENAMETOOLONG ENFILE
        ENODEV ENOENT ENOMEM ENOSPC ENOTDIR ENXIO EOVERFLOW EPERM EROFS ESTALE ETXTBSY""",
    "mkdir": """EACCES EDQUOT EEXIST EINVAL EIO ELOOP EMLINK ENAMETOOLONG ENOENT ENOSPC ENOTDIR
        EPERM EROFS""",
    "stat": "EACCES EIO ELOOP ENAMETOOLONG ENOENT ENOMEM ENOTDIR EOVERFLOW ESTALE",
    "rename": "EACCES EBUSY EDQUOT EIO EISDIR ENOENT ENOSPC ENOTDIR EPERM EROFS ESTALE EXDEV",
    "flock": "EAGAIN EBADF EINVAL EIO ENOLCK ENOSYS EOPNOTSUPP EPERM ESTALE",
}
BOTH, RUNTIME, DATA = "both folders", "the runtime folder", "the data folder"
CASES = [
    *((BOTH, call, errors.split()) for call, errors in ERRORS.items()),
    *((RUNTIME, call, ["EACCES", "EIO"]) for call in ERRORS),
    # Servers rename no files there.
    *((DATA, call, ["EACCES", "EIO"]) for call in ERRORS if call != "rename"),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes system calls fail."""
    if not sys.platform.startswith("linux") or shutil.which("gcc") is None:
        pytest.fail("This test needs Linux and gcc: apt-get install gcc libc6-dev", pytrace=False)
    built = tmp_path_factory.mktemp("library") / "faulty_files.so"
    source = SUPPORT / "faulty_files.c"
    command = ["gcc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", built, source, "-ldl"]
    subprocess.run(command, check=True)
    return built


def _check_is_up(server: Server) -> None:
    """Kernels can be used, and sessions are there or said to be unavailable."""
    kernel = server.request("POST", "/api/kernels", {"name": "light"})
    assert kernel.status == 201
    # If the log says so, a request would be answered with 503 after some seconds.
    if not server.log_lines("W", "Sessions are not available"):
        reply = server.request("GET", "/api/sessions")
        assert reply.status in (200, 503), reply.body
    path = f"/api/kernels/{kernel.json()['id']}"
    assert server.request("DELETE", path).status == 204


@pytest.mark.parametrize(("which", "call", "errors"), CASES)
def test_a_server_starts_whatever_error_its_folders_have(
    start_server: StartServer, library: Path, which: str, call: str, errors: list[str]
) -> None:
    server = start_server()
    server.allow_errors("kept in memory")
    model = server.create("a.ipynb", "python3")
    assert server.execute(model["kernel"]["id"], "x = 42; x") == "42"
    server.kill()

    runtime, data = server.runtime_dir / "nbsessions", server.data_dir / "nbsessions"
    folders = {BOTH: [runtime, data], RUNTIME: [runtime], DATA: [data]}[which]
    if call == "mkdir":
        for folder in folders:
            folder.rename(folder.with_name("aside"))
    usual, server.measured = dict(server.environment), False
    for name in errors:
        server.environment.update(
            LD_PRELOAD=str(library),
            FAULTY_CALL=call,
            FAULTY_ERRNO=str(getattr(errno, name)),
            FAULTY_FOLDERS=":".join(map(str, folders)),
        )
        server.start()
        _check_is_up(server)
        assert f"faulty_files: {call} " in server.log
        server.kill()

    if call == "mkdir":
        for folder in folders:
            assert not folder.exists()
            folder.with_name("aside").rename(folder)
    server.environment = usual
    server.start()
    assert [each["id"] for each in server.list_sessions()] == [model["id"]]
    assert server.execute(model["kernel"]["id"], "x") == "42"
