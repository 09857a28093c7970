"""Kernels that outlive their server: after the next start all is as it was."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from support.channel import Channel
from support.server import Server, StartServer, servers_in
from support.storefile import read_store, wait_for_rest
from support.waiting import wait_until

KEEP = {"SurvivingKernels": {"keep_kernels": "restart"}}
ENDINGS = {
    "a kill -9": (signal.SIGKILL, {}),
    "a SIGHUP": (signal.SIGHUP, {}),
    "a restart by SIGTERM": (signal.SIGTERM, KEEP),
    "a restart by SIGINT": (signal.SIGINT, KEEP),
}
KERNELS = {"busy.ipynb": "python3", "input.ipynb": "python3", "bash.ipynb": "bash"}
KERNELS |= {"idle.ipynb": "python3", "shared.ipynb": "python3"}


class Notebooks:
    """Five kernels of a user, each in the middle of something; one has two sessions."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.models = {path: server.create(path, kernel) for path, kernel in KERNELS.items()}
        shared = {"id": self.kernel_id("shared.ipynb")}
        self.models["other.ipynb"] = server.create("other.ipynb", shared)
        self.go_on = server.folder / "go on"
        self._clients: dict[str, str] = {}
        self._requests: dict[str, str] = {}

    def kernel_id(self, path: str) -> str:
        kernel_id: str = self.models[path]["kernel"]["id"]
        return kernel_id

    def begin(self) -> None:
        """Get all of them going, and wait until a next server would know of it."""
        with ExitStack() as stack:
            channels = {
                path: stack.enter_context(Channel(self.server, self.kernel_id(path)))
                for path in self.models
            }
            for path in ("idle.ipynb", "shared.ipynb"):
                assert channels[path].execute("x = 42; x") == "42"
            assert channels["bash.ipynb"].print("x=42; echo $x") == "42"
            waits = f"import os, time\nwhile not os.path.exists({str(self.go_on)!r}):"
            asks = "answer = input('?'); int(answer) + 1"
            for path, code, until in (
                ("busy.ipynb", f"{waits} time.sleep(0.1)\n6*7", "execute_input"),
                ("input.ipynb", asks, "input_request"),
            ):
                self._clients[path] = channels[path].session_id
                self._requests[path] = channels[path].start(code)
                channels[path].wait_for(until, self._requests[path])
            wait_until(self._is_recorded, "all is written down")

    def _is_recorded(self) -> bool:
        records = {path: self.server.kernel_record(self.kernel_id(path)) for path in self._clients}
        return all(
            client in str(records[path]) and records[path]["execution_state"] == "busy"
            for path, client in self._clients.items()
        )

    def reconnect(self, path: str) -> Channel:
        """Come back as the client that was there before."""
        return Channel(self.server, self.kernel_id(path), self._clients[path], busy=True)

    def request(self, path: str) -> str:
        """Return the id of the request that is under way."""
        return self._requests[path]

    def states(self) -> dict[str, str]:
        """Return the state of each session's kernel, as listed."""
        models = self.server.list_sessions()
        return {model["path"]: model["kernel"]["execution_state"] for model in models}

    def processes(self) -> dict[str, psutil.Process]:
        """Return the kernels' processes by kernel id."""
        return {
            kernel_id: process
            for process, command in self.server.kernel_commands().items()
            for kernel_id in {model["kernel"]["id"] for model in self.models.values()}
            if kernel_id in command
        }


