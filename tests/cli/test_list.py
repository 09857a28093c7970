"""``list`` and ``show`` beside a server, without one, and beside several."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from support.channel import Channel
from support.cli import CommandLine, change_info, info_file
from support.server import Server, StartServer
from support.waiting import wait_until

KEYS = [
    "id",
    "path",
    "name",
    "type",
    "kernel_id",
    "kernel_name",
    "kernel_location",
    "state",
    "last_activity",
    "idle_seconds",
    "pid",
    "memory_bytes",
    "server",
    "server_url",
    "namespace",
    "owner",
    "host",
    "owner_state",
    "heartbeat_age_seconds",
]
SHOWN_KEYS = [*KEYS, "created", "connections", "root_dir"]


def wait_for_record(server: Server, model: dict[str, Any], key: str, value: str) -> dict[str, Any]:
    """Wait until the record of a session's kernel has this in it, and return the record."""
    folder = server.runtime_dir / "nbsessions" / "kernels"
    path = folder / f"{model['kernel']['id']}.json"

    def record() -> dict[str, Any] | None:
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found if value in found.get(key, "") else None

    return wait_until(record, f"{key} in the record has {value}") or {}


def execute(server: Server, model: dict[str, Any]) -> None:
    """Run code in a session's kernel, and wait until the server knows that it is idle again."""
    server.execute(model["kernel"]["id"], "6*7")

    def is_idle() -> bool:
        state = server.get(model["id"]).json()["kernel"]["execution_state"]
        return bool(state == "idle")

    wait_until(is_idle, "the kernel is idle again")


def url_of(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}{server.base_url}"


# Beside a server


def test_a_session_is_listed_with_its_kernel_and_server(server: Server, cli: CommandLine) -> None:
    model = server.create("folder/ä b.ipynb", kernel="python3")
    execute(server, model)
    (process,) = server.kernel_processes()

    (listed,) = cli("list", "--json").json()

    assert list(listed) == KEYS
    assert listed["id"] == model["id"]
    assert (listed["path"], listed["type"]) == ("folder/ä b.ipynb", "notebook")
    assert listed["kernel_id"] == model["kernel"]["id"]
    assert (listed["kernel_name"], listed["state"]) == ("python3", "idle")
    assert listed["kernel_location"] == "local"
    assert listed["pid"] == process.pid
    assert listed["memory_bytes"] > 10e6
    assert (listed["server"], listed["server_url"]) == ("running", url_of(server))
    assert 0 <= listed["idle_seconds"] < 60
    age = datetime.now(timezone.utc) - datetime.fromisoformat(listed["last_activity"])
    assert timedelta(0) <= age < timedelta(minutes=1)


def test_the_table_has_a_line_for_each_session(server: Server, cli: CommandLine) -> None:
    models = [server.create(path) for path in ("a.ipynb", "b.ipynb")]

    ran = cli("list")

    head, *lines = ran.out.splitlines()
    assert head.split()[:5] == ["id", "path", "type", "kernel", "state"]
    for model, line in zip(models, lines, strict=True):
        assert line.startswith(f"{model['id'][:8]}  {model['path']}")
        assert line.rstrip().endswith(url_of(server))


def test_memory_is_that_of_all_that_a_kernel_has_started(server: Server, cli: CommandLine) -> None:
    model = server.create("a.ipynb", kernel="python3")
    before = cli.sessions()[0]["memory_bytes"]
    code = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', "
        "'x = bytearray(10**8); print(1, flush=True); input()'], "
        "stdin=subprocess.PIPE, stdout=subprocess.PIPE); child.stdout.readline()"
    )
    server.execute(model["kernel"]["id"], code)

    assert cli.sessions()[0]["memory_bytes"] > before + 1e8


def test_what_a_terminal_would_obey_is_not_printed(server: Server, cli: CommandLine) -> None:
    server.create("a\x1b[31m[red].ipynb")

    ran = cli("list")

    assert "\x1b" not in ran.out
    assert "a\N{REPLACEMENT CHARACTER}[31m[red].ipynb" in ran.out


