"""Real Jupyter servers in their own folders, which tests start, stop and kill."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

import psutil
import pytest

from support.environments import REPOSITORY, Host, host
from support.ports import reserve_server_port
from support.rest import RestClient
from support.waiting import wait_until

SUPPORT = Path(__file__).parent
TOKEN = "a-token-of-the-tests"  # protects a short-lived server on the loopback interface
_QUIET = ("jupyterlab", "jupyter_lsp", "jupyter_server_terminals", "notebook", "notebook_shim")
_START_TIMEOUT = 60.0
_SHOWN_LINES = 400
# Root, without what puts it above permissions.
AS_A_USER = (
    ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner"]
    if os.geteuid() == 0
    else []
)
# The host logs each reply with status 500 or above, after the headers of its request.
_ACCESS_LOG = re.compile(r"App\] (\{$|5\d\d [A-Z]+ /)")
# Matches tracebacks of our code. Kernels write to the same log, and often die with their own
# tracebacks. When a kernel fails to start, the host logs a traceback that passes through
# start_kernel and launch_kernel, so these two methods of ours do not count.
_OUR_TRACEBACK = re.compile(
    rf'\s+File "({re.escape(str(REPOSITORY))}|.*/site-packages)/nbsessions/'
    r".*(?<!in start_kernel)(?<!in launch_kernel)$"
)
# jupyter_server 2.14 adds the traceback of each error that it answers to a warning.
_ANSWERS_MISSING = re.compile(r"\[W .*App\] wrote error: 'Kernel does not exist: ")


def _without_answers(lines: Iterable[str]) -> Iterator[str]:
    """Leave out the tracebacks of answers to requests for kernels that do not exist."""
    is_answer = False
    for line in lines:
        if line.startswith("["):
            is_answer = bool(_ANSWERS_MISSING.match(line))
        if not is_answer:
            yield line


def _continues(line: str) -> bool:
    return not line.startswith("[")


_KEEPER = "nbsessions.keeper"


class Server(RestClient):
    """One server. Its folders outlive its process, so it can be started again."""

    def __init__(
        self,
        folder: Path,
        host: Host,
        *,
        base_url: str = "/",
        data_dir: Path | None = None,
        root_dir: Path | None = None,
        config: Mapping[str, Mapping[str, Any]] | None = None,
        extensions: Mapping[str, bool] | None = None,
        environment: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        wrapper: Sequence[str] = (),
        measured: bool = True,
    ) -> None:
        """``wrapper`` is a command that runs the server's command and must become its process.

        ``measured`` means that coverage is measured, which slows the server down.
        """
        super().__init__(base_url=base_url, token=TOKEN)
        self.host = host
        self.folder = folder
        self.data_dir = data_dir or folder / "data"
        self.root_dir = root_dir or folder / "root"
        self.runtime_dir = folder / "runtime"
        self.config_dir = folder / "config"
        self._log_file = folder / "server.log"
        self._log_start = 0
        self.environment = dict(environment or {})
        self._arguments = arguments
        self.wrapper = wrapper
        self._process: subprocess.Popen[bytes] | None = None
        self._port_holder: socket.socket | None = None
        self._allowed_errors: list[str] = []
        self.measured = measured
        for each in (self.data_dir, self.root_dir, self.runtime_dir, self.config_dir):
            each.mkdir(parents=True, exist_ok=True)
        self._write_kernelspecs()
        self.configure(config or {}, extensions or {})

    python_path = (str(SUPPORT.parent), str(SUPPORT / "startup"))
    """The folders of modules that the server can import besides those of its environment."""

    # Life

    def start(self, *, again: bool = False) -> Server:
        """Start the server and wait until it answers.

        It gets a free port, or with ``again`` the port of its last start.
        """
        assert not self.is_running, "runs already"
        self._log_start = len(self._log_file.read_bytes()) if self._log_file.exists() else 0
        if not again:
            self._give_up_port()
            self._port_holder = reserve_server_port()
            self.port = self._port_holder.getsockname()[1]
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self.wrapper,
                    self.host.python,
                    "-m",
                    self.host.module,
                    f"--port={self.port}",
                    *self._arguments,
                ],
                cwd=self.folder,
                env=self._full_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._answers, f"{self.folder.name} answers", timeout=_START_TIMEOUT)
        return self

    def stop(self) -> int:
        """End the server with SIGTERM and return its exit code."""
        return self.signal(signal.SIGTERM)

    def terminate(self) -> None:
        """Send SIGTERM, without waiting for the server to end."""
        self.send_signal(signal.SIGTERM)

    def send_signal(self, signum: int) -> None:
        """Send a signal, without waiting for the server to end."""
        assert self._process is not None
        self._process.send_signal(signum)

    def signal(self, signum: int) -> int:
        """Send a signal, wait until the server ends, and return its exit code."""
        self.send_signal(signum)
        return self._ended()

    def kill(self) -> None:
        """End the server with SIGKILL."""
        self.signal(signal.SIGKILL)

    def wait_for_end(self) -> int:
        """Wait until the server has ended by itself, and return its exit code."""
        return self._ended()

    @property
    def is_running(self) -> bool:
        """Whether the process is running."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The id of the process."""
        assert self._process is not None
        return self._process.pid

    def _ended(self) -> int:
        assert self._process is not None
        try:
            return self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the server did not end:\n{self.log}")

    def _answers(self) -> bool:
        if not self.is_running:
            pytest.fail(f"the server ended:\n{self.log}")
        return self.answers()

    def explain_silence(self) -> str:
        """Let the server log where it is, and return the end of its log."""
        if self.is_running:
            before = len(self.log)
            self.send_signal(signal.SIGUSR2)
            with suppress(AssertionError):
                wait_until(lambda: "== end of tasks" in self.log[before:], "it tells", timeout=5)
        return "\n".join(self.log.splitlines()[-_SHOWN_LINES:])

    def run(self, *arguments: str) -> str:
        """Run the server's Python with the server's environment, and return all its output."""
        ran = subprocess.run(
            [self.host.python, *arguments],
            cwd=self.folder,
            env=self._full_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_START_TIMEOUT,
            check=True,
            text=True,
        )
        return ran.stdout

    # Its files, log and kernels

    @property
    def store(self) -> Path:
        """The file that sessions are kept in by default."""
        return self.data_dir / "nbsessions" / "sessions.db"

    @property
    def log(self) -> str:
        """What the server has logged since its last start."""
        return self._log_file.read_bytes()[self._log_start :].decode()

    def log_lines(self, level: str, pattern: str = "") -> list[str]:
        """Return the log lines of a level (``I``, ``W`` or ``E``) that match the pattern."""
        lines = [line for line in self.log.splitlines() if line.startswith(f"[{level} ")]
        return [line for line in lines if re.search(pattern, line)]

    def allow_errors(self, pattern: str) -> None:
        """Allow ERROR lines that match the pattern, because the test provokes them."""
        self._allowed_errors.append(pattern)

    def unexpected_errors(self) -> list[str]:
        """Return unexpected ERROR lines, and lines of tracebacks in our code, from all runs.

        Each comes with the rest of its traceback.
        """
        text = self._log_file.read_text() if self._log_file.exists() else ""
        lines = list(_without_answers(text.splitlines()))
        return [
            "\n".join([line, *takewhile(_continues, lines[number:])])
            for number, line in enumerate(lines, 1)
            if (line.startswith("[E ") or _OUR_TRACEBACK.match(line))
            and not _ACCESS_LOG.search(line)
            and not any(re.search(each, line) for each in self._allowed_errors)
        ]

    def kernel_processes(self) -> list[psutil.Process]:
        """Return the kernel processes that this server has started in any run."""
        return list(self.kernel_commands())

    def kernel_commands(self) -> dict[psutil.Process, str]:
        """Return the command line of each kernel process.

        It is read only once, because a process may end at any moment.
        """
        found = {}
        for process in psutil.process_iter():
            try:
                # A zombie has no command line.
                found[process] = " ".join(process.cmdline())
            except psutil.Error:
                continue
        own = self._process and self._process.pid
        return {
            process: line
            for process, line in found.items()
            if str(self.runtime_dir) in line and process.pid != own and _KEEPER not in line
        }

    def keeper_process(self) -> psutil.Process | None:
        """Return the process that keeps what the kernels say, or None if there is none."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                line = process.cmdline()
                if _KEEPER in line and str(self.runtime_dir / "nbsessions") in line:
                    return process
        return None

    def wait_for_kernels(self, count: int) -> None:
        """Wait until exactly ``count`` kernels are left, both as processes and as records."""

        def numbers() -> set[int]:
            return {len(self.kernel_processes()), len(self.kernel_records())}

        wait_until(lambda: numbers() == {count}, f"{count} kernels are left")

    def kernel_records(self) -> set[str]:
        """Return the ids of the kernels that have a record."""
        return {path.stem for path in self.runtime_dir.glob("nbsessions/kernels/*.json")}

    def registry_files(self) -> list[Path]:
        """Return the files of kernels and of the servers that have them."""
        folders = (self.runtime_dir / "nbsessions" / name for name in ("kernels", "servers"))
        return [file for folder in folders for file in folder.glob("*")]

    def kept_files(self) -> list[Path]:
        """Return the files with what kernels have said, and who has got it."""
        folders = self.runtime_dir.glob("nbsessions/keeper-*/*/")
        return [file for folder in folders for file in folder.glob("*")]

    def kernel_record(self, kernel_id: str) -> dict[str, Any]:
        """Return the record of the kernel."""
        file = self.runtime_dir / "nbsessions" / "kernels" / f"{kernel_id}.json"
        record: dict[str, Any] = json.loads(file.read_text())
        return record

    def kill_kernels(self) -> None:
        """Kill all kernels, as when a container ends. Their records remain."""
        for process in self.kernel_processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        wait_until(lambda: not self.kernel_processes(), "no kernel process is left")

    def _give_up_port(self) -> None:
        if self._port_holder is not None:
            self._port_holder.close()
            self._port_holder = None

    def clean_up(self) -> None:
        """Kill everything that is still running."""
        self._give_up_port()
        if self._process is not None:
            if self.is_running:
                self._process.kill()
            self._process.wait()
        keeper = self.keeper_process()
        for process in [*self.kernel_processes(), *([keeper] if keeper else [])]:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    # Set-up

    def configure(
        self, config: Mapping[str, Mapping[str, Any]], extensions: Mapping[str, bool]
    ) -> None:
        """Rewrite the user's configuration for the next start."""
        quiet = dict.fromkeys(_QUIET, False)
        # The application being started is an extension itself.
        quiet.pop(self.host.module, None)
        application = {
            "base_url": self.base_url,
            "ip": "127.0.0.1",
            "port_retries": 0,
            "open_browser": False,
            "allow_root": True,
            self.host.root_dir: str(self.root_dir),
            self.host.extensions: {**quiet, **extensions},
        }
        if self.host.module == "notebook":
            application["show_banner"] = False
        merged = {section: dict(options) for section, options in config.items()}
        merged[self.host.application] = {**application, **merged.get(self.host.application, {})}
        (self.config_dir / self.host.config_file).write_text(json.dumps(merged, indent=2))

    def _write_kernelspecs(self) -> None:
        specs = {
            "light": [self.host.python, str(SUPPORT / "light_kernel.py"), "{connection_file}"],
            "broken": ["/nowhere/to-be-found", "{connection_file}"],
            "stubborn": [
                self.host.python,
                str(SUPPORT / "light_kernel.py"),
                "{connection_file}",
                "--stubborn",
            ],
            "bash": [self.host.python, "-m", "bash_kernel", "-f", "{connection_file}"],
            "ir": ["R", "--slave", "-e", "IRkernel::main()", "--args", "{connection_file}"],
        }
        for name, argv in specs.items():
            folder = self.data_dir / "kernels" / name
            folder.mkdir(parents=True, exist_ok=True)
            spec = {"argv": argv, "display_name": name, "language": "python"}
            (folder / "kernel.json").write_text(json.dumps(spec))

    def _full_environment(self) -> dict[str, str]:
        own = {
            "JUPYTER_CONFIG_PATH": str(REPOSITORY / "etc" / "jupyter"),
            "JUPYTER_CONFIG_DIR": str(self.config_dir),
            "JUPYTER_DATA_DIR": str(self.data_dir),
            "JUPYTER_RUNTIME_DIR": str(self.runtime_dir),
            "JUPYTER_TOKEN": self.token,
            "IPYTHONDIR": str(self.folder / "ipython"),
            "PYTHONPATH": os.pathsep.join(self.python_path),
            **self.environment,
        }
        inherited = {
            (f"MEASURE_{name}" if name.startswith("COVERAGE_") else name): value
            for name, value in os.environ.items()
            if not name.startswith(("JUPYTER", "JPY_", "PYTEST", "PYTHON"))
            if self.measured or not name.startswith("COVERAGE_")
        }
        return {**inherited, **own}