@pytest.mark.parametrize("ending", ENDINGS)
def test_notebooks_go_on_after(start_server: StartServer, ending: str) -> None:
    signum, config = ENDINGS[ending]
    server = start_server("lab", config=config)
    notebooks = Notebooks(server)
    notebooks.begin()
    before = notebooks.processes()

    server.signal(signum)
    server.start()

    # At once: the same sessions, kernels, states and processes.
    states = notebooks.states()
    assert states["busy.ipynb"] == states["input.ipynb"] == "busy"
    assert _ids(server.list_sessions()) == _ids(notebooks.models.values())
    idle = dict.fromkeys(("idle.ipynb", "bash.ipynb", "shared.ipynb", "other.ipynb"), "idle")
    wait_until(lambda: notebooks.states().items() >= idle.items(), "the others are idle")
    assert notebooks.processes() == before
    # The variables.
    for path in ("idle.ipynb", "shared.ipynb", "other.ipynb"):
        assert server.execute(notebooks.kernel_id(path), "x") == "42"
    with Channel(server, notebooks.kernel_id("bash.ipynb")) as channel:
        assert channel.print("echo $x") == "42"
    # What was under way.
    with notebooks.reconnect("busy.ipynb") as channel:
        notebooks.go_on.touch()
        _wait_for_result(channel, notebooks.request("busy.ipynb"), "42")
    with notebooks.reconnect("input.ipynb") as channel:
        channel.answer("42", notebooks.request("input.ipynb"))
        _wait_for_result(channel, notebooks.request("input.ipynb"), "43")
    wait_until(lambda: set(notebooks.states().values()) == {"idle"}, "all are idle")


def _wait_for_result(channel: Channel, request: str, result: str) -> None:
    messages = channel.wait_for_each({"execute_result", "execute_reply"}, request)
    assert messages["execute_result"]["content"]["data"]["text/plain"] == result
    assert messages["execute_reply"]["content"]["status"] == "ok"


def _ids(models: Any) -> set[tuple[str, str]]:
    return {(model["id"], model["kernel"]["id"]) for model in models}


def test_adopted_kernels_can_be_interrupted_restarted_and_shut_down(
    start_server: StartServer,
) -> None:
    server = start_server()
    notebooks = Notebooks(server)
    server.kill()
    server.start()
    wait_until(lambda: set(notebooks.states().values()) == {"idle"}, "all are idle")
    kernel_id = notebooks.kernel_id("idle.ipynb")

    with Channel(server, kernel_id) as channel:
        request = channel.start("x = 1\nprint('it runs')\nwhile True: pass")
        # Not for execute_input, which comes before the code runs.
        channel.wait_for("stream", request)
        assert server.request("POST", f"/api/kernels/{kernel_id}/interrupt").status == 204
        error = channel.wait_for("error", request)
        assert error["content"]["ename"] == "KeyboardInterrupt"
    assert server.execute(kernel_id, "x") == "1"

    assert server.request("POST", f"/api/kernels/{kernel_id}/restart").status == 200
    assert server.execute(kernel_id, "'x' in globals()") == "False"

    # A kernel that dies is started again under the same id, by whoever has adopted it.
    killed = notebooks.processes()[kernel_id]
    killed.kill()
    wait_until(lambda: notebooks.processes().get(kernel_id, killed) != killed, "it is back")
    assert server.execute(kernel_id, "6*7") == "42"

    for model in notebooks.models.values():
        assert server.delete(model["id"]).status == 204
    server.wait_for_kernels(0)
    assert read_store(server.store).unfinished() == []


@pytest.mark.parametrize("host_name", ["newest", "oldest"])
def test_kernels_survive_one_server_after_the_other(
    start_server: StartServer, host_name: str
) -> None:
    server = start_server(host_name)
    model = server.create("a.ipynb", "python3")
    kernel_id = model["kernel"]["id"]
    assert server.execute(kernel_id, "x = 0; x") == "0"
    for number in range(1, 4):
        server.kill()
        server.start()
        assert server.execute(kernel_id, "x += 1; x") == str(number)
        if number == 2:
            assert server.request("POST", f"/api/kernels/{kernel_id}/restart").status == 200
            assert server.execute(kernel_id, f"x = {number}; x") == str(number)
    assert _ids(server.list_sessions()) == _ids([model])
    assert len(server.kernel_processes()) == 1


def test_a_stop_ends_kernels_records_and_sessions(start_server: StartServer) -> None:
    server = start_server()
    server.create("a.ipynb", "python3")
    server.start_kernel("light")

    assert server.stop() == 0

    assert server.kernel_processes() == []
    assert server.registry_files() == []
    assert read_store(server.store).sessions == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_that_is_cut_short_is_finished_by_the_next_start(
    start_server: StartServer, signum: int
) -> None:
    server = start_server()
    model = server.create("a.ipynb", "stubborn")
    (kernel,) = server.kernel_processes()
    wait_until(kernel.net_connections, "it is up: until then, a SIGINT ends it")
    server.create("b.ipynb", "python3")

    server.send_signal(signum)
    wait_until(lambda: list(server.runtime_dir.glob("nbsessions/servers/*.ending")), "it stops")
    server.kill()
    assert model["kernel"]["id"] in server.kernel_records()
    server.start()

    assert server.list_sessions() == []
    server.wait_for_kernels(0)
    assert len(server.log_lines("I", "ended: its kernel")) >= 1