def test_a_path_that_the_output_cannot_encode_is_listed(server: Server, cli: CommandLine) -> None:
    server.create("ä.ipynb")
    assert "?.ipynb" in cli("list", environment={"PYTHONIOENCODING": "ascii"}).out


def test_nothing_is_said_to_be_nothing(server: Server, cli: CommandLine) -> None:
    assert cli("list", "--json").json() == []
    ran = cli("list")
    assert (ran.status, ran.out, ran.err) == (0, "", "There are no sessions\n")
    assert cli("list", "--orphans").err == "There are no orphaned kernels\n"


def test_list_takes_no_names(server: Server, cli: CommandLine) -> None:
    ran = cli("list", "a.ipynb")
    assert ran.status == 1
    assert "use `show`" in ran.err


def test_sessions_of_several_servers_are_listed(
    server: Server, cli: CommandLine, start_server: StartServer
) -> None:
    other = start_server(
        base_url="/user/x/",
        data_dir=server.data_dir,
        environment={"JUPYTER_RUNTIME_DIR": str(server.runtime_dir)},
    )
    server.create("a.ipynb")
    other.create("a.ipynb")

    listed = cli.sessions()

    assert {each["server_url"] for each in listed} == {url_of(server), url_of(other)}
    ambiguous = cli("show", "a.ipynb")
    assert ambiguous.status == 1
    assert "is ambiguous" in ambiguous.err
    for each in listed:
        assert each["id"] in ambiguous.err
        assert cli("show", each["id"], "--json").json()["server_url"] == each["server_url"]


@pytest.mark.parametrize("host", ["oldest", "notebook6"])
def test_sessions_of_older_servers_are_listed_and_ended(
    start_server: StartServer, host: str
) -> None:
    server = start_server(host, base_url="/user/x/")
    cli = CommandLine(server)
    model = server.create("a.ipynb", kernel="python3")
    (process,) = server.kernel_processes()

    (listed,) = cli("list", "--json").json()

    assert (listed["id"], listed["pid"]) == (model["id"], process.pid)
    assert (listed["server"], listed["server_url"].count("/user/x/")) == ("running", 1)
    assert cli("stop", "a.ipynb", "--yes").status == 0
    assert server.list_sessions() == []


def test_a_server_without_a_token_is_asked_and_obeys(start_server: StartServer) -> None:
    server = start_server(
        environment={"JUPYTER_TOKEN": ""}, config={"IdentityProvider": {"token": ""}}
    )
    cli = CommandLine(server)
    body = {"path": "a.ipynb", "type": "notebook", "kernel": {"name": "light"}}
    proof = {"Cookie": "_xsrf=abcd", "X-XSRFToken": "abcd"}
    assert server.post(body, headers=proof).status == 201

    assert cli.paths() == ["a.ipynb"]
    assert cli("stop", "a.ipynb", "-y").status == 0
    assert server.list_sessions() == []


# Beside a server that cannot be asked


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"token": "another"}, "rejects the token"),
        ({"port": 1, "url": "http://127.0.0.1:1/"}, "does not answer"),
        ({"base_url": "/nowhere/"}, "answered 404"),
        ({"base_url": "/api/status?"}, "with a list"),
    ],
)
def test_sessions_of_a_server_that_cannot_be_asked_come_from_the_store(
    server: Server, cli: CommandLine, changes: dict[str, object], problem: str
) -> None:
    model = server.create("a.ipynb")
    server.wait_for_kernels(1)
    change_info(server, **changes)

    ran = cli("list", "--json")

    assert ran.status == 0
    assert problem in ran.err
    (listed,) = json.loads(ran.out)
    assert (listed["id"], listed["path"]) == (model["id"], "a.ipynb")
    assert listed["server"] == "unreachable"
    assert listed["pid"] is not None
    assert "(unreachable)" in cli("list").out
    assert cli("list", "--orphans").out == ""


