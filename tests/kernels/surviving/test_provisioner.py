"""Launching kernels that outlive their server, and adopting such kernels."""

from __future__ import annotations

import gc
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from jupyter_client.connect import LocalPortCache
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from nbsessions.kernels.surviving.provisioner import SurvivingProvisioner
from nbsessions.registry.process import KERNEL_ID_VARIABLE, ProcessIdentity, identify
from support.surviving import Place, Processes, runs
from support.surviving_managers import runtime_place, surviving_kernel_manager
from support.waiting import wait_until

_PORTS = {
    "shell_port": 1001,
    "iopub_port": 1002,
    "stdin_port": 1003,
    "hb_port": 1004,
    "control_port": 1005,
}


class Told:
    """Records the calls in which a provisioner reports on its kernel."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.survives = True

    async def launching(self) -> bool:
        if self.events != ["launching"]:  # it may be called again
            self.events.append("launching")
        return self.survives

    async def launched(self) -> None:
        self.events.append("launched")

    def ended(self) -> None:
        self.events.append("ended")


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def provisioner(told: Told, place: Place) -> SurvivingProvisioner:
    """A provisioner without a kernel manager, which launches any command."""
    made = SurvivingProvisioner(kernel_id="a-kernel", kernel_spec=KernelSpec(argv=["sleep"]))
    made.open_log = partial(place.records.open_log, "a-kernel")
    made.launching = told.launching
    made.launched = told.launched
    made.ended = told.ended
    return made


async def launch(provisioner: SurvivingProvisioner, *argv: str, **options: Any) -> None:
    """Launch a process as a kernel manager does."""
    options = await provisioner.pre_launch(**options)
    await provisioner.launch_kernel(**{**options, "cmd": list(argv)})


def environment_of(provisioner: SurvivingProvisioner) -> dict[str, str]:
    # The environment is empty for a moment after the process has started.
    return wait_until(psutil.Process(provisioner.pid).environ, "it has its environment")


async def end(provisioner: SurvivingProvisioner) -> None:
    await provisioner.kill()
    await provisioner.wait()


# Launching


@pytest.mark.gen_test
async def test_a_kernel_leads_a_session_and_looks_for_no_parent(
    provisioner: SurvivingProvisioner, told: Told
) -> None:
    await launch(provisioner, "sleep", "600", env={**os.environ, "JPY_PARENT_PID": "123"})
    try:
        assert provisioner.pid is not None
        assert os.getsid(provisioner.pid) == provisioner.pid
        environment = environment_of(provisioner)
        assert environment["JPY_PARENT_PID"] == "1"
        assert environment[KERNEL_ID_VARIABLE] == "a-kernel"
        assert provisioner.identity == identify(provisioner.pid)
        assert told.events == ["launching", "launched"]
    finally:
        await end(provisioner)


@pytest.mark.gen_test
async def test_a_kernel_that_cannot_be_recorded_dies_with_its_server(
    provisioner: SurvivingProvisioner, told: Told, place: Place
) -> None:
    told.survives = False
    await launch(provisioner, "sleep", "600", env=dict(os.environ))
    try:
        assert provisioner.pid is not None
        environment = environment_of(provisioner)
        assert environment["JPY_PARENT_PID"] == str(os.getpid())
        assert KERNEL_ID_VARIABLE not in environment
        assert provisioner.identity is None
        assert not place.log_file("a-kernel").exists()
        assert told.events == ["launching"]
    finally:
        await end(provisioner)


@pytest.mark.gen_test
async def test_what_a_kernel_prints_goes_to_its_own_file(
    provisioner: SurvivingProvisioner, place: Place
) -> None:
    code = "echo printed; echo failed >&2"
    for _ in range(2):
        await launch(provisioner, "sh", "-c", code, env=dict(os.environ))
        await provisioner.wait()
    log_file = place.log_file("a-kernel")
    assert log_file.read_text() == 2 * "printed\nfailed\n"
    assert log_file.stat().st_mode & 0o777 == 0o600


@pytest.mark.gen_test
async def test_a_kernel_has_no_descriptor_of_its_server(
    provisioner: SurvivingProvisioner, place: Place
) -> None:
    await launch(provisioner, "sleep", "600", env=dict(os.environ))
    try:
        kernel = psutil.Process(provisioner.pid)
        log = str(place.log_file("a-kernel"))
        assert {each.fd for each in kernel.open_files() if each.path == log} == {1, 2}
        # The program may open some files of its own while it starts.
        wait_until(lambda: kernel.num_fds() <= 3, "it has no others")
    finally:
        await end(provisioner)


@pytest.mark.gen_test
async def test_a_launch_that_fails_is_told_and_keeps_no_descriptor(
    provisioner: SurvivingProvisioner, told: Told
) -> None:
    gc.collect()  # leftovers of other tests may hold descriptors
    before = psutil.Process().num_fds()
    with pytest.raises(FileNotFoundError):
        await launch(provisioner, "/nowhere/to-be-found", env=dict(os.environ))
    assert told.events == ["launching", "ended"]
    assert psutil.Process().num_fds() <= before


@pytest.mark.gen_test
async def test_the_end_is_told_and_a_restart_is_none(
    provisioner: SurvivingProvisioner, told: Told
) -> None:
    await provisioner.cleanup(restart=True)
    assert told.events == []
    await provisioner.cleanup()
    assert told.events == ["ended"]


# Adopting


def adopt(provisioner: SurvivingProvisioner, spawn: Processes) -> ProcessIdentity:
    identity = spawn.stranger()
    provisioner.adopt(identity, {"transport": "tcp", **_PORTS}, "/a/folder")
    return identity


@pytest.mark.gen_test
async def test_an_adopted_kernel_is_alive_until_it_is_killed(
    provisioner: SurvivingProvisioner, spawn: Processes
) -> None:
    identity = adopt(provisioner, spawn)
    assert provisioner.has_process
    assert provisioner.pid == provisioner.pgid == identity.pid
    assert provisioner.cwd == "/a/folder"
    assert await provisioner.poll() is None
    await provisioner.kill()
    assert await provisioner.wait() == -1
    assert not runs(identity)
    assert not provisioner.has_process
    await provisioner.cleanup()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@pytest.mark.gen_test
async def test_signals_reach_an_adopted_kernel_and_what_it_has_started(
    provisioner: SurvivingProvisioner, spawn: Processes, signum: int
) -> None:
    identity = spawn.stranger("sh", "-c", "sleep 600 | sleep 600")
    family = psutil.Process(identity.pid)
    wait_until(lambda: len(family.children()) == 2, "it has forked")
    children = [identify(child.pid) for child in family.children()]
    provisioner.adopt(identity, {"transport": "ipc"}, None)
    await provisioner.send_signal(signum)
    await provisioner.wait()
    wait_until(lambda: not any(map(runs, children)), "its children have ended")


@pytest.mark.gen_test
async def test_a_terminated_kernel_ends(
    provisioner: SurvivingProvisioner, spawn: Processes
) -> None:
    adopt(provisioner, spawn)
    await provisioner.terminate()
    assert await provisioner.wait() == -1


@pytest.mark.gen_test
async def test_nothing_is_sent_to_the_group_of_a_kernel_that_has_ended(
    provisioner: SurvivingProvisioner, spawn: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.kill(adopt(provisioner, spawn).pid, signal.SIGKILL)
    await provisioner.wait()
    sent: list[object] = []
    monkeypatch.setattr(os, "killpg", lambda *arguments: sent.append(arguments))
    await provisioner.send_signal(signal.SIGINT)
    await provisioner.kill()
    await provisioner.terminate()
    assert sent == []


def test_a_kernel_that_has_ended_cannot_be_adopted(
    provisioner: SurvivingProvisioner, spawn: Processes
) -> None:
    child = spawn.child("true")
    identity = identify(child.pid)
    child.wait()
    with pytest.raises(ProcessLookupError):
        provisioner.adopt(identity, {"transport": "tcp", **_PORTS}, None)
    assert not provisioner.has_process


@pytest.mark.gen_test
async def test_the_ports_of_an_adopted_kernel_are_taken_until_it_is_gone(
    provisioner: SurvivingProvisioner, spawn: Processes
) -> None:
    cache = LocalPortCache.instance()
    adopt(provisioner, spawn)
    assert set(_PORTS.values()) <= cache.currently_used_ports
    await end(provisioner)
    await provisioner.cleanup()
    assert not set(_PORTS.values()) & cache.currently_used_ports


@pytest.mark.gen_test
async def test_a_kernel_without_ports_is_adopted(
    provisioner: SurvivingProvisioner, spawn: Processes
) -> None:
    provisioner.adopt(spawn.stranger(), {"transport": "ipc"}, None)
    await end(provisioner)
    await provisioner.cleanup()


# In a kernel manager


@pytest.mark.gen_test
async def test_a_managed_kernel_has_our_provisioner(tmp_path: Path) -> None:
    async with surviving_kernel_manager(tmp_path) as kernel_manager:
        kernel_id = await kernel_manager.start_kernel()
        provisioner: Any = kernel_manager.get_kernel(kernel_id).provisioner
        assert type(provisioner) is SurvivingProvisioner
        assert provisioner.identity is not None
        assert runs(provisioner.identity)


@pytest.mark.gen_test
async def test_a_manager_that_keeps_no_kernels_has_the_stock_one(tmp_path: Path) -> None:
    async with surviving_kernel_manager(tmp_path, keep_kernels="never") as kernel_manager:
        kernel_id = await kernel_manager.start_kernel()
        assert type(kernel_manager.get_kernel(kernel_id).provisioner) is LocalProvisioner


@pytest.fixture
def managed(tmp_path: Path) -> Place:
    """The records of the kernel manager below."""
    return runtime_place(tmp_path)


@pytest.mark.gen_test
async def test_a_restarted_kernel_is_another_process_of_the_same_record(
    tmp_path: Path, managed: Place
) -> None:
    async with surviving_kernel_manager(tmp_path) as kernel_manager:
        kernel_id = await kernel_manager.start_kernel()
        kernel = kernel_manager.get_kernel(kernel_id)
        before = kernel.provisioner.identity
        await kernel_manager.restart_kernel(kernel_id, now=True)
        after = kernel.provisioner.identity
        assert after != before
        assert not runs(before)
        (record,) = managed.records.read_all()
        assert (record.kernel_id, record.process) == (kernel_id, after)
