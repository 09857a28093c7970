"""Tests of HostKernelProvider: starts that succeed or fail, and shutdowns."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import psutil
import pytest
from jupyter_client.multikernelmanager import DuplicateKernelError
from jupyter_server.services.kernels.kernelmanager import (
    AsyncMappingKernelManager,
    MappingKernelManager,
)
from tornado.web import HTTPError

from nbsessions.errors import (
    InvalidRequest,
    KernelConflict,
    KernelspecNotFound,
    KernelStartFailed,
)
from nbsessions.httperrors import error_body, http_error
from nbsessions.kernels.base import StartRequest
from nbsessions.models import EndReason, KernelTrace
from support.hosts import make_contents_manager, make_provider, running_kernel_manager
from support.starts import start_request
from support.waiting import wait_until

CHOSEN_ID = "11111111-2222-4333-8444-555555555555"


def request(
    kernel_name: str = "light", kernel_id: str | None = None, path: str | None = "a.ipynb"
) -> StartRequest:
    """Return a request to start a kernel for a notebook."""
    return start_request(kernel_name=kernel_name, kernel_id=kernel_id, path=path, type="notebook")


# Starting


@pytest.mark.gen_test
async def test_a_kernel_runs_in_its_documents_folder_and_knows_its_session(tmp_path: Path) -> None:
    async with running_kernel_manager(tmp_path) as kernel_manager:
        folder = tmp_path / "root" / "folder"
        folder.mkdir()
        provider = make_provider(
            kernel_manager,
            tmp_path,
            kernel_env=lambda path, name: {**os.environ, "JPY_SESSION_NAME": f"{path}"},
        )
        kernel = await provider.start(request(path="folder/a.ipynb"))
        process = psutil.Process(kernel_manager.get_kernel(kernel.kernel_id).provisioner.pid)
        assert process.cwd() == str(folder)
        wait_for_session_name(process, "folder/a.ipynb")


@pytest.mark.gen_test
@pytest.mark.parametrize("path", [None, "", "/"])
async def test_without_a_path_a_kernel_runs_in_the_root_directory(
    tmp_path: Path, path: str | None
) -> None:
    async with running_kernel_manager(tmp_path) as kernel_manager:
        provider = make_provider(kernel_manager, tmp_path)
        kernel = await provider.start(request(path=path))
        process = psutil.Process(kernel_manager.get_kernel(kernel.kernel_id).provisioner.pid)
        assert process.cwd() == str(tmp_path / "root")


class WithNamesOfItsOwn(AsyncMappingKernelManager):
    """A kernel manager that starts kernels with names for which there is no kernelspec."""

    async def start_kernel(self, *, kernel_name: str | None = None, **options: Any) -> str:  # type: ignore[override]
        name = {"best": "light"}.get(str(kernel_name), kernel_name)
        return await super().start_kernel(kernel_name=name, **options)


@pytest.mark.gen_test
async def test_a_kernel_manager_may_know_names_that_no_kernelspec_has(tmp_path: Path) -> None:
    async with running_kernel_manager(tmp_path, WithNamesOfItsOwn) as kernel_manager:
        provider = make_provider(kernel_manager, tmp_path)
        kernel = await provider.start(request("best"))
        assert kernel.kernel_name == "light"
        with pytest.raises(KernelspecNotFound):
            await provider.start(request("worst"))


@pytest.mark.gen_test
async def test_a_kernel_manager_of_the_synchronous_class_will_do(tmp_path: Path) -> None:
    async with running_kernel_manager(tmp_path, MappingKernelManager) as kernel_manager:
        provider = make_provider(kernel_manager, tmp_path)
        kernel = await provider.start(request())
        assert set((await provider.models([kernel.kernel_id])).alive) == {kernel.kernel_id}
        await provider.shutdown(kernel.kernel_id)
        assert list(provider.list_running()) == []


@pytest.mark.gen_test
async def test_a_kernel_that_is_shut_down_while_it_starts_is_a_conflict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_kernel_manager(tmp_path) as kernel_manager:
        # jupyter_server's own kernel manager does this if the kernel is removed during the start.
        start = AsyncMock(side_effect=KeyError(CHOSEN_ID))
        monkeypatch.setattr(kernel_manager, "start_kernel", start)
        with pytest.raises(KernelConflict, match="was shut down while it was starting"):
            await make_provider(kernel_manager, tmp_path).start(request())


@pytest.mark.gen_test
async def test_a_kernel_that_a_client_was_connected_to_is_known_while_it_runs(
    tmp_path: Path,
) -> None:
    async with running_kernel_manager(tmp_path) as kernel_manager:
        provider = make_provider(kernel_manager, tmp_path)
        provider.watch(lambda _: None)
        kernel_id = (await provider.start(request())).kernel_id
        assert not provider.was_connected(kernel_id)
        kernel_manager.notify_connect(kernel_id)
        kernel_manager.notify_disconnect(kernel_id)
        assert provider.was_connected(kernel_id)
        await provider.shutdown(kernel_id)
        assert not provider.was_connected(kernel_id)


class ClassicKernelManager:
    """Like classic Notebook's kernel manager, accepts neither an environment nor a kernel id."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    def start_kernel(self, *, path: str, kernel_name: str | None) -> str:
        self.paths.append(path)
        return "a-b-c-d-e"

    def kernel_model(self, kernel_id: str) -> dict[str, Any]:
        return {"id": kernel_id, "name": "classic"}

    def shutdown_kernel(self, kernel_id: str) -> None:
        self.paths.clear()

    def list_kernel_ids(self) -> list[str]:
        return ["a-b-c-d-e"] if self.paths else []

    def __contains__(self, kernel_id: str) -> bool:
        return kernel_id in self.list_kernel_ids()

    def __iter__(self) -> Iterator[str]:
        return iter(self.list_kernel_ids())


