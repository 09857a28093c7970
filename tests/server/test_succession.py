"""Several live servers of one root directory: what one leaves when it dies, another takes over."""

from __future__ import annotations

import http.client
import signal
import uuid
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from support.failpoints import EXTENSION, Failpoints
from support.rest import SESSIONS
from support.server import Server, StartServer
from support.storefile import read_store, wait_for_rest
from support.waiting import wait_until

StartNeighbour = Callable[..., Server]


@pytest.fixture
def first(start_server: StartServer) -> Server:
    """A server, which dies."""
    return start_server(start=False, extensions=EXTENSION)


@pytest.fixture
def start_neighbour(first: Server, start_server: StartServer) -> StartNeighbour:
    """Starts servers with the folders of the first one."""

    def start(**options: Any) -> Server:
        own = {"JUPYTER_RUNTIME_DIR": str(first.runtime_dir)}
        folders = {"data_dir": first.data_dir, "root_dir": first.root_dir}
        return start_server(environment=own, **{**folders, **options})

    return start


@pytest.fixture
def failpoints(first: Server) -> Failpoints:
    """The failpoints of the first server, which is running then."""
    made = Failpoints(first.folder / "failpoints")
    first.environment.update(made.environment)
    first.start()
    return made


@pytest.fixture
def running(failpoints: Failpoints, first: Server) -> Server:
    """The first server, running."""
    return first


def kill(server: Server) -> None:
    """Kill the server as the out-of-memory killer does, and return at once."""
    psutil.Process(server.pid).kill()


def ids(models: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(each["id"], each["kernel"]["id"], each["path"]) for each in models]


def reasons(server: Server, *models: dict[str, Any]) -> list[str | None]:
    """Return why the server does not serve the sessions."""
    query = "&".join(f"id={model['id']}" for model in models)
    found = server.request("GET", f"{SESSIONS}/status?{query}").json()
    return [each["reason"] for each in found["missing"]]


def wait_for_sessions(server: Server, *models: dict[str, Any]) -> None:
    wait_until(lambda: ids(server.list_sessions()) == ids(list(models)), "it lists the sessions")


# A neighbour


def test_a_live_neighbour_takes_over_from_a_killed_server(
    running: Server, start_neighbour: StartNeighbour
) -> None:
    second = start_neighbour()
    model = running.create("a.ipynb", "python3")
    assert running.execute(model["kernel"]["id"], "x = 42; x") == "42"
    kernel_id = running.start_kernel()

    running.kill()

    wait_for_sessions(second, model)
    assert second.execute(model["kernel"]["id"], "x") == "42"
    assert second.kernel_ids() == {model["kernel"]["id"], kernel_id}
    assert len(second.log_lines("I", "adopted")) == 2
    (line,) = second.log_lines("W", "adopted, but it has no session")
    assert kernel_id in line
    wait_for_rest(second.store)
    assert [row["path"] for row in read_store(second.store).sessions] == ["a.ipynb"]
    assert len(read_store(second.store).owners) == 1


def test_a_notebook_that_is_opened_right_after_the_death_gets_its_session(
    running: Server, start_neighbour: StartNeighbour
) -> None:
    second = start_neighbour()
    for number in range(5):
        model = running.create(f"{number}.ipynb", "light")
        kill(running)
        running.wait_for_end()
        assert ids([second.create(f"{number}.ipynb")]) == ids([model])
        running.start()
    rows = read_store(second.store).sessions
    assert [row["path"] for row in rows] == [f"{number}.ipynb" for number in range(5)]
    running.wait_for_kernels(5)


def test_a_page_that_opens_the_notebook_right_after_the_death_gets_its_kernel(
    running: Server, start_neighbour: StartNeighbour
) -> None:
    second = start_neighbour()
    (running.root_dir / "folder").mkdir()
    model = running.create("folder/a.ipynb", "light", name="a.ipynb")
    kill(running)
    running.wait_for_end()

    # As JupyterLab does, which then renames the session.
    opened = second.create(f"folder/{uuid.uuid4()}", "light", name="a.ipynb")

    assert opened["kernel"]["id"] == model["kernel"]["id"]
    assert opened["id"] != model["id"]
    assert second.patch(opened["id"], {"path": "folder/a.ipynb"}).status == 200
    assert {each["id"] for each in second.list_sessions()} == {model["id"], opened["id"]}
    running.wait_for_kernels(1)