def test_a_server_without_its_file_is_unreachable(server: Server, cli: CommandLine) -> None:
    server.create("a.ipynb")
    info_file(server).unlink()

    (listed,) = cli.sessions()

    assert (listed["server"], listed["server_url"]) == ("unreachable", None)
    assert cli("list").out.rstrip().endswith("unreachable")


def test_files_that_are_no_servers_are_left_alone(server: Server, cli: CommandLine) -> None:
    server.create("a.ipynb")
    others = {
        "jpserver-1.json": "{",
        "jpserver-2.json": "[]",
        "jpserver-3.json": json.dumps({"url": "http://127.0.0.1:1/", "pid": 2**22 + 1}),
        "nbserver-4.json": info_file(server).read_text().replace(str(server.pid), str(2**22 + 1)),
    }
    for name, text in others.items():
        (server.runtime_dir / name).write_text(text)

    assert cli("list", "--json").json()[0]["path"] == "a.ipynb"
    for name in others:
        assert (server.runtime_dir / name).exists()


# Without a server


def test_a_session_whose_kernel_survived_is_listed_without_a_server(
    server: Server, cli: CommandLine
) -> None:
    model = server.create("a.ipynb", kernel="python3")
    execute(server, model)
    wait_for_record(server, model, "execution_state", "idle")
    (process,) = server.kernel_processes()
    server.kill()

    (listed,) = cli("list", "--json").json()

    assert list(listed) == KEYS
    assert (listed["id"], listed["path"]) == (model["id"], "a.ipynb")
    assert (listed["kernel_name"], listed["state"]) == ("python3", "idle")
    assert listed["idle_seconds"] >= 0
    assert (listed["pid"], listed["server"], listed["server_url"]) == (process.pid, "none", None)
    assert cli("list").out.rstrip().endswith("none")
    assert cli.paths("--orphans") == ["a.ipynb"]


def test_sessions_whose_kernels_are_gone_are_not_listed(server: Server, cli: CommandLine) -> None:
    server.create("a.ipynb")
    server.wait_for_kernels(1)
    server.kill()
    server.kill_kernels()

    assert cli("list", "--json").json() == []
    assert cli("list", "--orphans", "--json").json() == []


def test_a_kernel_without_a_session_is_among_the_orphans(server: Server, cli: CommandLine) -> None:
    kernel_id = server.start_kernel()
    server.wait_for_kernels(1)
    server.kill()

    ran = cli("list")

    assert ran.out == ""
    assert "Kernels without a session: 1" in ran.err
    (orphan,) = cli("list", "--orphans", "--json").json()
    assert list(orphan) == KEYS
    assert (orphan["id"], orphan["path"], orphan["kernel_id"]) == (None, None, kernel_id)
    assert cli("show", kernel_id[:8], "--json").json()["kernel_id"] == kernel_id


def test_kernels_of_a_running_server_are_no_orphans(server: Server, cli: CommandLine) -> None:
    server.start_kernel()
    server.create("a.ipynb")
    server.wait_for_kernels(2)
    assert cli("list", "--orphans", "--json").json() == []


def test_a_kernel_that_was_adopted_belongs_to_the_new_server(
    server: Server, cli: CommandLine
) -> None:
    model = server.create("a.ipynb", kernel="python3")
    server.wait_for_kernels(1)
    server.kill()
    server.start()

    def is_listed() -> bool:
        listed = cli.sessions()
        return [each["server_url"] for each in listed] == [url_of(server)]

    wait_until(is_listed, "the new server has the session")
    assert cli.sessions()[0]["id"] == model["id"]
    assert cli.sessions("--orphans") == []


def test_without_a_store_there_is_nothing(start_server: StartServer) -> None:
    server = start_server(start=False)
    before = sorted(server.folder.rglob("*"))

    assert CommandLine(server)("list", "--json").json() == []

    assert sorted(server.folder.rglob("*")) == before


