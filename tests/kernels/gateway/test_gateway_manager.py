"""The kernel manager of a server behind a gateway."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tornado.web import HTTPError

from nbsessions.kernels.gateway import models as models_module
from support.fake_gateway import (
    FakeGateway,
    FakeSessions,
    fake_gateway,
    make_gateway_provider,
    make_started,
)
from support.services import eventually

UNKNOWN = {"id": "11111111-2222-4333-8444-555555555555", "execution_state": "unknown"}


def make_manager(folder: Path, sessions: FakeSessions) -> Any:
    manager = make_gateway_provider(folder, models_max_age=0.0)._kernels
    manager.sessions = sessions
    return manager


@pytest.mark.gen_test
async def test_the_list_of_kernels_has_those_of_sessions_and_those_that_are_known(
    tmp_path: Path,
) -> None:
    async with fake_gateway() as gateway:
        sessions = FakeSessions({})
        manager = make_manager(tmp_path, sessions)
        known, _of_others = make_started(gateway), make_started(gateway)
        await manager.learn(known)
        # What is not known of a kernel is said by the list of sessions.
        sessions.models = [{"kernel": UNKNOWN}, {"kernel": UNKNOWN}]
        assert await manager.list_kernels() == [UNKNOWN, gateway.kernels[known]]
        gateway.answers["GET", "*"] = (500, "")
        _, unknown = await manager.list_kernels()
        assert unknown == {**gateway.kernels[known], "execution_state": "unknown"}
        gateway.answers.clear()
        del gateway.kernels[known]
        assert await manager.list_kernels() == [UNKNOWN]
        assert manager.list_kernel_ids() == []


@pytest.mark.gen_test
async def test_there_is_no_list_of_kernels_without_one_of_sessions(tmp_path: Path) -> None:
    async with fake_gateway() as gateway:
        sessions = FakeSessions({})
        manager = make_manager(tmp_path, sessions)
        await manager.learn(make_started(gateway))
        sessions.error = HTTPError(503)
        with pytest.raises(HTTPError):
            await manager.list_kernels()


async def begin_to_list(manager: Any, gateway: FakeGateway) -> asyncio.Task[list[Any]]:
    """Begin to list the kernels, and return when the gateway is asked and does not answer yet."""
    gateway.flows.clear()
    gateway.requests.clear()
    listing = asyncio.create_task(manager.list_kernels())

    async def is_asked() -> bool:
        return bool(gateway.requests)

    await eventually(is_asked, "the gateway is asked")
    return listing


@pytest.mark.gen_test
async def test_a_kernel_that_ends_while_a_list_is_made_is_not_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models_module, "PATIENCE", 0.3)
    async with fake_gateway() as gateway:
        manager = make_manager(tmp_path, FakeSessions({}))
        kept, ended = make_started(gateway), make_started(gateway)
        for kernel_id in (kept, ended):
            await manager.learn(kernel_id)
        listing = await begin_to_list(manager, gateway)
        manager.models.ended(ended)
        manager.remove_kernel(ended)
        assert [each["id"] for each in await listing] == [kept]


@pytest.mark.gen_test
async def test_a_kernel_that_gets_a_session_while_a_list_is_made_is_in_it(tmp_path: Path) -> None:
    async with fake_gateway() as gateway:
        sessions = FakeSessions({})
        manager = make_manager(tmp_path, sessions)
        await manager.learn(known := make_started(gateway))
        listing = await begin_to_list(manager, gateway)
        sessions.models = [{"kernel": UNKNOWN}]
        sessions.of_kernels = {UNKNOWN["id"]: ["a session"]}
        gateway.flows.set()
        assert await listing == [UNKNOWN, gateway.kernels[known]]


@pytest.mark.gen_test
async def test_a_kernel_has_ended_only_if_the_gateway_itself_says_so(tmp_path: Path) -> None:
    async with fake_gateway() as gateway:
        manager = make_manager(tmp_path, FakeSessions({}))
        kernel_id = await manager.start_kernel(kernel_name="light")
        gateway.answers["DELETE", "*"] = (404, "404 page not found")
        with pytest.raises(HTTPError, match="503"):
            await manager.shutdown_kernel(kernel_id)
        gateway.answers.clear()
        assert [each["id"] for each in await manager.list_kernels()] == [kernel_id]
        await manager.shutdown_kernel(kernel_id)
        assert gateway.kernels == {}
        with pytest.raises(HTTPError, match="404"):
            await manager.shutdown_kernel(kernel_id)


@pytest.mark.gen_test
@pytest.mark.parametrize("stay", [True, False])
async def test_a_stop_ends_the_kernels_that_no_other_server_can_serve(
    tmp_path: Path, stay: bool
) -> None:
    async with fake_gateway() as gateway:
        of_a_session, unused, of_others = (make_started(gateway) for _ in range(3))
        sessions = FakeSessions({each: {"its session"} for each in (of_a_session, unused)})
        sessions.stay = stay
        manager = make_manager(tmp_path, sessions)
        await manager.start_kernel(kernel_name="light")
        for kernel_id in (of_a_session, of_others):
            await manager.learn(kernel_id)
        await manager.shutdown_all()
        kept = {of_a_session, unused, of_others} if stay else {of_others}
        assert set(gateway.kernels) == kept


@pytest.mark.gen_test
async def test_a_stop_ends_nothing_if_it_is_not_known_what_has_a_session(tmp_path: Path) -> None:
    async with fake_gateway() as gateway:
        sessions = FakeSessions({})
        manager = make_manager(tmp_path, sessions)
        await manager.start_kernel(kernel_name="light")
        sessions.error = HTTPError(503)
        await manager.shutdown_all()
        assert len(gateway.kernels) == 1