@pytest.mark.parametrize("keep", ["crash", "restart"])
def test_a_shutdown_over_the_api_ends_kernels(start_server: StartServer, keep: str) -> None:
    server = start_server(config={"SurvivingKernels": {"keep_kernels": keep}})
    server.create("a.ipynb", "python3")

    assert server.request("POST", "/api/shutdown").status == 200
    server.wait_for_end()

    assert server.kernel_processes() == []
    assert server.kernel_records() == set()


def test_a_sigterm_that_comes_while_a_line_is_logged_is_not_lost(
    start_server: StartServer,
) -> None:
    server = start_server(environment={"SIGTERM_WHILE_LOGGING": "Kernel started"})

    with contextlib.suppress(OSError):
        server.create("a.ipynb", "light")

    assert server.wait_for_end() == 0
    assert server.kernel_processes() == []
    assert read_store(server.store).sessions == []


def test_sighup_can_be_a_stop(start_server: StartServer) -> None:
    server = start_server(config={"SurvivingKernels": {"hangup": "stop"}})
    server.create("a.ipynb", "python3")

    assert server.signal(signal.SIGHUP) == 0

    assert server.kernel_processes() == []
    assert read_store(server.store).sessions == []


def test_kernels_can_be_made_to_end_with_their_server(start_server: StartServer) -> None:
    server = start_server(config={"SurvivingKernels": {"keep_kernels": "never"}})
    server.create("a.ipynb", "python3")

    server.kill()

    wait_until(lambda: not server.kernel_processes(), "ipykernel has noticed")
    assert server.kernel_records() == set()


def test_a_session_whose_kernel_died_in_the_gap_is_ended(start_server: StartServer) -> None:
    server = start_server()
    kept = server.create("kept.ipynb")
    gone = server.create("gone.ipynb")
    server.kill()
    for process, command in server.kernel_commands().items():
        if gone["kernel"]["id"] in command:
            process.kill()

    server.start()

    assert _ids(server.list_sessions()) == _ids([kept])
    wait_for_rest(server.store)
    (line,) = server.log_lines("I", "ended: its kernel")
    assert "gone.ipynb" in line
    assert gone["kernel"]["id"] in line
    server.wait_for_kernels(1)


def test_a_kernel_of_no_session_is_kept(start_server: StartServer) -> None:
    server = start_server()
    kernel_id = server.start_kernel("python3")
    assert server.execute(kernel_id, "x = 42; x") == "42"
    server.kill()

    server.start()

    assert server.kernel_ids() == {kernel_id}
    assert server.execute(kernel_id, "x") == "42"
    assert server.list_sessions() == []


def test_what_kernels_print_by_themselves_reaches_the_servers_log(
    start_server: StartServer,
) -> None:
    server = start_server()
    model = server.create("a.ipynb", "python3")
    kernel_id = model["kernel"]["id"]
    server.execute(kernel_id, "import os; os.system('echo first words')")
    wait_until(lambda: "first words\n" in server.log, "it is in the log")
    (file,) = server.runtime_dir.glob("nbsessions/kernels/*.log")

    def is_recorded() -> bool:
        return bool(server.kernel_record(kernel_id)["logged"] == file.stat().st_size)

    wait_until(is_recorded, "the server has written down how far it is")
    server.kill()
    server.start()
    server.execute(kernel_id, "os.system('echo last words')")
    wait_until(lambda: "last words\n" in server.log, "it is in the log")
    assert "first words" not in server.log