def test_a_kernel_id_that_is_asked_for_right_after_the_death_is_that_kernel(
    running: Server, start_neighbour: StartNeighbour
) -> None:
    second = start_neighbour()
    model = running.create("a.ipynb", "light")
    kill(running)
    running.wait_for_end()
    opened = second.create("console", {"id": model["kernel"]["id"]})
    assert opened["kernel"]["id"] == model["kernel"]["id"]
    running.wait_for_kernels(1)


def test_a_server_that_is_restarted_meanwhile_says_where_its_sessions_are(
    running: Server, start_neighbour: StartNeighbour
) -> None:
    second = start_neighbour()
    models = [running.create(path, "light") for path in ("a.ipynb", "b.ipynb")]
    running.kill()
    wait_for_sessions(second, *models)

    running.start()

    assert running.list_sessions() == []
    assert running.kernel_ids() == set()
    assert reasons(running, *models) == ["elsewhere", "elsewhere"]
    assert reasons(second, *models) == []
    assert second.delete(models[0]["id"]).status == 204
    assert reasons(running, *models) == [None, "elsewhere"]


def test_the_kernels_that_a_stop_leaves_are_taken_over(
    start_server: StartServer,
) -> None:
    config = {"SurvivingKernels": {"keep_kernels": "restart"}}
    first = start_server(config=config)
    runtime = {"JUPYTER_RUNTIME_DIR": str(first.runtime_dir)}
    second = start_server(data_dir=first.data_dir, root_dir=first.root_dir, environment=runtime)
    model = first.create("a.ipynb", "python3")
    assert first.execute(model["kernel"]["id"], "x = 42; x") == "42"

    assert first.signal(signal.SIGTERM) == 0

    wait_for_sessions(second, model)
    assert second.execute(model["kernel"]["id"], "x") == "42"


def test_a_stop_that_ends_its_kernels_leaves_nothing_to_take_over(
    running: Server, start_neighbour: StartNeighbour
) -> None:
    second = start_neighbour()
    model = running.create("a.ipynb")
    assert running.stop() == 0
    other = second.create("b.ipynb")
    assert ids(second.list_sessions()) == ids([other])
    assert reasons(second, model) == ["stopped"]
    assert second.log_lines("I", "adopted") == []


def test_what_was_taken_over_survives_its_new_server(
    running: Server, start_neighbour: StartNeighbour
) -> None:
    second = start_neighbour()
    model = running.create("a.ipynb", "python3")
    assert running.execute(model["kernel"]["id"], "x = 42; x") == "42"
    running.kill()
    wait_for_sessions(second, model)
    second.kill()

    running.start()

    assert ids(running.list_sessions()) == ids([model])
    assert running.execute(model["kernel"]["id"], "x") == "42"


# Servers that die in the middle of something


@pytest.mark.parametrize("point", ["after acquire", "before start", "before commit"])
def test_a_start_that_a_death_cuts_short_is_undone(
    running: Server, start_neighbour: StartNeighbour, failpoints: Failpoints, point: str
) -> None:
    second = start_neighbour()
    kept = running.create("a.ipynb")
    failpoints.set("kill", point)
    with pytest.raises((http.client.HTTPException, OSError)):
        running.create("b.ipynb")
    running.wait_for_end()

    wait_for_sessions(second, kept)

    running.wait_for_kernels(1)
    wait_for_rest(second.store)
    assert second.kernel_ids() == {kept["kernel"]["id"]}
    assert second.create("b.ipynb")["path"] == "b.ipynb"


def test_a_session_that_was_written_before_the_start_was_complete_is_taken_over(
    running: Server, start_neighbour: StartNeighbour, failpoints: Failpoints
) -> None:
    second = start_neighbour()
    failpoints.set("kill", "after commit")
    with pytest.raises((http.client.HTTPException, OSError)):
        running.create("a.ipynb", "python3")
    running.wait_for_end()

    wait_until(second.list_sessions, "the session is taken over")
    (model,) = second.list_sessions()
    assert model["path"] == "a.ipynb"
    assert second.kernel_ids() == {model["kernel"]["id"]}
    assert second.execute(model["kernel"]["id"], "6 * 7") == "42"


