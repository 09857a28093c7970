"""Every code block and every command of the README, run as it stands there.

Each gets a home folder of its own, and the environments that the README's commands create.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from nbsessions import __version__
from preparation.wheel import PACKAGED
from support.cli import CommandLine
from support.environments import REPOSITORY
from support.nginx import FIRST_LINE, running_nginx
from support.postgres import shared_cluster
from support.rest import RestClient
from support.server import StartServer
from support.waiting import wait_until

README = (REPOSITORY / "README.md").read_text()
BLOCKS = {
    text.split("\n")[0]: text for text in re.findall(r"^```\w*\n(.*?)^```$", README, re.M | re.S)
}
"""The code blocks, by their first lines."""

LAB, CLASSIC, TESTS = (
    next(first for first in BLOCKS if part in first)
    for part in (".venv/lab", ".venv/classic", "tests/run.py")
)
LIST = "$ jupyter nbsessions list"
DATABASE_URL = "postgresql://127.0.0.1/nbsessions"
DATABASE = f"export NBSESSIONS_STORE_URL={DATABASE_URL}"
ALONE = "from nbsessions import SessionManager"
SETTINGS = "from pathlib import Path"
MODULE = "from jupyter_server.services.kernels.kernelmanager import ("
NAMED = 'c.ServerApp.kernel_manager_class = "my_kernels.MyMappingKernelManager"'
PROXY = FIRST_LINE
OFF = "jupyter server extension disable nbsessions"
APPLICATION = "import asyncio"

COMMANDS = set(
    re.findall(r"`((?:jupyter|pip|loginctl) [^`]+)`", re.sub("```.*?```", "", README, flags=re.S))
)
NEED_A_SERVICE_MANAGER = {
    "loginctl enable-linger && systemd-run --user --same-dir -p KillMode=process jupyter lab"
}
"""systemd does not run in the containers that these tests run in."""
OFF_IN_PAGE = "jupyter labextension disable nbsessions"
ON_IN_PAGE = OFF_IN_PAGE.replace("disable", "enable")
IN_CLASSIC = {"jupyter serverextension disable nbsessions"}
NAMES = {"jupyter nbsessions"}
"""These are not meant to be typed as they are."""
AS_ROOT = " --allow-root" if hasattr(os, "geteuid") and os.geteuid() == 0 else ""
"""What the README tells root to append."""

_TIMEOUT = 600.0


def test_each_block_is_tested_here() -> None:
    python = {ALONE, SETTINGS, MODULE, NAMED, APPLICATION}
    tested = {LAB, CLASSIC, TESTS, LIST, PROXY, DATABASE, OFF} | python
    assert set(BLOCKS) == tested


def test_the_readme_has_no_links_that_an_index_page_would_break() -> None:
    assert re.findall(r"\]\((?!https://)[^)]*\)", README) == []


class Home:
    """A user's folders, and a copy of this repository, as after a clone."""

    def __init__(self, folder: Path) -> None:
        self.clone = folder / "clone"
        self._home = folder / "home"
        self._home.mkdir()
        self.clone.mkdir()
        for name in PACKAGED:
            path = REPOSITORY / name
            if path.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
                shutil.copytree(path, self.clone / name, ignore=ignored)
            else:
                shutil.copy(path, self.clone)
        self.runtime_dir = self._home / "runtime"

    def environment(self, venv: str | None = None) -> dict[str, str]:
        path = os.environ["PATH"]
        if venv is not None:
            path = f"{self.clone / '.venv' / venv / 'bin'}{os.pathsep}{path}"
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("JUPYTER", "JPY_", "PYTEST", "PYTHON", "COVERAGE"))
        }
        return {
            **kept,
            "PATH": path,
            "JUPYTER_CONFIG_DIR": str(self._home / "config"),
            "JUPYTER_DATA_DIR": str(self._home / "data"),
            "JUPYTER_RUNTIME_DIR": str(self.runtime_dir),
            "IPYTHONDIR": str(self._home / "ipython"),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }

    def run(self, command: str, venv: str | None = None) -> str:
        """Run a command that ends, and return its output. It has to succeed."""
        ran = subprocess.run(
            ["bash", "-c", command],
            cwd=self.clone,
            env=self.environment(venv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIMEOUT,
            text=True,
        )
        assert ran.returncode == 0, f"{command}\n{ran.stdout}"
        return ran.stdout

    @contextmanager
    def serving(self, command: str) -> Iterator[RestClient]:
        """Run a command that ends up as a server, and kill the server in the end."""
        log = self.clone / "server.log"
        began = time.time()
        with log.open("ab") as output:
            process = subprocess.Popen(
                ["bash", "-c", command],
                cwd=self.clone,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            deadline = time.monotonic() + _TIMEOUT
            while (info := self._server_info(began)) is None:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            client = RestClient(base_url=info["base_url"], token=info["token"])
            client.port = info["port"]
            # A server writes its file before it listens.
            wait_until(client.answers, "the server answers")
            yield client
        finally:
            # Only the command and the server, not the kernels, which lead sessions of their own.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _server_info(self, began: float) -> Mapping[str, Any] | None:
        for path in self.runtime_dir.glob("*server-[0-9]*.json"):
            with suppress(ValueError):
                info: dict[str, Any] = json.loads(path.read_text())
                # A server that was killed leaves its file, and its process id may exist again.
                if path.stat().st_mtime >= began:
                    return info
        return None

    def kernels(self) -> list[psutil.Process]:
        """Return the processes of all kernels."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if str(self.runtime_dir) in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def close(self) -> None:
        """Kill the kernels that are left."""
        for process in self.kernels():
            with suppress(psutil.Error):
                process.kill()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    made = Home(tmp_path_factory.mktemp("readme"))
    yield made
    made.close()


def as_root(command: str) -> str:
    return command.rstrip() + AS_ROOT


def again(first: str) -> str:
    """Return the end of a command that installs something and starts a server."""
    return BLOCKS[first].rpartition("&&")[2]


# The commands


@pytest.fixture(scope="module")
def lab(home: Home) -> str:
    """The environment that the first command creates. Returns the session made there."""
    with home.serving(as_root(BLOCKS[LAB])) as server:
        model = server.create("a.ipynb", "python3")
        assert server.execute(model["kernel"]["id"], "x = 42; x") == "42"
    return str(model["id"])


def test_the_first_command_runs_a_server_whose_sessions_survive(home: Home, lab: str) -> None:
    with home.serving(as_root(again(LAB))) as server:
        (model,) = server.list_sessions()
        assert model["id"] == lab
        assert server.execute(model["kernel"]["id"], "x") == "42"
        assert server.delete(lab).status == 204


def test_the_second_command_is_the_one_that_runs_this_test() -> None:
    command = shlex.split(BLOCKS[TESTS])
    assert command[0] == "python3"
    assert (REPOSITORY / command[1]).exists()
    assert command[2:] == []


def test_turning_it_off_and_on_does_that(home: Home, lab: str) -> None:
    assert "Disabling: nbsessions" in home.run(BLOCKS[OFF], "lab")
    assert "nbsessions disabled" in plain(home.run("jupyter server extension list", "lab"))
    home.run("jupyter server extension enable nbsessions", "lab")
    assert "nbsessions enabled" in plain(home.run("jupyter server extension list", "lab"))


def test_turning_off_the_part_in_the_page_does_that(home: Home, lab: str) -> None:
    for command, state in ((OFF_IN_PAGE, "disabled"), (ON_IN_PAGE, "enabled")):
        home.run(command, "lab")
        shown = plain(home.run("jupyter labextension list", "lab"))
        assert re.search(rf"nbsessions v{__version__} {state} OK .*\(python, nbsessions\)", shown)


@pytest.mark.parametrize("command", sorted(COMMANDS - NEED_A_SERVICE_MANAGER - IN_CLASSIC - NAMES))
def test_each_command_in_the_text_works(home: Home, lab: str, command: str) -> None:
    if command.startswith("pip uninstall"):
        home.run(f"{command} --yes", "lab")  # It would ask.
        assert "nbsessions v" not in home.run("jupyter labextension list", "lab")
        home.run("pip install --no-deps .", "lab")
    elif command == "jupyter server stop":
        with home.serving(as_root(again(LAB))):
            assert "Shutting down server" in home.run(command, "lab")
    elif command == "jupyter nbsessions stop --orphans":
        with home.serving(as_root(again(LAB))) as server:
            server.create("b.ipynb", "python3")
        home.run(f"{command} -y", "lab")  # It would ask.
        wait_until(lambda: not home.kernels(), "the orphan has ended")
    else:
        home.run(command, "lab")


def test_a_server_keeps_its_sessions_in_a_database(home: Home, lab: str) -> None:
    cluster = shared_cluster()
    url = cluster.url_of(database=cluster.make_database())
    command = BLOCKS[DATABASE]
    assert command.count(DATABASE_URL) == 1
    with home.serving(as_root(command.replace(DATABASE_URL, shlex.quote(url)))) as server:
        model = server.create("c.ipynb", "python3")
        with psycopg.connect(url) as connection:
            rows = connection.execute("SELECT namespace, session_id FROM nbsessions_session")
            assert rows.fetchall() == [("ada", model["id"])]
        assert server.delete(model["id"]).status == 204


def test_classic_notebook_runs_and_nbsessions_can_be_disabled_there(home: Home) -> None:
    with home.serving(as_root(BLOCKS[CLASSIC])) as server:
        model = server.create("a.ipynb", "python3")
        # Only nbsessions answers a filter.
        assert server.list_sessions("?path=b.ipynb") == []
        assert server.delete(model["id"]).status == 204
    for command in IN_CLASSIC:
        assert "Disabling: nbsessions" in home.run(command, "classic")


def plain(text: str) -> str:
    """Return the text without colours, and with single blanks."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())


# What is to be seen and what is to be written


def test_the_list_looks_like_that(start_server: StartServer) -> None:
    server = start_server()
    server.create("analysis.ipynb")
    _, header, *rows = BLOCKS[LIST].splitlines()
    listed = CommandLine(server)("list").out.splitlines()
    assert listed[0].split() == header.split()
    assert len(rows[0].split()) == len(listed[1].split())


def test_the_session_manager_alone_does_that(tmp_path: Path) -> None:
    printed = run_python(BLOCKS[ALONE], tmp_path)
    (model,) = ast.literal_eval(printed)
    assert model["notebook"] == {"name": "b.ipynb", "path": "folder"}
    assert model["kernel"] == {"id": "a-kernel"}


def test_a_server_takes_all_settings_at_once(start_server: StartServer) -> None:
    server = start_server(start=False)
    server.environment["HOME"] = str(server.folder)
    (server.config_dir / "jupyter_server_config.py").write_text(BLOCKS[SETTINGS])
    server.start()
    server.create("a.ipynb")
    assert (server.folder / "sessions.db").exists()
    assert not server.store.exists()
    assert server.log_lines("W") == []


@pytest.mark.parametrize(("advised", "status"), [(True, 503), (False, 502)])
def test_nginx_answers_503_while_the_server_is_away_if_told_so(
    start_server: StartServer, tmp_path: Path, advised: bool, status: int
) -> None:
    server = start_server(base_url="/user/x/")
    upstream = f"http://127.0.0.1:{server.port}"
    with running_nginx(tmp_path / "nginx", upstream, advised=advised) as url:
        client = server.behind(url)
        kernel_id = client.create("a.ipynb", "python3")["kernel"]["id"]
        assert client.execute(kernel_id, "x = 42; x") == "42"
        server.kill()
        assert client.request("GET", f"/api/kernels/{kernel_id}").status == status
        server.start(again=True)
        assert client.execute(kernel_id, "x") == "42"


@pytest.mark.parametrize(("advised", "status"), [(True, 503), (False, 504)])
def test_nginx_answers_503_if_the_server_hangs_and_it_is_told_so(
    start_server: StartServer, tmp_path: Path, advised: bool, status: int
) -> None:
    server = start_server()
    upstream = f"http://127.0.0.1:{server.port}"
    with running_nginx(tmp_path / "nginx", upstream, read_timeout="1s", advised=advised) as url:
        server.send_signal(signal.SIGSTOP)
        assert server.behind(url).request("GET", "/api/kernels").status == status
        server.send_signal(signal.SIGCONT)


def test_kernels_of_a_manager_with_our_mixins_survive(start_server: StartServer) -> None:
    server = start_server(start=False)
    (server.config_dir / "jupyter_server_config.py").write_text(BLOCKS[NAMED])
    modules = server.folder / "modules"
    modules.mkdir()
    (modules / "my_kernels.py").write_text(BLOCKS[MODULE])
    server.environment["PYTHONPATH"] = os.pathsep.join([*server.python_path, str(modules)])
    server.start()
    model = server.create("a.ipynb", "python3")
    assert server.execute(model["kernel"]["id"], "x = 42; x") == "42"
    server.kill()
    server.start()
    assert [each["id"] for each in server.list_sessions()] == [model["id"]]
    assert server.execute(model["kernel"]["id"], "x") == "42"


def test_an_application_of_ones_own_serves_sessions(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", BLOCKS[APPLICATION]],
        cwd=tmp_path,
        env={**os.environ, "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime")},
    )
    client = RestClient(base_url="/", token="")
    client.port = 8888

    def ask(method: str, body: object = None, query: str = "?token=secret") -> Any:
        return client.request(method, f"/api/sessions{query}", body, with_token=False)

    def answers() -> bool:
        assert process.poll() is None, "it has ended: is something else listening on port 8888?"
        with suppress(OSError):
            return ask("GET").status == 200
        return False

    try:
        wait_until(answers, "it answers")
        assert ask("GET", query="").status == 403
        reply = ask("POST", {"path": "a.ipynb", "type": "notebook"})
        assert reply.status == 201
        path = f"/{reply.json()['id']}"
        refused, told = ask("PUT", {}, f"{path}?token=secret"), ask("OPTIONS", query=path)
        assert (refused.status, told.status) == (405, 204)
        assert told.headers["allow"] == refused.headers["allow"]
        assert ask("DELETE", query=f"{path}?token=secret").status == 204
    finally:
        process.terminate()
        process.wait(60)


def run_python(code: str, folder: Path) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, stdout=subprocess.PIPE, check=True, text=True
    )
    return ran.stdout