def test_a_kernel_keeps_its_place_and_name_over_a_crash(start_server: StartServer) -> None:
    server = start_server()
    (server.root_dir / "folder").mkdir()
    model = server.create("folder/a.ipynb", "python3", name="a.ipynb")
    kernel_id = model["kernel"]["id"]
    server.patch(model["id"], {"path": "folder/b.ipynb", "name": "b.ipynb"})
    folder = repr(str(server.root_dir / "folder"))
    assert server.execute(kernel_id, "import os; os.getcwd()") == folder
    renamed = "folder/b.ipynb"
    wait_until(
        lambda: server.kernel_record(kernel_id)["env"]["JPY_SESSION_NAME"].endswith(renamed),
        "the new name is written down",
    )
    server.kill()

    server.start()
    assert server.request("POST", f"/api/kernels/{kernel_id}/restart").status == 200

    assert server.execute(kernel_id, "import os; os.getcwd()") == folder
    name = server.execute(kernel_id, "os.environ['JPY_SESSION_NAME']")
    assert name.endswith("folder/b.ipynb'")


SETTINGS = {
    "ipc": {"KernelManager": {"transport": "ipc"}},
    "encryption": {"MappingKernelManager": {"transport_encryption": "required"}},
    "pending starts": {"AsyncMultiKernelManager": {"use_pending_kernels": True}},
}


@pytest.fixture
def start_server_nearby() -> Iterator[StartServer]:
    """Start servers in a folder with a short name, since those of sockets have to be."""
    with tempfile.TemporaryDirectory() as folder, servers_in(Path(folder)) as start:
        yield start


@pytest.mark.parametrize("setting", SETTINGS)
def test_kernels_survive_with(start_server_nearby: StartServer, setting: str) -> None:
    server = start_server_nearby(config=SETTINGS[setting])
    model = server.create("a.ipynb", "python3")
    kernel_id = model["kernel"]["id"]
    assert server.execute(kernel_id, "x = 42; x") == "42"
    server.kill()

    server.start()

    assert _ids(server.list_sessions()) == _ids([model])
    assert server.execute(kernel_id, "x") == "42"
    assert server.request("POST", f"/api/kernels/{kernel_id}/restart").status == 200
    assert server.execute(kernel_id, "'x' in globals()") == "False"


def test_an_adoption_is_no_activity(start_server: StartServer) -> None:
    server = start_server()
    kernel_id = server.create("a.ipynb", "python3")["kernel"]["id"]
    server.execute(kernel_id, "6*7")

    def last_activity() -> str:
        (model,) = server.list_sessions()
        moment: str = model["kernel"]["last_activity"]
        return moment

    def is_recorded() -> bool:
        record = server.kernel_record(kernel_id)
        # The end of what was executed is an activity, too.
        is_idle = record["execution_state"] == "idle"
        return bool(is_idle and record["last_activity"] == last_activity())

    wait_until(is_recorded, "it is written down")
    before = last_activity()
    server.kill()
    server.start()

    def is_idle() -> bool:
        (model,) = server.list_sessions()
        return bool(model["kernel"]["execution_state"] == "idle")

    wait_until(is_idle, "the server has found out that the kernel is idle")
    assert last_activity() == before


def test_a_kernel_that_serves_its_widgets_meanwhile_stays_busy(start_server: StartServer) -> None:
    server = start_server()
    kernel_id = server.create("a.ipynb", "python3")["kernel"]["id"]
    with Channel(server, kernel_id) as channel:
        running = channel.start("import time\nwhile True: time.sleep(0.1)")
        channel.wait_for("execute_input", running)

        # Pages ask for a subshell when they connect, and so each time that they reconnect.
        request = channel.send("create_subshell_request", {}, channel="control")
        channel.wait_for_end(request)

        (model,) = server.list_sessions()
        assert model["kernel"]["execution_state"] == "busy"


def test_adopted_kernels_are_culled(start_server: StartServer) -> None:
    culling = {"cull_idle_timeout": 1, "cull_interval": 1}
    server = start_server()
    server.create("a.ipynb", "python3")
    server.kill()
    server.configure({"MappingKernelManager": culling}, {})

    server.start()

    # The process ends first, and the server looks after it.
    wait_until(lambda: not server.list_sessions(), "the session is ended")
    server.wait_for_kernels(0)