@pytest.mark.gen_test
async def test_a_kernel_manager_of_classic_notebook_is_given_only_what_it_takes(
    tmp_path: Path,
) -> None:
    (tmp_path / "root").mkdir()
    kernel_manager = ClassicKernelManager()
    provider = make_provider(kernel_manager, tmp_path)
    kernel = await provider.start(request(kernel_id=CHOSEN_ID))
    assert (kernel.kernel_id, kernel.kernel_name) == ("a-b-c-d-e", "classic")
    provider.update_env(kernel.kernel_id, path="b", name=None)
    await provider.shutdown(kernel.kernel_id)
    assert list(provider.list_running()) == []


@pytest.mark.gen_test
async def test_a_jupyter_server_before_2_21_gives_kernels_ids_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbsessions.kernels.host.version", lambda _: "2.20.5")
    async with running_kernel_manager(tmp_path) as kernel_manager:
        provider = make_provider(kernel_manager, tmp_path)
        kernel = await provider.start(request(kernel_id=CHOSEN_ID))
        assert kernel.kernel_id != CHOSEN_ID


# Starts that fail


@pytest.mark.gen_test
async def test_what_the_client_is_told_of_a_failed_start_holds_no_environment(
    tmp_path: Path,
) -> None:
    async with running_kernel_manager(tmp_path) as kernel_manager:
        provider = make_provider(
            kernel_manager, tmp_path, kernel_env=lambda path, name: {"SECRET": "swordfish"}
        )
        with pytest.raises(KernelStartFailed) as caught:
            await provider.start(request("broken"))
        body = str(error_body(http_error(caught.value), 500, "Internal Server Error"))
        assert "No such file or directory: '/nowhere/to-be-found'" in body
        assert "SECRET" not in body
        assert "swordfish" not in body


@pytest.mark.gen_test
async def test_after_a_failed_start_the_kernel_manager_can_shut_all_down(tmp_path: Path) -> None:
    async with running_kernel_manager(tmp_path) as kernel_manager:
        provider = make_provider(kernel_manager, tmp_path)
        for kernel_id in (None, CHOSEN_ID):
            with pytest.raises(KernelStartFailed):
                await provider.start(request("broken", kernel_id))
        await kernel_manager._async_shutdown_all(now=True)  # as the server does


