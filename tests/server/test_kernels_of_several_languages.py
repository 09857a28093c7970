"""Kernels of several languages survive a kill -9 of their server as ipykernel does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import psutil
import pytest

from preparation.programs import IRKERNEL, has_irkernel, installations
from support.channel import Channel
from support.server import Server, servers_in
from support.waiting import wait_until


@dataclass(frozen=True, kw_only=True)
class Language:
    """How the tests say what they say in a kernel's language."""

    assign: str
    """Sets ``x`` to 42."""
    show: str
    """Prints ``x``, or "gone" if there is none."""
    wait: str
    """Waits until there is a ``{file}``, and prints "done"."""
    spin: str
    """Prints something, and never ends."""


PYTHON = Language(
    assign="x = 42",
    show="print(globals().get('x', 'gone'))",
    wait="import os, time\nwhile not os.path.exists('{file}'): time.sleep(0.1)\nprint('done')",
    spin="print('it runs')\nwhile True: pass",
)
BASH = Language(
    assign="x=42",
    show="echo ${x-gone}",
    wait="while [ ! -e '{file}' ]; do sleep 0.1; done; echo done",
    # Without other programs: bash may miss a signal that arrives while it starts one.
    spin="echo it runs; while true; do true; done",
)
R = Language(
    assign="x <- 42",
    show="cat(if (exists('x')) x else 'gone')",
    wait="while (!file.exists('{file}')) Sys.sleep(0.1)\ncat('done')",
    spin="cat('it runs')\nrepeat Sys.sleep(0.1)",
)
LANGUAGES = {"python3": PYTHON, "bash": BASH, "ir": R, "xpython": PYTHON}
INTERRUPTIBLE = ["python3", "bash", "ir"]
"""xeus-python ends on SIGINT."""

PATHS = ["idle.ipynb", "busy.ipynb", "restarted.ipynb", "deleted.ipynb"]


class Notebooks:
    """Notebooks of one language, before and after a crash. No test needs another one first."""

    def __init__(self, server: Server, kernel: str) -> None:
        self.server = server
        self.language = LANGUAGES[kernel]
        self._models = {path: server.create(path, kernel) for path in PATHS}
        self.go_on = server.folder / "go on"
        self.before = self._begin()
        server.kill()
        server.start()
        self.after = self._processes()

    def _begin(self) -> dict[tuple[str, str], psutil.Process]:
        """Set the variable in each kernel, and make one of them busy."""
        with ExitStack() as stack:
            for path in PATHS:
                channel = stack.enter_context(Channel(self.server, self.kernel_id(path)))
                channel.wait_for("execute_reply", channel.start(self.language.assign))
                if path == "busy.ipynb":
                    self._client = channel.session_id
                    self._request = channel.start(self.language.wait.format(file=self.go_on))
                    channel.wait_for("execute_input", self._request)
            wait_until(self._is_recorded, "the connection and the cell are written down")
            return self._processes()

    def _is_recorded(self) -> bool:
        record = self.server.kernel_record(self.kernel_id("busy.ipynb"))
        return self._client in str(record["clients"]) and record["execution_state"] == "busy"

    def _processes(self) -> dict[tuple[str, str], psutil.Process]:
        """Return the kernel's process of each session that the server lists."""
        processes = self.server.kernel_commands().items()
        return {
            (model["id"], model["kernel"]["id"]): process
            for model in self.server.list_sessions()
            for process, command in processes
            if model["kernel"]["id"] in command
        }

    def session_id(self, path: str) -> str:
        return str(self._models[path]["id"])

    def kernel_id(self, path: str) -> str:
        return str(self._models[path]["kernel"]["id"])

    def state(self, path: str) -> str:
        """Return the state of the notebook's kernel."""
        model = self.server.get(self.session_id(path)).json()
        return str(model["kernel"]["execution_state"])

    def connect(self, path: str) -> Channel:
        """Return the channel of a new client."""
        return Channel(self.server, self.kernel_id(path))

    def reconnect(self) -> tuple[Channel, str]:
        """Come back as the client of the busy kernel. Return its request, too."""
        kernel_id = self.kernel_id("busy.ipynb")
        return Channel(self.server, kernel_id, self._client, busy=True), self._request


@pytest.fixture(scope="module", params=LANGUAGES)
def notebooks(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Notebooks]:
    """Notebooks whose server has been killed and started again."""
    kernel: str = request.param
    if kernel == "ir" and not has_irkernel():
        (install,) = installations([IRKERNEL])
        pytest.fail(f"This test needs the kernel for R: {' '.join(install)}", pytrace=False)
    with servers_in(tmp_path_factory.mktemp(kernel)) as start_server:
        yield Notebooks(start_server(), kernel)


def test_sessions_kernels_and_processes_are_the_same(notebooks: Notebooks) -> None:
    assert len(notebooks.before) == len(PATHS)
    assert notebooks.after == notebooks.before
    wait_until(lambda: notebooks.state("idle.ipynb") == "idle", "the server has found out")


def test_variables_are_kept(notebooks: Notebooks) -> None:
    with notebooks.connect("idle.ipynb") as channel:
        assert channel.print(notebooks.language.show) == "42"


def test_a_running_cell_goes_on_and_the_next_one_is_answered(notebooks: Notebooks) -> None:
    # Output and replies have separate sockets, so they arrive in either order.
    both = {"stream", "execute_reply"}
    channel, running = notebooks.reconnect()
    with channel:
        assert notebooks.state("busy.ipynb") == "busy"
        notebooks.go_on.touch()
        messages = channel.wait_for_each(both, running)
        assert messages["stream"]["content"]["text"].strip() == "done"
        messages = channel.wait_for_each(both, channel.start(notebooks.language.show))
        assert messages["stream"]["content"]["text"].strip() == "42"
    wait_until(lambda: notebooks.state("busy.ipynb") == "idle", "nothing runs any more")


@pytest.mark.parametrize("notebooks", INTERRUPTIBLE, indirect=True)
def test_a_cell_can_be_interrupted(notebooks: Notebooks) -> None:
    kernel_id = notebooks.kernel_id("idle.ipynb")
    with notebooks.connect("idle.ipynb") as channel:
        request = channel.start(notebooks.language.spin)
        # Not for execute_input, which comes before the code runs.
        channel.wait_for("stream", request)
        reply = notebooks.server.request("POST", f"/api/kernels/{kernel_id}/interrupt")
        assert reply.status == 204
        channel.wait_for_end(request)
        assert channel.print(notebooks.language.show) == "42"


def test_a_kernel_can_be_restarted(notebooks: Notebooks) -> None:
    kernel_id = notebooks.kernel_id("restarted.ipynb")
    reply = notebooks.server.request("POST", f"/api/kernels/{kernel_id}/restart")
    assert reply.status == 200
    with notebooks.connect("restarted.ipynb") as channel:
        assert channel.print(notebooks.language.show) == "gone"


def test_a_deleted_session_leaves_no_process(notebooks: Notebooks) -> None:
    kernel_id = notebooks.kernel_id("deleted.ipynb")
    kernel = notebooks.after[notebooks.session_id("deleted.ipynb"), kernel_id]
    # The one for bash runs a bash.
    processes = [kernel, *kernel.children(recursive=True)]
    assert notebooks.server.delete(notebooks.session_id("deleted.ipynb")).status == 204
    wait_until(lambda: not any(map(_runs, processes)), "all processes have ended")
    wait_until(lambda: kernel_id not in notebooks.server.kernel_records(), "so has the record")


def _runs(process: psutil.Process) -> bool:
    # What has no parent that reaps it stays a zombie.
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
