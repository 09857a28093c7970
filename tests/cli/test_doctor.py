"""``doctor``: what is well, each thing that can be wrong, and that it changes nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import sqlite3
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Config

from nbsessions.cli.checks.servers import check_servers
from nbsessions.identity import new_owner
from nbsessions.stores.sqlite.store import SQLiteSessionStore
from support.cli import CommandLine, change_info
from support.server import Server, StartServer
from support.values import make_session
from support.waiting import wait_until


@pytest.fixture
def stopped(start_server: StartServer) -> Server:
    """A server that does not run, and has left a store."""
    server = start_server(start=False)
    make_store(server.store, private_folder=True)
    return server


@pytest.fixture
def doctor(stopped: Server) -> CommandLine:
    return CommandLine(stopped)


def make_store(path: Path, **options: Any) -> None:
    async def make() -> None:
        store = SQLiteSessionStore(path, "/root", log=logging.getLogger("test"), **options)
        await store.open(owner := new_owner())
        session = make_session(scope=owner.owner_id)
        await store.insert(session)
        store.close(running=[session.kernel_id])

    asyncio.run(make())


def found(cli: CommandLine, level: str, *arguments: str) -> dict[str, str]:
    """Return what ``doctor --json`` finds of a level: the messages by check."""
    report = json.loads(cli("doctor", "--json", *arguments).out)
    return {each["check"]: each["message"] for each in report["checks"] if each["level"] == level}


def check_wrong(cli: CommandLine, check: str, message: str, *arguments: str) -> None:
    """Check that nothing else is wrong, and that the exit code says so."""
    errors = found(cli, "error", *arguments)
    assert set(errors) == {check}
    assert message in errors[check]
    ran = cli("doctor", *arguments)
    assert ran.status == 1
    assert f"{check}: " in ran.out


def snapshot(folder: Path) -> dict[Path, tuple[int, float]]:
    return {
        path: (path.stat().st_size, path.stat().st_mtime)
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


def keeper_files(server: Server, pattern: str) -> list[Path]:
    return list(server.runtime_dir.glob(f"nbsessions/keeper-*/{pattern}"))


# All is well


def test_without_a_server_all_is_well(stopped: Server, doctor: CommandLine) -> None:
    report = doctor("doctor", "--json").json()

    assert report["ok"]
    assert {each["check"] for each in report["checks"] if each["level"] == "ok"} >= {
        "store",
        "store-permissions",
        "store-writable",
        "store-integrity",
        "store-schema",
        "store-journal",
        "extension",
        "session-manager",
        "kernel-manager",
        "records-permissions",
        "orphans",
    }
    assert all(list(each) == ["check", "level", "message", "hint"] for each in report["checks"])
    ran = doctor("doctor")
    assert ran.status == 0
    assert f"sessions are kept in {stopped.store}" in ran.out


def test_beside_a_server_all_is_well(server: Server, cli: CommandLine) -> None:
    server.create("a.ipynb")
    ran = cli("doctor")
    assert ran.status == 0
    assert "keeps its sessions in the store" in ran.out


def test_before_the_first_start_all_is_well(start_server: StartServer) -> None:
    server = start_server(start=False)
    assert "does not exist yet" in found(CommandLine(server), "ok")["store"]


@pytest.mark.parametrize("state", ["new", "stopped", "running", "killed"])
def test_nothing_is_changed(start_server: StartServer, state: str) -> None:
    server = start_server(start=False)
    if state != "new":
        server.start()
        server.create("a.ipynb")
        server.wait_for_kernels(1)
        wait_until(lambda: keeper_files(server, "spools/*.spool"), "the keeper listens")
    if state == "stopped":
        server.stop()
    if state == "killed":
        server.kill()
        server.kill_kernels()
    if state in ("stopped", "killed"):
        wait_until(lambda: server.keeper_process() is None, "the keeper has nothing to do")
    if state == "running":
        # Its record is written once more, and the log's index with the first read.
        (kernel_id,) = server.kernel_records()
        wait_until(lambda: server.kernel_record(kernel_id)["last_activity"], "it is complete")
        server.list_sessions()
    for folder in (server.runtime_dir, server.config_dir):
        if state == "new":
            folder.rename(folder.with_name("away"))
    before = snapshot(server.data_dir)
    names = sorted(server.folder.rglob("*"))

    assert CommandLine(server)("doctor").status == 0

    assert snapshot(server.data_dir) == before
    assert sorted(server.folder.rglob("*")) == names


# The store


def test_a_file_that_others_can_read_is_wrong(stopped: Server, doctor: CommandLine) -> None:
    stopped.store.chmod(0o640)
    check_wrong(doctor, "store-permissions", "can be used by others (mode 640)")


def test_a_folder_that_others_can_enter_is_wrong(stopped: Server, doctor: CommandLine) -> None:
    stopped.store.parent.chmod(0o750)
    check_wrong(doctor, "store-permissions", "can be used by others (mode 750)")


def test_a_folder_of_the_users_own_may_be_entered_but_not_changed(
    stopped: Server, doctor: CommandLine
) -> None:
    folder = stopped.folder / "mine"
    folder.mkdir(mode=0o755)
    make_store(folder / "sessions.db")
    arguments = f"--AsyncSessionManager.database_filepath={folder / 'sessions.db'}"
    assert found(doctor, "error", arguments) == {}
    folder.chmod(0o777)
    check_wrong(doctor, "store-permissions", "others may replace the files", arguments)


def test_a_read_only_file_is_wrong(stopped: Server, doctor: CommandLine) -> None:
    stopped.store.chmod(0o400)
    check_wrong(doctor, "store-writable", f"{stopped.store} cannot be written")


def test_a_read_only_folder_is_wrong(stopped: Server, doctor: CommandLine) -> None:
    stopped.store.parent.chmod(0o500)
    try:
        check_wrong(doctor, "store-writable", f"{stopped.store.parent} cannot be written")
    finally:
        stopped.store.parent.chmod(0o700)


def test_a_folder_that_cannot_be_made_is_wrong(stopped: Server, doctor: CommandLine) -> None:
    shutil.rmtree(stopped.store.parent)
    stopped.data_dir.chmod(0o500)
    check_wrong(doctor, "store", "cannot be written")
    stopped.data_dir.chmod(0o700)


def test_a_file_that_is_no_database_is_wrong(stopped: Server, doctor: CommandLine) -> None:
    stopped.store.write_bytes(b"no database" * 1000)
    check_wrong(doctor, "store-integrity", "is not a database")


def test_a_damaged_page_is_wrong(stopped: Server, doctor: CommandLine) -> None:
    with stopped.store.open("r+b") as file:
        file.seek(4096 + 1)
        file.write(b"\xff" * 4000)
    check_wrong(doctor, "store-integrity", "damaged")


def test_a_damaged_index_is_wrong(stopped: Server, doctor: CommandLine) -> None:
    with sqlite3.connect(stopped.store) as connection:
        connection.execute("PRAGMA writable_schema = 1")
        connection.execute(
            "UPDATE sqlite_master SET sql = replace(sql, '(kernel_id)', '(path)') "
            "WHERE name = 'nbsessions_session_kernel'"
        )
    connection.close()
    check_wrong(doctor, "store-integrity", "it is damaged: row 1 missing from index")


def test_a_file_of_a_newer_release_is_wrong(stopped: Server, doctor: CommandLine) -> None:
    with sqlite3.connect(stopped.store) as connection:
        connection.execute("UPDATE nbsessions_meta SET value = 99")
    connection.close()
    check_wrong(doctor, "store-schema", "Upgrade nbsessions")
    assert "Upgrade nbsessions" in doctor("list").err


def test_a_log_without_its_index_is_left_to_a_server(stopped: Server, doctor: CommandLine) -> None:
    stopped.store.with_name("sessions.db-wal").touch(mode=0o600)
    check_wrong(doctor, "store-readable", "cannot be read without changing it")


def test_a_store_url_that_nobody_knows_is_wrong(stopped: Server, doctor: CommandLine) -> None:
    check_wrong(
        doctor, "store", "configured wrongly", "--AsyncSessionManager.store_url=strange://there"
    )


def test_a_store_in_memory_is_a_warning(stopped: Server, doctor: CommandLine) -> None:
    for argument in ("database_filepath=:memory:", "store_url=memory:"):
        warnings = found(doctor, "warning", f"--AsyncSessionManager.{argument}")
        assert "lost when their server ends" in warnings["store"]


def test_a_file_of_the_servers_own_session_manager_keeps_its_journal(
    stopped: Server, doctor: CommandLine
) -> None:
    file = stopped.folder / "stock.db"
    os.close(os.open(file, os.O_CREAT, 0o600))
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE session (session_id, path, name, type, kernel_id)")
    connection.close()
    argument = f"--SessionManager.database_filepath={file}"
    assert found(doctor, "ok")["store-journal"] == "it is in WAL mode"
    fine = found(doctor, "ok", argument)
    assert "own session manager uses the file, too" in fine["store-journal"]
    assert "no nbsessions tables yet" in fine["store-schema"]
    assert doctor("list", argument).err == "There are no sessions\n"


def test_a_journal_that_the_next_start_changes_is_said(
    stopped: Server, doctor: CommandLine
) -> None:
    with closing(sqlite3.connect(stopped.store)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    journal = found(doctor, "ok")["store-journal"]
    assert journal.startswith("it uses a rollback journal, ")
    assert journal.endswith(("until a server starts", "one of unknown type"))


# Extension and classes


def test_an_extension_that_is_disabled_is_wrong(stopped: Server, doctor: CommandLine) -> None:
    stopped.configure({}, {"nbsessions": False})
    check_wrong(doctor, "extension", "Jupyter Server does not load nbsessions")


def test_an_extension_that_nobody_has_enabled_is_wrong(
    stopped: Server, doctor: CommandLine
) -> None:
    doctor.environment["JUPYTER_CONFIG_PATH"] = ""
    doctor.environment["JUPYTER_NO_CONFIG"] = "1"
    check_wrong(doctor, "extension", "does not load nbsessions")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "jupyter_server.services.sessions.sessionmanager.SessionManager",
            "nbsessions stands aside",
        ),
        ("nowhere.Manager", "nowhere.Manager cannot be imported"),
        ("os.path.join", "is not a class"),
    ],
)
def test_a_foreign_session_manager_is_wrong(
    stopped: Server, doctor: CommandLine, name: str, message: str
) -> None:
    stopped.configure({"ServerApp": {"session_manager_class": name}}, {})
    check_wrong(doctor, "session-manager", message)


def test_our_own_session_manager_may_be_configured(stopped: Server, doctor: CommandLine) -> None:
    stopped.configure(
        {"ServerApp": {"session_manager_class": "nbsessions.AsyncSessionManager"}}, {}
    )
    assert "a session manager of nbsessions" in found(doctor, "ok")["session-manager"]


def test_a_foreign_kernel_manager_is_a_warning(stopped: Server, doctor: CommandLine) -> None:
    module = "jupyter_server.services.kernels.kernelmanager"
    stopped.configure(
        {"ServerApp": {"kernel_manager_class": f"{module}.AsyncMappingKernelManager"}}, {}
    )
    assert "kernels end with their server" in found(doctor, "warning")["kernel-manager"]
    assert doctor("doctor").status == 0


def test_our_own_kernel_manager_may_be_configured(stopped: Server, doctor: CommandLine) -> None:
    ours = "nbsessions.kernels.surviving.manager.SurvivingMappingKernelManager"
    stopped.configure({"ServerApp": {"kernel_manager_class": ours}}, {})
    assert "whose kernels survive" in found(doctor, "ok")["kernel-manager"]


def test_a_kernel_manager_that_is_not_there_is_wrong(stopped: Server, doctor: CommandLine) -> None:
    stopped.configure({"ServerApp": {"kernel_manager_class": "nowhere.Manager"}}, {})
    check_wrong(doctor, "kernel-manager", "nowhere.Manager cannot be imported")


def test_classic_notebook_is_said_to_end_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(distribution: str) -> str:
        if distribution != "notebook":
            raise metadata.PackageNotFoundError
        return "6.5.7"

    monkeypatch.setattr(metadata, "version", version)
    messages = [finding.message for finding in check_servers(Config(), [])]
    assert "in classic Notebook, kernels end with their server" in messages


GATEWAY = "--GatewayClient.url=http://gateway"


def test_kernels_of_a_gateway_are_said_to_outlive_every_server(
    stopped: Server, doctor: CommandLine
) -> None:
    assert "outlive every server" in found(doctor, "ok", GATEWAY)["gateway"]
    ours = "nbsessions.kernels.gateway.manager.GatewayKernels"
    stopped.configure({"ServerApp": {"kernel_manager_class": ours}}, {})
    assert "outlive every server" in found(doctor, "ok", GATEWAY)["gateway"]
    assert "kernel-manager" not in found(doctor, "warning", GATEWAY)


def test_another_kernel_manager_for_a_gateway_is_a_warning(
    stopped: Server, doctor: CommandLine
) -> None:
    stock = "jupyter_server.gateway.managers.GatewayMappingKernelManager"
    stopped.configure({"ServerApp": {"kernel_manager_class": stock}}, {})
    assert "stands aside" in found(doctor, "warning", GATEWAY)["gateway"]


def test_settings_that_end_kernels_are_warnings(stopped: Server, doctor: CommandLine) -> None:
    stopped.configure({"SurvivingKernels": {"keep_kernels": "never", "hangup": "stop"}}, {})
    out = doctor("doctor").out
    assert "keep_kernels is `never`" in out
    assert "hangup is `stop`" in out


# Servers and kernels


def test_keys_that_others_can_read_are_wrong(server: Server, cli: CommandLine) -> None:
    server.create("a.ipynb")
    server.wait_for_kernels(1)
    server.kill()
    (record,) = (server.runtime_dir / "nbsessions" / "kernels").glob("*.json")
    record.chmod(0o644)
    check_wrong(cli, "records-permissions", "can be used by others (mode 644)")
    assert "1 kernel runs without a server" in found(cli, "warning")["orphans"]


def test_a_server_that_keeps_sessions_elsewhere_is_a_warning(
    start_server: StartServer,
) -> None:
    server = start_server(extensions={"nbsessions": False})
    server.configure({}, {})
    cli = CommandLine(server)
    assert "keeps its sessions elsewhere" in found(cli, "warning")["server"]
    change_info(server, token="another")
    assert "rejects the token" in found(cli, "warning")["server"]
    assert cli("doctor").status == 0


def test_doctor_takes_no_names(stopped: Server, doctor: CommandLine) -> None:
    assert doctor("doctor", "me").err == "`doctor` takes no arguments\n"


@pytest.mark.parametrize("running", [True, False])
def test_a_place_without_file_locks_is_told(start_server: StartServer, running: bool) -> None:
    server = start_server(start=running, environment={"WITHOUT_LOCKS": "1"})
    server.allow_errors("kept in memory")
    cli = CommandLine(server)
    errors, warnings = found(cli, "error"), found(cli, "warning")
    assert str(server.store.parent) in errors["store-locks"]
    assert "memory" in errors["store-locks"]
    assert str(server.runtime_dir) in warnings["runtime-locks"]


def test_locks_that_work_are_told_and_leave_nothing(stopped: Server, doctor: CommandLine) -> None:
    before = sorted(stopped.folder.rglob("*"))
    assert {"store-locks", "runtime-locks"} <= found(doctor, "ok").keys()
    assert sorted(stopped.folder.rglob("*")) == before