@pytest.mark.gen_test
async def test_a_failed_start_leaves_no_connection_file(tmp_path: Path) -> None:
    async with running_kernel_manager(tmp_path) as kernel_manager:
        provider = make_provider(kernel_manager, tmp_path)
        for kernel_id in (None, CHOSEN_ID):
            with pytest.raises(KernelStartFailed):
                await provider.start(request("broken", kernel_id))
        assert list((tmp_path / "runtime").iterdir()) == []


@pytest.mark.gen_test
async def test_the_connection_file_of_another_server_is_left_alone(tmp_path: Path) -> None:
    async with running_kernel_manager(tmp_path) as kernel_manager:
        provider = make_provider(kernel_manager, tmp_path)
        file = tmp_path / "runtime" / f"kernel-{CHOSEN_ID}.json"
        file.write_text("another server's")
        with pytest.raises(KernelConflict, match=CHOSEN_ID):
            await provider.start(request(kernel_id=CHOSEN_ID))
        assert file.read_text() == "another server's"
        assert list(provider.list_running()) == []


class RefusingKernelManager(AsyncMappingKernelManager):
    """Reports that every kernel already exists."""

    async def start_kernel(self, **kwargs: object) -> str:  # type: ignore[override]
        raise DuplicateKernelError("exists")


@pytest.mark.gen_test
async def test_an_id_that_is_taken_in_the_meantime_raises(tmp_path: Path) -> None:
    async with running_kernel_manager(tmp_path, RefusingKernelManager) as kernel_manager:
        provider = make_provider(kernel_manager, tmp_path)
        with pytest.raises(KernelConflict, match=CHOSEN_ID):
            await provider.start(request(kernel_id=CHOSEN_ID))


@pytest.mark.gen_test
async def test_an_environment_that_cannot_be_made_is_a_failed_start(tmp_path: Path) -> None:
    def fail(path: str | None, name: str | None) -> dict[str, str]:
        raise ValueError("no environment")

    async with running_kernel_manager(tmp_path) as kernel_manager:
        provider = make_provider(kernel_manager, tmp_path, kernel_env=fail)
        with pytest.raises(KernelStartFailed):
            await provider.start(request())


class OddContentsManager:
    """Raises an HTTPError when it is asked for a kernel's working directory."""

    def __init__(self, status_code: int) -> None:
        self._status_code = status_code

    def get_kernel_path(self, path: str) -> str:
        raise HTTPError(self._status_code, "odd")


@pytest.mark.parametrize(("status", "error"), [(404, InvalidRequest), (500, KernelStartFailed)])
@pytest.mark.gen_test
async def test_a_path_that_the_contents_manager_refuses_raises(
    tmp_path: Path, status: int, error: type[Exception]
) -> None:
    async with running_kernel_manager(tmp_path) as kernel_manager:
        provider = make_provider(
            kernel_manager, tmp_path, contents_manager=OddContentsManager(status)
        )
        with pytest.raises(error):
            await provider.start(request())


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "path",
    ["../a.ipynb", "x/../../../etc/a.ipynb", "\ud800", "x" * 4096],
    ids=["upwards", "down and upwards", "a lone surrogate", "a long one"],
)
async def test_no_path_is_a_way_out_of_the_root_directory(tmp_path: Path, path: str) -> None:
    async with running_kernel_manager(tmp_path) as kernel_manager:
        provider = make_provider(
            kernel_manager, tmp_path, contents_manager=make_contents_manager(tmp_path)
        )
        try:
            kernel = await provider.start(request(path=path))
        except (InvalidRequest, KernelStartFailed):
            return
        process = psutil.Process(kernel_manager.get_kernel(kernel.kernel_id).provisioner.pid)
        assert process.cwd() == str(tmp_path / "root")


# After the start


