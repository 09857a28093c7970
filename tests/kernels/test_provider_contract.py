"""Tests for every kernel provider: the host's, and the one that other tests use."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nbsessions.errors import KernelConflict, KernelspecNotFound, KernelStartFailed
from nbsessions.kernels.base import KernelProvider, StartRequest
from nbsessions.kernels.noted import ModelChanges
from support.hosts import make_provider, running_kernel_manager
from support.provider import FakeKernelProvider
from support.surviving_managers import surviving_kernel_manager

pytestmark = pytest.mark.parametrize("kind", ["fake", "host", "surviving"])

CHOSEN_ID = "11111111-2222-4333-8444-555555555555"
MODEL_KEYS = {"id", "name", "last_activity", "execution_state", "connections"}


@asynccontextmanager
async def provider_of(kind: str, folder: Path) -> AsyncIterator[KernelProvider]:
    """Yield a provider with the kernelspecs ``light``, ``other`` and ``broken``."""
    if kind == "fake":
        yield FakeKernelProvider(tells=True)
    elif kind == "surviving":
        async with surviving_kernel_manager(folder) as kernel_manager:
            yield make_provider(kernel_manager, folder)
    else:
        async with running_kernel_manager(folder) as kernel_manager:
            yield make_provider(kernel_manager, folder)


def request(kernel_name: str | None = None, kernel_id: str | None = None) -> StartRequest:
    """Return a request to start a kernel for a notebook."""
    return StartRequest(
        token=str(uuid.uuid4()),
        session_id=str(uuid.uuid4()),
        kernel_name=kernel_name,
        kernel_id=kernel_id,
        path="a.ipynb",
        name=None,
        type="notebook",
    )


@pytest.mark.gen_test
async def test_a_kernel_that_was_started_is_alive(kind: str, tmp_path: Path) -> None:
    async with provider_of(kind, tmp_path) as provider:
        kernel = await provider.start(request("other"))
        assert (kernel.kernel_name, kernel.provider) == ("other", provider.name)
        models = await provider.models([kernel.kernel_id])
        model = models.alive[kernel.kernel_id]
        assert model.keys() >= MODEL_KEYS
        assert (model["id"], model["name"]) == (kernel.kernel_id, "other")
        assert provider.can_address(kernel.kernel_id)
        assert list(provider.list_running()) == [kernel.kernel_id]


@pytest.mark.gen_test
async def test_without_a_name_the_default_kernelspec_is_used(kind: str, tmp_path: Path) -> None:
    async with provider_of(kind, tmp_path) as provider:
        assert (await provider.start(request())).kernel_name == "light"


@pytest.mark.gen_test
async def test_a_kernel_gets_the_id_that_was_asked_for(kind: str, tmp_path: Path) -> None:
    async with provider_of(kind, tmp_path) as provider:
        assert (await provider.start(request(kernel_id=CHOSEN_ID))).kernel_id == CHOSEN_ID


@pytest.mark.gen_test
async def test_an_id_that_is_taken_raises(kind: str, tmp_path: Path) -> None:
    async with provider_of(kind, tmp_path) as provider:
        await provider.start(request("light", kernel_id=CHOSEN_ID))
        with pytest.raises(KernelConflict):
            await provider.start(request("other", kernel_id=CHOSEN_ID))
        models = await provider.models([CHOSEN_ID])
        assert models.alive[CHOSEN_ID]["name"] == "light"


@pytest.mark.gen_test
async def test_an_unknown_kernelspec_raises(kind: str, tmp_path: Path) -> None:
    async with provider_of(kind, tmp_path) as provider:
        with pytest.raises(KernelspecNotFound) as caught:
            await provider.start(request("missing"))
        assert caught.value.kernel_name == "missing"
        assert list(provider.list_running()) == []


@pytest.mark.gen_test
async def test_a_kernel_that_does_not_come_up_raises_and_leaves_nothing(
    kind: str, tmp_path: Path
) -> None:
    async with provider_of(kind, tmp_path) as provider:
        with pytest.raises(KernelStartFailed) as caught:
            await provider.start(request("broken", kernel_id=CHOSEN_ID))
        assert caught.value.__cause__ is not None or kind == "fake"
        assert list(provider.list_running()) == []
        await provider.start(request("light", kernel_id=CHOSEN_ID))


@pytest.mark.gen_test
async def test_kernels_that_nobody_knows_are_dead(kind: str, tmp_path: Path) -> None:
    async with provider_of(kind, tmp_path) as provider:
        kernel = await provider.start(request())
        models = await provider.models(["missing", kernel.kernel_id, "", kernel.kernel_id])
        assert set(models.alive) == {kernel.kernel_id}
        assert models.is_dead("missing")
        assert models.is_dead("")


@pytest.mark.gen_test
async def test_of_no_kernels_there_is_nothing_to_tell(kind: str, tmp_path: Path) -> None:
    async with provider_of(kind, tmp_path) as provider:
        models = await provider.models([])
        assert (models.alive, models.unknown) == ({}, {})


@pytest.mark.gen_test
async def test_a_kernel_that_was_shut_down_is_dead(kind: str, tmp_path: Path) -> None:
    async with provider_of(kind, tmp_path) as provider:
        kernel = await provider.start(request())
        await provider.shutdown(kernel.kernel_id)
        assert (await provider.models([kernel.kernel_id])).is_dead(kernel.kernel_id)
        assert list(provider.list_running()) == []


@pytest.mark.gen_test
async def test_each_change_is_noted_unless_the_provider_cannot_tell(
    kind: str, tmp_path: Path
) -> None:
    async with provider_of(kind, tmp_path) as provider:
        changes = ModelChanges()
        provider.watch_models(changes)
        assert changes.complete is (kind != "host")
        kernel = await provider.start(request())
        assert changes.take() == ({kernel.kernel_id} if changes.complete else set())
        await provider.models([kernel.kernel_id])
        assert changes.take() == set()
        await provider.shutdown(kernel.kernel_id)
        assert changes.take() == ({kernel.kernel_id} if changes.complete else set())
        later = ModelChanges()
        provider.watch_models(later)
        assert not changes.complete


@pytest.mark.gen_test
async def test_shutting_down_what_is_gone_is_no_error(kind: str, tmp_path: Path) -> None:
    async with provider_of(kind, tmp_path) as provider:
        kernel = await provider.start(request())
        for kernel_id in (kernel.kernel_id, kernel.kernel_id, "missing"):
            await provider.shutdown(kernel_id)


@pytest.mark.gen_test
async def test_a_new_environment_for_what_is_gone_is_no_error(kind: str, tmp_path: Path) -> None:
    async with provider_of(kind, tmp_path) as provider:
        provider.update_env("missing", path="a.ipynb", name=None)


@pytest.mark.gen_test
async def test_a_provider_judges_its_own_kernels_and_no_others(kind: str, tmp_path: Path) -> None:
    async with provider_of(kind, tmp_path) as provider:
        assert provider.can_declare_dead(provider.name)
        assert not provider.can_declare_dead("local:another boot")
        assert not provider.can_declare_dead("gateway:https://example.org")


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("kernel_id", "expected"),
    [
        (CHOSEN_ID, True),
        ("a-b-c-d-e", True),
        ("abc", False),
        ("", False),
        ("a-b-c-d-e/..", False),
        ("a-b-c-d-e\n", False),
        ("a-b-c-d-" + 57 * "e", False),
    ],
)
async def test_only_ids_that_fit_the_routes_of_kernels_can_be_addressed(
    kind: str, tmp_path: Path, kernel_id: str, expected: bool
) -> None:
    async with provider_of(kind, tmp_path) as provider:
        assert provider.can_address(kernel_id) is expected
