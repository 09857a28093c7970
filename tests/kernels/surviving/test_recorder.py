"""The records of a server's kernels, from before their launch to their end."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tornado.ioloop import IOLoop

from nbsessions.kernels import internals
from nbsessions.kernels.base import current_start
from nbsessions.kernels.launches import Launches
from nbsessions.kernels.surviving import recorder as recorder_module
from nbsessions.registry.process import KERNEL_ID_VARIABLE, identify
from nbsessions.registry.records import KernelRecord, KernelRecords
from nbsessions.registry.servers import State
from support.server import remove_at_once
from support.starts import start_request
from support.surviving import Place
from support.surviving_managers import runtime_place, surviving_kernel_manager

KERNEL_ID = "11111111-2222-4333-8444-555555555555"
REQUEST = start_request()
_LONG_AGO = datetime(2020, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc)


@pytest.fixture
def managed(tmp_path: Path) -> Place:
    """The records of the kernel manager below."""
    return runtime_place(tmp_path)


@pytest.fixture(autouse=True)
def short_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "_FLUSH_INTERVAL", 0.02)


async def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait until the condition holds, while the event loop runs."""
    deadline = IOLoop.current().time() + 60
    while not (value := condition()):
        assert IOLoop.current().time() < deadline, f"still not so: {what}"
        await asyncio.sleep(0.01)
    return value


@asynccontextmanager
async def started(folder: Path, **options: Any) -> AsyncIterator[tuple[Any, Any]]:
    """Yield a kernel manager with one kernel, and the kernel's own manager."""
    async with surviving_kernel_manager(folder) as kernel_manager:
        kernel_id = await kernel_manager.start_kernel(kernel_id=KERNEL_ID, path="", **options)
        yield kernel_manager, kernel_manager.get_kernel(kernel_id)


def run_out_of_space(records: KernelRecords, record: KernelRecord) -> None:
    raise OSError("no space left")


def read(managed: Place) -> KernelRecord:
    record = managed.records.read(KERNEL_ID)
    assert record is not None
    return record


# A start


@pytest.mark.gen_test
async def test_a_started_kernel_is_written_down_with_all_that_is_known(
    tmp_path: Path, managed: Place
) -> None:
    env = {**os.environ, "ADDED": "1", "PATH": "/changed"}
    env.pop("HOME", None)
    async with started(tmp_path, env=env) as (_, kernel):
        record = read(managed)
        assert record.process == identify(kernel.provisioner.pid)
        assert record.server_id in managed.servers.list_ids()
        assert record.host == socket.gethostname()
        assert record.root_dir == str(managed.folder.parents[1] / "root")
        assert record.kernel_name == "light"
        assert record.kernel_spec["argv"] == kernel.kernel_spec.argv
        assert record.connection_file == kernel.connection_file
        assert record.connection_info["key"] == kernel.session.key.decode()
        assert record.connection_info["shell_port"] == kernel.shell_port
        assert record.cwd == str(tmp_path / "root")
        assert record.env["ADDED"] == "1"
        assert record.env["PATH"] == "/changed"
        assert set(record.env) <= {"ADDED", "PATH", "JPY_PARENT_PID", KERNEL_ID_VARIABLE}
        assert record.env_removed == (["HOME"] if "HOME" in os.environ else [])
        assert (record.session_id, record.token) == (None, None)


@pytest.mark.gen_test
async def test_a_start_for_a_session_is_written_down_with_it(
    tmp_path: Path, managed: Place
) -> None:
    current_start.set(REQUEST)
    async with started(tmp_path) as (kernel_manager, _):
        current_start.set(None)
        assert (read(managed).session_id, read(managed).token) == ("a-session", "a-token")
        assert kernel_manager.find_started("a-token") == KERNEL_ID
        assert kernel_manager.find_started("another") is None
        await kernel_manager.restart_kernel(KERNEL_ID, now=True)
        assert (read(managed).session_id, read(managed).token) == ("a-session", "a-token")


@pytest.mark.gen_test
async def test_a_launch_is_announced_when_the_kernel_has_a_record_of_its_process(
    tmp_path: Path, managed: Place
) -> None:
    announced: list[tuple[str, str]] = []

    def launched(kernel_id: str, kernel_name: str) -> None:
        assert read(managed).process is not None
        assert kernel_id not in manager
        announced.append((kernel_id, kernel_name))

    request = replace(REQUEST, launched=launched)
    async with surviving_kernel_manager(tmp_path) as manager:
        with Launches().start(request):
            await manager.start_kernel(kernel_id=KERNEL_ID)
            assert announced == [(KERNEL_ID, "light")]
            # In the context of the start, and of another one.
            await manager.restart_kernel(KERNEL_ID, now=True)
        with Launches().start(replace(request, token="another")):
            await manager.restart_kernel(KERNEL_ID, now=True)
        assert announced == [(KERNEL_ID, "light")]