def wait_for_session_name(process: psutil.Process, expected: str) -> None:
    """Retry, because the environment of a process is empty for a moment after its start."""
    wait_until(
        lambda: process.environ().get("JPY_SESSION_NAME") == expected, f"it is {expected!r}"
    )


@pytest.mark.gen_test
async def test_the_next_restart_knows_the_new_path(tmp_path: Path) -> None:
    async with running_kernel_manager(tmp_path) as kernel_manager:
        provider = make_provider(
            kernel_manager,
            tmp_path,
            kernel_env=lambda path, name: {**os.environ, "JPY_SESSION_NAME": f"{path}"},
        )
        kernel = await provider.start(request())
        provider.update_env(kernel.kernel_id, path="b.ipynb", name=None)
        await kernel_manager.get_kernel(kernel.kernel_id).restart_kernel(now=True)
        process = psutil.Process(kernel_manager.get_kernel(kernel.kernel_id).provisioner.pid)
        wait_for_session_name(process, "b.ipynb")


@pytest.mark.gen_test
async def test_an_environment_that_cannot_be_changed_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(path: str | None, name: str | None) -> dict[str, str]:
        raise ValueError("no environment")

    async with running_kernel_manager(tmp_path) as kernel_manager:
        provider = make_provider(kernel_manager, tmp_path, kernel_env=fail)
        with caplog.at_level(logging.WARNING):
            provider.update_env(CHOSEN_ID, path="b.ipynb", name=None)
        assert CHOSEN_ID in caplog.text


class StubbornKernelManager(AsyncMappingKernelManager):
    """Raises an error on every shutdown. ``gone`` determines whether the kernel ends anyway."""

    gone = False
    shutdown_error: Exception = KeyError("odd")

    async def shutdown_kernel(self, kernel_id: str, **kwargs: object) -> None:  # type: ignore[override]
        if self.gone:
            await super()._async_shutdown_kernel(kernel_id, now=True)  # type: ignore[no-untyped-call]
        raise self.shutdown_error


@pytest.mark.parametrize("error", [KeyError("odd"), HTTPError(404, "odd")])
@pytest.mark.gen_test
async def test_a_kernel_that_somebody_else_shuts_down_meanwhile_is_no_error(
    tmp_path: Path, error: Exception
) -> None:
    async with running_kernel_manager(tmp_path, StubbornKernelManager) as kernel_manager:
        provider = make_provider(kernel_manager, tmp_path)
        kernel = await provider.start(request())
        kernel_manager.shutdown_error = error
        with pytest.raises(type(error)):
            await provider.shutdown(kernel.kernel_id)
        kernel_manager.gone = True
        await provider.shutdown(kernel.kernel_id)
        assert list(provider.list_running()) == []


# Kernels of dead servers


@pytest.mark.gen_test
async def test_it_is_told_why_the_kernels_of_dead_servers_have_ended(tmp_path: Path) -> None:
    async with running_kernel_manager(tmp_path) as kernel_manager:
        provider = make_provider(kernel_manager, tmp_path)
        running = (await provider.start(request())).kernel_id
        here = provider.name
        expected = {
            (here, running): None,
            (here, "gone"): EndReason.DIED,
            (here.replace("this%20boot", "an%20earlier%20boot"), "gone"): EndReason.REBOOTED,
            ("local:", "of a file of jupyter_server"): EndReason.DIED,
            (here.replace(".", ".another-host", 1), "gone"): EndReason.DIED,
            ("local:elsewhere:another%20boot::/folder", "gone"): None,
            (f"{here}/other", "gone"): None,
            ("gateway:http://localhost", "gone"): None,
            ("", "gone"): None,
        }
        traces = {
            KernelTrace(provider=name, kernel_id=kernel_id, token=None): reason
            for (name, kernel_id), reason in expected.items()
        }
        assert len(traces) == len(expected)

        found = await provider.find_ended(traces)

        assert found == {trace: reason for trace, reason in traces.items() if reason}
