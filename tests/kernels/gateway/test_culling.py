"""Which kernels of a gateway are culled, with a gateway that fails on purpose."""

from __future__ import annotations

import math
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tornado.web import HTTPError

from nbsessions.kernels.gateway.manager import GatewayKernels
from nbsessions.models import utcnow
from support.fake_gateway import FakeGateway, FakeSessions, fake_gateway, make_gateway_provider

SESSIONS = ["its session"]


def make_manager(folder: Path, **traits: Any) -> GatewayKernels:
    """Return a manager that culls kernels after a minute, and keeps no models."""
    settings = {"cull_idle_timeout": 60, "models_max_age": 0.0, **traits}
    manager: GatewayKernels = make_gateway_provider(folder, **settings)._kernels
    return manager


def start(gateway: FakeGateway, *, idle: float = 0, **model: Any) -> str:
    """Start a kernel at the gateway that was last active so many seconds ago."""
    kernel_id = str(uuid.uuid4())
    gateway.start(kernel_id)
    last_activity = (utcnow() - timedelta(seconds=idle)).isoformat().replace("+00:00", "Z")
    gateway.kernels[kernel_id].update(
        {"last_activity": last_activity, "execution_state": "idle", **model}
    )
    return kernel_id


async def culled(manager: GatewayKernels, *kernel_ids: str) -> list[str]:
    """Return which of these kernels are culled, if all have sessions."""
    manager.sessions = sessions = FakeSessions(dict.fromkeys(kernel_ids, SESSIONS))
    await manager.cull_kernels()
    return sessions.ended


@pytest.mark.parametrize(
    ("traits", "expected"),
    [
        ({}, ["idle", "dead"]),
        ({"cull_connected": True}, ["idle", "connected", "dead"]),
        ({"cull_busy": True}, ["idle", "busy", "dead"]),
        ({"cull_idle_timeout": 7200}, ["dead"]),
    ],
)
@pytest.mark.gen_test
async def test_the_settings_of_the_kernel_manager_decide(
    tmp_path: Path, traits: dict[str, Any], expected: list[str]
) -> None:
    async with fake_gateway() as gateway:
        kernels = {
            "active": start(gateway),
            "idle": start(gateway, idle=3600),
            "connected": start(gateway, idle=3600, connections=1),
            "busy": start(gateway, idle=3600, execution_state="busy"),
            "dead": start(gateway, execution_state="dead"),
            "odd": start(gateway, last_activity="a while ago"),
        }
        found = await culled(make_manager(tmp_path, **traits), *kernels.values())
        assert found == [kernels[each] for each in expected]


@pytest.mark.gen_test
async def test_a_kernelspec_may_have_a_time_out_of_its_own(tmp_path: Path) -> None:
    async with fake_gateway() as gateway:
        manager = make_manager(tmp_path)
        idle = start(gateway, idle=100)
        other = start(gateway, idle=100, name="other")
        gateway.specs["light"] = {"spec": {"metadata": {"cull_idle_timeout": 1000}}}
        gateway.specs["other"] = {"spec": {"metadata": {"cull_idle_timeout": "soon"}}}
        assert await culled(manager, idle, other) == [other]
        for never in (0, -1, 10**20, math.inf):
            gateway.specs["light"] = {"spec": {"metadata": {"cull_idle_timeout": never}}}
            assert await culled(manager, idle) == []
        gateway.specs["light"] = {"spec": {"metadata": {"cull_idle_timeout": 99}}}
        assert await culled(manager, idle) == [idle]
        removed = start(gateway, idle=100, name="removed")
        assert await culled(manager, removed) == [removed]


@pytest.mark.gen_test
async def test_what_the_gateway_tells_now_decides_and_not_what_it_told_before(
    tmp_path: Path,
) -> None:
    async with fake_gateway() as gateway:
        manager = make_manager(tmp_path, models_max_age=600.0)
        used, connected, gone, idle = [start(gateway, idle=3600) for _ in range(4)]
        await manager.models.get([idle])
        gateway.kernels[used]["last_activity"] = utcnow().isoformat().replace("+00:00", "Z")
        gateway.kernels[connected]["connections"] = 1
        del gateway.kernels[gone]
        assert await culled(manager, used, connected, gone, idle) == [idle]


@pytest.mark.parametrize("failing", ["kernels", "kernelspecs/light", "one kernel", "*"])
@pytest.mark.gen_test
async def test_nothing_is_culled_while_the_gateway_fails(tmp_path: Path, failing: str) -> None:
    async with fake_gateway() as gateway:
        manager = make_manager(tmp_path)
        idle = start(gateway, idle=3600)
        path = f"kernels/{idle}" if failing == "one kernel" else failing
        gateway.answers["GET", path] = (500, "")
        assert await culled(manager, idle) == []
        gateway.answers.clear()
        assert await culled(manager, idle) == [idle]


@pytest.mark.gen_test
async def test_nothing_is_culled_while_sessions_are_unknown(tmp_path: Path) -> None:
    async with fake_gateway() as gateway:
        gateway.takes_ids = False  # the request of the host has none
        manager = make_manager(tmp_path)
        kernel_id = await manager.start_kernel(kernel_name="light")
        manager.sessions = sessions = FakeSessions({})
        sessions.error = HTTPError(503)
        await manager.cull_kernels()
        assert sessions.ended == []
        sessions.error = None
        await manager.cull_kernels()
        assert sessions.ended == [kernel_id]


@pytest.mark.gen_test
async def test_an_end_that_cannot_be_written_is_tried_again_in_the_next_round(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(FakeSessions):
        async def end_kernel(self, kernel_id: str, session_ids: Any) -> bool:
            raise HTTPError(503, "the store is away")

    async with fake_gateway() as gateway:
        manager = make_manager(tmp_path)
        first, second = start(gateway, idle=3600), start(gateway, idle=3600)
        manager.sessions = Failing({first: SESSIONS, second: SESSIONS})
        await manager.cull_kernels()
        warnings = [each.getMessage() for each in caplog.records]
        assert [first in warnings[0], second in warnings[1]] == [True, True]
        assert await culled(manager, first, second) == [first, second]


@pytest.mark.gen_test
async def test_a_kernel_without_a_session_is_culled_only_where_it_was_started(
    tmp_path: Path,
) -> None:
    async with fake_gateway() as gateway:
        gateway.takes_ids = False  # the request of the host has none
        one, other = make_manager(tmp_path), make_manager(tmp_path)
        kernel_id = await one.start_kernel(kernel_name="light")
        await other.kernel_model(kernel_id)
        ended = []
        for manager in (other, one):
            manager.sessions = sessions = FakeSessions({})
            await manager.cull_kernels()
            ended.append(sessions.ended)
        assert ended == [[], [kernel_id]]
