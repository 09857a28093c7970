"""What a kernel manager does with its kernels when its server stops."""

from __future__ import annotations

from pathlib import Path

import pytest
import zmq
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from traitlets.config.configurable import LoggingConfigurable

from nbsessions.kernels.surviving import manager as manager_module
from nbsessions.kernels.surviving.manager import SurvivingMappingKernelManager
from support.surviving_managers import runtime_place, surviving_kernel_manager


class Server(LoggingConfigurable):
    """A stub of a server, which sets ``_stopping`` when a signal stops it."""

    _stopping = False


@pytest.mark.gen_test
@pytest.mark.parametrize("by_signal", [True, False])
async def test_the_first_decision_on_the_kernels_stays(tmp_path: Path, by_signal: bool) -> None:
    server = Server()
    async with surviving_kernel_manager(
        tmp_path, parent=server, keep_kernels="restart"
    ) as kernel_manager:
        server._stopping = by_signal
        assert kernel_manager.begin_stop() is by_signal
        server._stopping = not by_signal
        assert kernel_manager.begin_stop() is by_signal


def test_a_server_may_have_more_sockets_than_zmq_allows_by_default() -> None:
    # The helpers give all kernel managers of a test the same context.
    kernel_manager = SurvivingMappingKernelManager()
    assert kernel_manager.context.get(zmq.MAX_SOCKETS) >= 8000


@pytest.mark.gen_test
async def test_nothing_keeps_a_server_from_stopping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("odd")

    async with surviving_kernel_manager(tmp_path) as kernel_manager:
        with monkeypatch.context() as fault:
            fault.setattr(kernel_manager.recorder, "close", fail)
            await kernel_manager.shutdown_all()
    assert "Not all kernels were shut down" in caplog.text


@pytest.mark.gen_test
@pytest.mark.parametrize("keep_kernels", ["crash", "never"])
async def test_a_stop_by_a_signal_ends_kernels_unless_they_are_to_be_kept(
    tmp_path: Path, keep_kernels: str
) -> None:
    server = Server()
    server._stopping = True
    async with surviving_kernel_manager(
        tmp_path, parent=server, keep_kernels=keep_kernels
    ) as kernel_manager:
        assert kernel_manager.begin_stop() is False


# Platforms without locks, where no server can be proven dead


@pytest.mark.gen_test
async def test_where_no_server_can_follow_kernels_are_those_of_a_stock_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager_module, "SUPPORTED", False)
    async with surviving_kernel_manager(tmp_path) as kernel_manager:
        kernel_id = await kernel_manager.start_kernel(path="")
        kernel = kernel_manager.get_kernel(kernel_id)
        assert type(kernel.provisioner) is LocalProvisioner
        await kernel_manager.restart_kernel(kernel_id, now=True)
        kernel.update_env(env={"JPY_SESSION_NAME": "b.ipynb"})
        assert not kernel_manager.recorder.has(kernel_id)
        assert kernel_manager.list_recorded() == []
    assert not (tmp_path / "runtime" / "nbsessions").exists()


@pytest.mark.gen_test
async def test_where_no_server_can_follow_nothing_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = runtime_place(tmp_path)
    server_id = place.dead_server()
    monkeypatch.setattr(manager_module, "SUPPORTED", False)
    async with surviving_kernel_manager(tmp_path, parent=Server()):
        assert place.servers.list_ids() == [server_id]