def test_a_store_that_cannot_be_read_is_said(server: Server, cli: CommandLine) -> None:
    server.create("a.ipynb")
    server.stop()
    server.store.write_bytes(b"SQLite format 3\0" + b"\xff" * 4096)

    ran = cli("list")

    assert ran.status == 0
    assert "cannot be used" in ran.err


def test_the_configuration_of_the_server_counts(start_server: StartServer) -> None:
    config: dict[str, dict[str, str]] = {"AsyncSessionManager": {}}
    server = start_server(start=False, config=config)
    file = server.folder / "elsewhere.db"
    for section, options in (
        ("SessionManager", {"database_filepath": str(file)}),
        ("AsyncSessionManager", {"store_url": f"sqlite://{file}"}),
    ):
        server.configure({section: options}, {})
        server.start()
        server.create("a.ipynb")
        server.wait_for_kernels(1)
        server.kill()
        assert CommandLine(server).paths() == ["a.ipynb"]
        server.kill_kernels()
        assert not server.store.exists()


def test_configuration_that_is_wrong_is_said_and_servers_are_asked(
    server: Server, cli: CommandLine
) -> None:
    server.create("a.ipynb")

    ran = cli("list", "--json", "--AsyncSessionManager.store_url=strange://there")

    assert "configured wrongly" in ran.err
    assert [each["path"] for each in json.loads(ran.out)] == ["a.ipynb"]


def test_a_config_file_can_be_named(server: Server, cli: CommandLine) -> None:
    server.create("a.ipynb")
    server.wait_for_kernels(1)
    server.kill()
    file = server.folder / "mine.py"
    file.write_text("c.AsyncSessionManager.database_filepath = ':memory:'\n")

    ran = cli("list", f"--config={file}")

    assert "There are no sessions" in ran.err


@pytest.mark.parametrize("kernel", ["python3", "light"])
def test_an_orphan_whose_record_was_lost_is_listed_though_it_is_connected_to_itself(
    server: Server, cli: CommandLine, kernel: str
) -> None:
    model = server.create("a.ipynb", kernel)
    if kernel == "python3":
        execute(server, model)
    server.wait_for_kernels(1)
    server.kill()
    for record in server.runtime_dir.glob("nbsessions/kernels/*.json"):
        record.unlink()
    # The connections of the server that was killed end in their time.
    wait_until(lambda: cli.sessions("--orphans"), "it is listed")
    (orphan,) = cli.sessions("--orphans")
    assert orphan["kernel_id"] == model["kernel"]["id"]
    assert cli("stop", "--orphans", "-y").status == 0
    assert server.kernel_processes() == []


# Kernels that were taken over without a session


@pytest.fixture
def without_session(server: Server) -> str:
    """The id of a kernel that a server has taken over, and that never had a session."""
    kernel_id = server.start_kernel("python3")
    assert server.execute(kernel_id, "x = 42; x") == "42"
    session = server.create("a.ipynb")
    server.kill()
    server.start()
    wait_until(lambda: server.log_lines("W", "it has no session"), "it is said")
    (warning,) = server.log_lines("W", "it has no session")
    assert kernel_id in warning
    assert session["kernel"]["id"] not in warning
    return kernel_id


def test_a_kernel_that_was_taken_over_without_a_session_is_listed_with_how_to_reach_it(
    server: Server, cli: CommandLine, without_session: str
) -> None:
    (listed,) = cli.sessions("--orphans")
    assert (listed["kernel_id"], listed["id"], listed["path"]) == (without_session, None, None)
    assert (listed["server"], listed["state"]) == ("running", "idle")
    assert "Kernels without a session: 1" in cli("list").err
    ran = cli("list", "--orphans")
    assert f"jupyter console --existing kernel-{without_session}.json" in ran.err
    reply = server.post({"path": "b.ipynb", "type": "notebook", "kernel": {"id": without_session}})
    assert reply.status == 201
    assert server.execute(without_session, "x") == "42"
    assert cli.sessions("--orphans") == []