def test_a_kernel_manager_of_ones_own_is_left_alone(start_server: StartServer) -> None:
    name = "support.managers.OwnMappingKernelManager"
    server = start_server(config={"ServerApp": {"kernel_manager_class": name}})
    server.create("a.ipynb", "python3")

    (line,) = server.log_lines("W", "nbsessions|end with this server")
    assert name in line
    server.kill()
    wait_until(lambda: not server.kernel_processes(), "ipykernel has noticed")
    assert server.kernel_records() == set()


def test_a_manager_of_each_kernel_of_ones_own_is_left_alone(start_server: StartServer) -> None:
    name = "support.managers.OwnKernelManager"
    server = start_server(config={"MultiKernelManager": {"kernel_manager_class": name}})
    server.create("a.ipynb", "python3")

    (line,) = server.log_lines("W", "end with this server")
    assert name in line
    server.kill()
    wait_until(lambda: not server.kernel_processes(), "ipykernel has noticed")


def test_managers_of_ones_own_can_take_part(start_server: StartServer) -> None:
    config = {
        "ServerApp": {"kernel_manager_class": "support.managers.MixedMappingKernelManager"},
        "MixedMappingKernelManager": {
            "kernel_manager_class": "support.managers.MixedKernelManager"
        },
    }
    server = start_server(config=config)
    kernel_id = server.create("a.ipynb", "python3")["kernel"]["id"]
    assert server.execute(kernel_id, "x = 42; x") == "42"
    server.kill()

    server.start()

    assert server.execute(kernel_id, "x") == "42"
    assert server.log_lines("W", "end with this server") == []


def test_a_kernel_whose_kernelspec_is_gone_goes_on(start_server: StartServer) -> None:
    server = start_server(start=False)
    spec = server.data_dir / "kernels" / "passing"
    spec.mkdir()
    argv = [server.host.python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Passing"}))
    server.start()
    kernel_id = server.create("a.ipynb", "passing")["kernel"]["id"]
    assert server.execute(kernel_id, "x = 42; x") == "42"
    server.kill()
    shutil.rmtree(spec)

    server.start()

    assert server.execute(kernel_id, "x") == "42"
    assert server.request("POST", f"/api/kernels/{kernel_id}/restart").status == 200
    assert server.execute(kernel_id, "'x' in globals()") == "False"


def test_of_two_servers_that_start_at_once_one_gets_the_sessions(
    start_server: StartServer,
) -> None:
    first = start_server()
    models = [first.create(f"{number}.ipynb") for number in range(5)]
    first.kill()
    second = start_server(
        start=False,
        data_dir=first.data_dir,
        root_dir=first.root_dir,
        environment={"JUPYTER_RUNTIME_DIR": str(first.runtime_dir)},
    )

    starts = [threading.Thread(target=server.start) for server in (first, second)]
    for start in starts:
        start.start()
    for start in starts:
        start.join()

    lists = [server.list_sessions() for server in (first, second)]
    assert sorted(map(len, lists)) == [0, 5]
    assert _ids(lists[0] + lists[1]) == _ids(models)
    assert read_store(first.store).session_ids() == {model["id"] for model in models}
    assert first.log_lines("I", "ended: its") == second.log_lines("I", "ended: its") == []
    first.wait_for_kernels(5)


def test_kernels_that_nobody_follows_are_ended_by_a_server_elsewhere(
    start_server: StartServer,
) -> None:
    impatient = {"SurvivingKernels": {"orphan_timeout": 0.01}}
    first = start_server()
    environment = {"JUPYTER_RUNTIME_DIR": str(first.runtime_dir)}
    second = start_server(environment=environment, config=impatient)
    kept, ended = first.create("a.ipynb"), second.create("a.ipynb")
    first.kill()
    second.kill()

    # What its own server was set to counts for a kernel, not what this one is.
    third = start_server(environment=environment, config=impatient)

    assert third.kernel_ids() == set()
    wait_until(lambda: first.kernel_records() == {kept["kernel"]["id"]}, "the other one is kept")
    first.wait_for_kernels(1)
    assert ended["kernel"]["id"] not in first.start().kernel_ids()
    assert first.kernel_ids() == {kept["kernel"]["id"]}