def test_a_stop_that_a_death_cuts_short_is_finished(
    running: Server, start_neighbour: StartNeighbour
) -> None:
    second = start_neighbour()
    model = running.create("a.ipynb", "stubborn")
    running.terminate()
    ending = running.runtime_dir / "nbsessions" / "servers"
    wait_until(lambda: list(ending.glob("*.ending")), "the stop has begun")
    running.kill()

    running.wait_for_kernels(0)
    wait_until(lambda: reasons(second, model) == ["died"], "its session has ended")
    assert second.list_sessions() == []
    assert second.log_lines("I", "adopted") == []


def test_a_restart_that_a_death_cuts_short_is_repeated(
    running: Server, start_neighbour: StartNeighbour
) -> None:
    second = start_neighbour()
    model = running.create("a.ipynb", "python3")
    assert running.execute(model["kernel"]["id"], "x = 42; x") == "42"
    kernel_id = model["kernel"]["id"]
    psutil.Process(running.pid).suspend()
    file = running.runtime_dir / "nbsessions" / "kernels" / f"{kernel_id}.json"
    record = file.read_text()
    assert '"restarting": false' in record
    file.write_text(record.replace('"restarting": false', '"restarting": true'))
    running.kill_kernels()
    running.kill()

    wait_for_sessions(second, model)

    wait_until(lambda: len(running.kernel_processes()) == 1, "it was started again")
    assert second.execute(kernel_id, "'x' in globals()") == "False"


# Several neighbours


def test_of_two_live_neighbours_exactly_one_takes_over(
    running: Server, start_neighbour: StartNeighbour
) -> None:
    servers = [running, start_neighbour(), start_neighbour()]
    holder = running
    models = [running.create(f"{number}.ipynb") for number in range(3)]
    for _ in range(10):
        holder.kill()
        others = [server for server in servers if server is not holder]
        wait_until(lambda: any(each.list_sessions() for each in others), "one has them")  # noqa: B023
        (other,) = [each for each in others if not each.list_sessions()]
        (heir,) = [each for each in others if each is not other]
        wait_for_sessions(heir, *models)
        assert heir.kernel_ids() == {model["kernel"]["id"] for model in models}
        assert other.kernel_ids() == set()
        assert reasons(other, *models) == ["elsewhere"] * 3
        holder.start()
        holder = heir
    assert ids(holder.list_sessions()) == ids(models)
    running.wait_for_kernels(3)


# Servers of other places


def test_the_kernels_of_another_namespace_are_left_to_it(
    running: Server, start_neighbour: StartNeighbour
) -> None:
    other = start_neighbour(config={"AsyncSessionManager": {"namespace": "another"}})
    model = running.create("a.ipynb", "python3")
    running.kill()

    # The look precedes the start of a kernel.
    theirs = other.create("a.ipynb")
    assert theirs["kernel"]["id"] != model["kernel"]["id"]
    assert other.kernel_ids() == {theirs["kernel"]["id"]}

    running.start()
    assert ids(running.list_sessions()) == ids([model])


def test_a_server_that_starts_leaves_the_kernels_of_another_namespace(
    running: Server, start_neighbour: StartNeighbour
) -> None:
    model = running.create("a.ipynb", "python3")
    kernel_id = model["kernel"]["id"]
    assert running.execute(kernel_id, "x = 42; x") == "42"
    running.kill()

    other = start_neighbour(config={"AsyncSessionManager": {"namespace": "another"}})
    assert other.kernel_ids() == set()
    (line,) = other.log_lines("I", "in other namespaces")
    assert line.endswith(f"takes them over: {running.root_dir} (1)")
    other.kill()

    running.start()
    assert ids(running.list_sessions()) == ids([model])
    assert running.execute(kernel_id, "x") == "42"


def test_a_server_that_starts_says_where_kernels_of_dead_servers_run(
    running: Server, start_server: StartServer
) -> None:
    runtime = {"JUPYTER_RUNTIME_DIR": str(running.runtime_dir)}
    places = {"data_dir": running.data_dir, "environment": runtime}
    second, live = start_server(**places), start_server(**places)
    for path in ("a.ipynb", "b.ipynb"):
        running.create(path)
    for server in (second, live):
        server.create("a.ipynb")
    running.kill()
    second.kill()

    (line,) = start_server(**places).log_lines("I", "in other root directories")

    assert "A server that starts there takes them over: " in line
    assert line.endswith(f"over: {running.root_dir} (2), {second.root_dir} (1)")
    assert live.log_lines("I", "in other root directories") == []
    assert running.start().log_lines("I", "other root dir")[0].endswith(f": {second.root_dir} (1)")
    assert second.start().log_lines("I", "other root dir") == []