class StartServer(Protocol):
    """Starts a server that ends with the fixture. Takes the options of Server."""

    def __call__(self, host_name: str = "newest", *, start: bool = True, **options: Any) -> Server:
        """Return the server. It is running unless ``start`` is false."""


@contextmanager
def servers_in(folder: Path) -> Iterator[StartServer]:
    """Yield a function that starts servers. Then check their logs for errors and end them."""
    servers: list[Server] = []

    def start_server(host_name: str = "newest", *, start: bool = True, **options: Any) -> Server:
        server = Server(folder / f"server{len(servers)}", host(host_name), **options)
        servers.append(server)
        return server.start() if start else server

    try:
        yield start_server
        unexpected = [line for server in servers for line in server.unexpected_errors()]
        if unexpected:
            pytest.fail("\n".join(["Unexpected errors in the log:", *unexpected]))
    finally:
        for server in servers:
            server.clean_up()


def remove_at_once(folder: Path) -> None:
    """Remove a folder in one step, so that no server writes into it while it is being emptied."""
    aside = folder.with_name(f"{folder.name} removed")
    folder.rename(aside)
    shutil.rmtree(aside)


@contextmanager
def forbidden(*paths: Path) -> Iterator[None]:
    """Take the permissions from files and folders, as if they were another user's."""
    modes = {path: path.stat().st_mode for path in paths}
    for path in reversed(paths):
        path.chmod(0)
    try:
        yield
    finally:
        for path in paths:
            if path.parent.exists() and path.exists():
                path.chmod(modes[path])


def strace_or_fail() -> str:
    """Return the path of strace. Fails the test with a hint if it is missing."""
    path = shutil.which("strace")
    if path is None:
        pytest.fail("This test needs strace: apt-get install strace", pytrace=False)
    return path