def test_a_kernel_that_was_taken_over_without_a_session_is_shut_down_by_its_server(
    server: Server, cli: CommandLine, without_session: str
) -> None:
    assert "taken over by a server" in cli("doctor").out
    with Channel(server, without_session):
        ran = cli("stop", "--orphans", "-y")
        assert (ran.status, "a client is connected" in ran.err) == (1, True)
    assert cli("stop", "--orphans", "-y").status == 0
    assert without_session not in server.kernel_ids()
    assert len(server.list_sessions()) == 1


def test_a_kernel_that_was_started_without_a_session_is_no_orphan(
    server: Server, cli: CommandLine
) -> None:
    server.start_kernel("light")
    assert cli.sessions("--orphans") == []


# show


def test_show_finds_a_session_by_id_prefix_and_path(server: Server, cli: CommandLine) -> None:
    model = server.create("folder/a.ipynb", kernel="python3")
    server.create("b.ipynb")
    execute(server, model)
    for wanted in (model["id"], model["id"][:9], "folder/a.ipynb", "/folder/a.ipynb"):
        shown = cli("show", wanted, "--json").json()
        assert list(shown) == SHOWN_KEYS
        assert shown["id"] == model["id"]
        assert shown["root_dir"] == str(server.root_dir)
        assert shown["connections"] >= 0
        assert datetime.fromisoformat(shown["created"]).tzinfo is not None


def test_show_writes_a_line_for_each_thing_that_is_known(server: Server, cli: CommandLine) -> None:
    model = server.create("a.ipynb", kernel="python3")
    server.create("light.ipynb")
    execute(server, model)

    lines = cli("show", "a.ipynb").out.splitlines()

    assert lines[0].split() == ["id", model["id"]]
    assert any(line.startswith("memory ") and line.rstrip().endswith("MB") for line in lines)
    assert any(line.startswith("idle for") for line in lines)
    # A light kernel says nothing of itself.
    assert "idle for" not in cli("show", "light.ipynb").out


@pytest.mark.parametrize("running", [True, False])
def test_show_keeps_secrets(server: Server, cli: CommandLine, running: bool) -> None:
    model = server.create("a.ipynb")
    server.wait_for_kernels(1)
    record = wait_for_record(server, model, "env", "JPY_SESSION_NAME")
    key = record["connection_info"]["key"]
    if not running:
        server.kill()

    for arguments in (["show", "a.ipynb"], ["show", "a.ipynb", "--json"], ["list", "--json"]):
        ran = cli(*arguments, "--debug")
        assert ran.status == 0
        for secret in (key, server.token, "JPY_SESSION_NAME"):
            assert secret not in ran.out + ran.err


def test_what_is_not_there_cannot_be_shown(server: Server, cli: CommandLine) -> None:
    server.create("a.ipynb")
    for wanted in ("b.ipynb", "ipynb", ""):
        ran = cli("show", wanted)
        assert (ran.status, ran.out) == (1, "")
        assert f"no session has the id or path {wanted!r}" in ran.err


@pytest.mark.parametrize("arguments", [[], ["a", "b"]])
def test_show_takes_one_name(server: Server, cli: CommandLine, arguments: list[str]) -> None:
    ran = cli("show", *arguments)
    assert (ran.status, ran.err) == (1, "`show` takes one id or path\n")


# The command itself


def test_without_a_subcommand_there_is_help(server: Server, cli: CommandLine) -> None:
    ran = cli()
    assert ran.status == 1
    for subcommand in ("list", "show", "stop", "doctor", "database"):
        assert subcommand in ran.out


def test_a_subcommand_that_is_none_is_an_error(server: Server, cli: CommandLine) -> None:
    ran = cli("start")
    assert ran.status == 1
    assert "no subcommand 'start'" in ran.err