@pytest.mark.gen_test
async def test_a_kernel_is_written_down_before_it_is_launched(
    tmp_path: Path, managed: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[KernelRecord] = []
    launch = "jupyter_client.provisioning.local_provisioner.launch_kernel"

    def refuse(*arguments: object, **options: object) -> None:
        seen.append(read(managed))
        raise OSError("no process left")

    monkeypatch.setattr(launch, refuse)
    async with surviving_kernel_manager(tmp_path) as kernel_manager:
        with pytest.raises(OSError, match="no process left"):
            await kernel_manager.start_kernel(kernel_id=KERNEL_ID)
        assert [(each.kernel_id, each.process) for each in seen] == [(KERNEL_ID, None)]
        await until(lambda: not managed.record_file(KERNEL_ID).exists(), "it is forgotten")
        kernel_manager._pending_kernels.clear()


@pytest.mark.gen_test
async def test_a_kernel_that_cannot_be_written_down_runs_all_the_same(
    tmp_path: Path,
    managed: Place,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(KernelRecords, "write", run_out_of_space)
    async with started(tmp_path) as (kernel_manager, kernel):
        assert await kernel.is_alive()
        assert not kernel_manager.recorder.has(KERNEL_ID)
        assert kernel.provisioner.identity is None
    assert f"Kernel {KERNEL_ID} will end with this server" in caplog.text
    assert "no space left" in caplog.text


@pytest.mark.gen_test
async def test_a_restart_that_cannot_be_written_down_harms_no_other_kernel(
    tmp_path: Path, managed: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(tmp_path) as (kernel_manager, kernel):
        with monkeypatch.context() as fault:
            fault.setattr(KernelRecords, "write", run_out_of_space)
            await kernel_manager.restart_kernel(KERNEL_ID, now=True)
        assert kernel.provisioner.identity is None
        assert not kernel_manager.recorder.has(KERNEL_ID)
        await until(lambda: not managed.record_file(KERNEL_ID).exists(), "it is forgotten")
        another = await kernel_manager.start_kernel(path="")
        kernel_manager.get_kernel(another).execution_state = "busy"
        await until(lambda: '"busy"' in managed.record_file(another).read_text(), "it is followed")
        kernel.update_env(env={"JPY_SESSION_NAME": "b.ipynb"})
    assert [file for file in managed.folder.rglob("*") if file.is_file()] == []


@pytest.mark.gen_test
async def test_a_kernel_is_adopted_in_its_restart_only_without_a_process(
    tmp_path: Path, managed: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "_FLUSH_INTERVAL", 3600.0)
    async with started(tmp_path) as (kernel_manager, kernel):
        record = replace(read(managed), restarting=True)
        kernel_manager.recorder.adopted(kernel, record)
        assert not read(managed).restarting
        kernel_manager.recorder.adopted(kernel, replace(record, process=None))
        assert read(managed).restarting


# Changes


@pytest.mark.gen_test
async def test_changes_are_written_down_while_the_kernel_runs(
    tmp_path: Path, managed: Place
) -> None:
    async with started(tmp_path) as (kernel_manager, kernel):
        assert kernel_manager.recorder.has(KERNEL_ID)
        kernel.execution_state = "busy"
        kernel.last_activity = _LONG_AGO
        await until(lambda: read(managed).execution_state == "busy", "it is written down")
        assert read(managed).last_activity == _LONG_AGO


@pytest.mark.gen_test
async def test_the_websockets_that_were_connected_last_are_written_down(
    tmp_path: Path, managed: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients: list[tuple[str, str]] = []
    monkeypatch.setattr(internals, "open_websockets", lambda: list(clients))
    async with started(tmp_path) as (manager, kernel):
        assert not manager.had_clients(KERNEL_ID)
        connected = [f"{KERNEL_ID}:a-client", f"{KERNEL_ID}:another-client"]
        clients.extend((KERNEL_ID, client) for client in connected)
        await until(lambda: read(managed).clients == connected, "they are written down")
        clients.clear()
        clients.append(("another", "another:a-client"))
        kernel.execution_state = "seen later"
        await until(lambda: read(managed).execution_state == "seen later", "it was looked at")
        # The clients stay in the record, because they may reconnect.
        assert read(managed).clients == connected
        assert manager.had_clients(KERNEL_ID)


@pytest.mark.gen_test
async def test_that_changes_cannot_be_written_down_is_said_once_until_they_can(
    tmp_path: Path,
    managed: Place,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried: list[str] = []

    def fail(records: KernelRecords, record: KernelRecord) -> None:
        tried.append(record.execution_state)
        run_out_of_space(records, record)

    def said() -> int:
        return caplog.text.count(f"No record written for kernel {KERNEL_ID}: no space left")

    async with started(tmp_path) as (_, kernel):
        for time in ("first", "second"):
            with monkeypatch.context() as fault:
                fault.setattr(KernelRecords, "write", fail)
                for number in range(3):
                    kernel.execution_state = f"{time} {number}"
                    await until(lambda: tried[-1:] == [kernel.execution_state], "it was tried")
            kernel.execution_state = f"written after the {time}"
            await until(lambda: kernel.execution_state == read(managed).execution_state, "it was")
            assert said() == {"first": 1, "second": 2}[time]


@pytest.mark.gen_test
@pytest.mark.parametrize("removed", ["", "kernels", "servers"])
async def test_what_somebody_has_removed_is_written_again_by_a_server_at_rest(
    tmp_path: Path, managed: Place, removed: str
) -> None:
    async with started(tmp_path) as (_, kernel):
        kernel.execution_state = "idle"
        await until(lambda: read(managed).execution_state == "idle", "it is at rest")
        record = read(managed)
        remove_at_once(managed.folder / removed)
        await until(managed.record_file(KERNEL_ID).exists, "it is written down again")
        await until(
            lambda: managed.servers.state(record.server_id) is State.LIVE, "the server is live"
        )
        assert read(managed) == record


@pytest.mark.gen_test
async def test_a_folder_that_somebody_has_removed_is_made_again(
    tmp_path: Path, managed: Place
) -> None:
    async with started(tmp_path) as (kernel_manager, kernel):
        server_id = read(managed).server_id
        managed.folder.rename(tmp_path / "away")
        another = await kernel_manager.start_kernel(path="")
        assert kernel_manager.recorder.has(another)
        kernel.execution_state = "busy"
        await until(managed.record_file(KERNEL_ID).exists, "it is written down again")
        assert managed.servers.state(server_id) is State.LIVE


@pytest.mark.gen_test
async def test_a_new_environment_is_written_down(tmp_path: Path, managed: Place) -> None:
    async with started(tmp_path, env=dict(os.environ)) as (_, kernel):
        kernel.update_env(env={"JPY_SESSION_NAME": "b.ipynb"})
        await until(
            lambda: read(managed).env.get("JPY_SESSION_NAME") == "b.ipynb", "it is written down"
        )


@pytest.mark.gen_test
async def test_what_is_printed_is_passed_on_and_counted(
    tmp_path: Path, managed: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    async with started(tmp_path):
        with managed.log_file(KERNEL_ID).open("ab") as file:
            file.write(b"printed by a kernel\n")
        await until(lambda: read(managed).logged == len("printed by a kernel\n"), "it is counted")
    assert "printed by a kernel\n" in capfd.readouterr().err


@pytest.mark.gen_test
async def test_a_server_with_kernels_is_never_silent(tmp_path: Path, managed: Place) -> None:
    async with started(tmp_path):
        server_id = read(managed).server_id
        file = managed.lock_file(server_id)
        os.utime(file, (0, 0))
        await until(lambda: managed.servers.silent_for(server_id) < 1000, "it was touched")
        assert managed.servers.state(server_id) is State.LIVE


# The end


@pytest.mark.gen_test
async def test_of_a_kernel_that_was_shut_down_nothing_is_left(
    tmp_path: Path, managed: Place
) -> None:
    async with started(tmp_path) as (kernel_manager, _):
        await kernel_manager.shutdown_kernel(KERNEL_ID, now=True)
        await until(lambda: not managed.record_file(KERNEL_ID).exists(), "it is forgotten")
        await until(lambda: not managed.log_file(KERNEL_ID).exists(), "so is its log")
        assert not kernel_manager.recorder.has(KERNEL_ID)
        kernel_manager.recorder.forget(KERNEL_ID)


@pytest.mark.gen_test
async def test_of_a_server_that_was_shut_down_nothing_is_left(
    tmp_path: Path, managed: Place
) -> None:
    async with started(tmp_path) as (kernel_manager, _):
        pass
    kernel_manager.recorder.close()
    files = [file for file in managed.folder.rglob("*") if file.is_file()]
    assert files == []


@pytest.mark.gen_test
async def test_a_closed_recorder_writes_what_has_changed_and_leaves_its_kernels_to_others(
    tmp_path: Path, managed: Place
) -> None:
    async with started(tmp_path) as (kernel_manager, kernel):
        server_id = read(managed).server_id
        kernel.execution_state = "the last one"
        kernel_manager.recorder.close()
        kernel_manager.recorder.close()
        assert read(managed).execution_state == "the last one"
        assert managed.servers.state(server_id) is State.DEAD
        kernel_manager.recorder.renamed(KERNEL_ID)
        kernel_manager.recorder.forget(KERNEL_ID)
        assert managed.records.read(KERNEL_ID) is None


@pytest.mark.gen_test
async def test_an_adoption_and_a_start_do_not_register_the_server_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2, timeout=0.2)

    def register() -> None:
        # The second one cannot come, so the first one goes on alone.
        with pytest.raises(threading.BrokenBarrierError):
            both.wait()

    async with surviving_kernel_manager(tmp_path) as kernel_manager:
        monkeypatch.setattr(kernel_manager._servers, "register", register)
        registering = asyncio.ensure_future(asyncio.to_thread(kernel_manager.recorder.register))
        await asyncio.to_thread(kernel_manager.recorder.register)
        await registering
