"""What is known of the kernels of a gateway, with a gateway that fails on purpose."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path

import pytest
from tornado.web import HTTPError

from nbsessions.errors import KernelsUnavailable
from nbsessions.kernels.gateway import answers as answers_module
from nbsessions.kernels.gateway import models as models_module
from nbsessions.kernels.gateway.models import GatewayModels
from support.fake_gateway import (
    fake_gateway,
    make_gateway_provider,
    make_start_request,
    make_started,
)
from support.services import eventually

UNKNOWN_ID = "11111111-2222-4333-8444-555555555555"


async def until_answered(models: GatewayModels) -> None:
    """Wait until the gateway has answered what it was asked for."""

    async def is_answered() -> bool:
        return not models._tasks.are_running

    await eventually(is_answered, "the answers are here")


@pytest.mark.gen_test
async def test_concurrent_callers_share_one_request(tmp_path: Path) -> None:
    async with fake_gateway() as gateway:
        provider = make_gateway_provider(tmp_path)
        ids = [str(uuid.uuid4()) for _ in range(200)]
        for each in ids:
            gateway.start(each)
        answers = await asyncio.gather(*(provider.models(ids) for _ in range(20)))
        assert all(set(each.alive) == set(ids) for each in answers)
        assert gateway.requests == [("GET", "kernels")]


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, "{}"),
        (401, "{}"),
        (404, "404 page not found"),
        (502, ""),
        (200, "nonsense"),
        (200, "{}"),
        (200, '[{"name": "light"}]'),
        (200, "[1]"),
    ],
)
async def test_what_is_no_list_of_kernels_ends_nothing(
    tmp_path: Path, status: int, body: str
) -> None:
    async with fake_gateway() as gateway:
        provider = make_gateway_provider(tmp_path, models_max_age=0.0)
        kernel = await provider.start(make_start_request(provider))
        gateway.answers["GET", "kernels"] = (status, body)
        models = await provider.models([kernel.kernel_id, UNKNOWN_ID])
        assert models.alive == {}
        assert models.unknown[UNKNOWN_ID] is None
        last_known = models.unknown[kernel.kernel_id]
        assert last_known is not None
        assert last_known["name"] == "light"
        gateway.answers.clear()
        assert (await provider.models([kernel.kernel_id])).alive


@pytest.mark.gen_test
async def test_a_list_that_fails_while_the_gateway_adds_a_kernel_is_asked_for_again(
    tmp_path: Path,
) -> None:
    async with fake_gateway() as gateway:
        provider = make_gateway_provider(tmp_path)
        gateway.start(UNKNOWN_ID)
        gateway.next_statuses = [500]
        models = await provider.models([UNKNOWN_ID])
        assert (models.alive.keys(), models.unknown) == ({UNKNOWN_ID}, {})
        assert gateway.requests == [("GET", "kernels")] * 2


@pytest.mark.gen_test
async def test_a_kernel_that_a_list_lacks_is_dead_only_if_the_gateway_says_so_itself(
    tmp_path: Path,
) -> None:
    async with fake_gateway() as gateway:
        provider = make_gateway_provider(tmp_path, models_max_age=0.0)
        kernel = await provider.start(make_start_request(provider))
        gateway.answers["GET", "kernels"] = (200, "[]")
        assert (await provider.models([kernel.kernel_id])).alive
        gateway.answers["GET", f"kernels/{kernel.kernel_id}"] = (500, "")
        assert (await provider.models([kernel.kernel_id])).unknown
        del gateway.answers["GET", f"kernels/{kernel.kernel_id}"]
        gateway.kernels.clear()
        assert (await provider.models([kernel.kernel_id])).is_dead(kernel.kernel_id)


@pytest.mark.gen_test
async def test_where_listing_is_forbidden_a_404_counts_only_if_it_names_the_kernel(
    tmp_path: Path,
) -> None:
    async with fake_gateway() as gateway:
        gateway.lists = False
        provider = make_gateway_provider(tmp_path, models_max_age=0.0)
        kernel = await provider.start(make_start_request(provider))
        assert (await provider.models([kernel.kernel_id])).alive
        gateway.answers["GET", "*"] = (404, "404 page not found")
        assert (await provider.models([kernel.kernel_id])).unknown
        gateway.answers.clear()
        gateway.kernels.clear()
        assert (await provider.models([kernel.kernel_id])).is_dead(kernel.kernel_id)
        assert gateway.count("GET", "kernels") == 1


@pytest.mark.gen_test
async def test_the_more_kernels_a_gateway_does_not_list_the_longer_its_answers_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models_module, "PATIENCE", 60.0)
    async with fake_gateway() as gateway:
        gateway.lists = False
        models = make_gateway_provider(tmp_path, models_max_age=0.0)._models
        kernel_ids = [make_started(gateway) for _ in range(200)]
        for _ in range(3):
            assert len((await models.get(kernel_ids)).alive) == 200
            assert sum(path != "kernels" for _, path in gateway.requests) == 200


@pytest.mark.gen_test
async def test_the_last_answer_is_used_while_a_slow_gateway_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_gateway() as gateway:
        gateway.lists = False
        models = make_gateway_provider(tmp_path, models_max_age=0.0)._models
        first, second = make_started(gateway), make_started(gateway)
        await models.get([first, second])
        gateway.flows.clear()
        assert (await models.get([first])).alive.keys() == {first}
        monkeypatch.setattr(answers_module, "_MAY_BE_LATE", -1.0)
        assert (await models.get([first])).unknown.keys() == {first}
        monkeypatch.undo()
        gateway.flows.set()
        gateway.answers["GET", f"kernels/{second}"] = (500, "")
        assert (await models.get([second])).unknown.keys() == {second}


@pytest.mark.gen_test
async def test_a_gateway_that_hangs_delays_nobody_for_long(tmp_path: Path) -> None:
    async with fake_gateway() as gateway:
        provider = make_gateway_provider(tmp_path)
        kernel = await provider.start(make_start_request(provider))
        gateway.flows.clear()
        loop = asyncio.get_running_loop()
        provider._models._changed.clear()
        began = loop.time()
        models = await provider.models([kernel.kernel_id])
        assert loop.time() - began < 2
        assert models.unknown[kernel.kernel_id] is not None
        gateway.flows.set()

        async def is_alive() -> bool:
            return bool((await provider.models([kernel.kernel_id])).alive)

        await eventually(is_alive, "the kernel is known again")


@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.gen_test
async def test_what_a_slow_gateway_has_told_counts_while_its_next_answer_is_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lists: bool
) -> None:
    async with fake_gateway() as gateway:
        gateway.lists = lists
        # For a moment, the last answer of a fast gateway counts as well.
        monkeypatch.setattr(answers_module, "_MAY_BE_LATE", -1.0)
        known, ended, gone = make_started(gateway), make_started(gateway), make_started(gateway)
        ids = [known, ended, gone]
        provider = make_gateway_provider(tmp_path, models_max_age=0.0)
        if not lists:
            assert set((await provider.models(ids)).alive) == set(ids)
        gateway.flows.clear()
        assert set((await provider.models(ids)).unknown) == set(ids)
        gateway.flows.set()

        await until_answered(provider._models)
        await provider.shutdown(ended)
        del gateway.kernels[gone]
        gateway.flows.clear()
        began = asyncio.get_running_loop().time()
        models = await provider.models([*ids, UNKNOWN_ID])
        assert asyncio.get_running_loop().time() - began < 2
        assert set(models.alive) == {known, gone}
        assert models.unknown == {ended: None, UNKNOWN_ID: None}
        monkeypatch.setattr(answers_module, "_SLOW_MAY_BE_LATE", 0.0)
        assert known in (await provider.models(ids)).unknown


@pytest.mark.parametrize("answer", [(200, "[]"), (401, "{}")])
@pytest.mark.gen_test
async def test_callers_share_an_answer_for_as_long_as_it_is_new_also_a_failure(
    tmp_path: Path, answer: tuple[int, str]
) -> None:
    async with fake_gateway() as gateway:
        models = make_gateway_provider(tmp_path, models_max_age=600.0)._models
        gateway.answers["GET", "kernels"] = answer
        for _ in range(3):
            assert (await models.get([UNKNOWN_ID])).alive == {}
        assert gateway.count("GET", "kernels") == 1


@pytest.mark.gen_test
async def test_callers_who_do_not_wait_for_a_late_list_leave_it_to_the_next_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models_module, "PATIENCE", 0.1)
    async with fake_gateway() as gateway:
        models = make_gateway_provider(tmp_path, models_max_age=0.0)._models
        kernel_id = make_started(gateway)
        gateway.flows.clear()
        for _ in range(3):
            assert (await models.get([kernel_id])).unknown == {kernel_id: None}
        asking = asyncio.create_task(models.find(kernel_id))
        gateway.flows.set()
        assert (await asking).alive.keys() == {kernel_id}
        assert gateway.count("GET", "kernels") == 1


@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.gen_test
async def test_what_was_asked_before_a_start_or_an_end_does_not_count_after_it(
    tmp_path: Path, lists: bool
) -> None:
    async with fake_gateway() as gateway:
        gateway.lists = lists
        models = make_gateway_provider(tmp_path)._models
        ended, started = make_started(gateway), UNKNOWN_ID
        old_model = gateway.kernels[ended]
        if lists:
            gateway.answers["GET", "kernels"] = (200, json.dumps([old_model]))
        else:
            await models.get([UNKNOWN_ID])  # Now it is known that there is no list.
            missing = json.dumps({"message": f"Kernel does not exist: {started}"})
            gateway.answers["GET", f"kernels/{ended}"] = (200, json.dumps(old_model))
            gateway.answers["GET", f"kernels/{started}"] = (404, missing)
        gateway.flows.clear()
        gateway.requests.clear()
        asking = asyncio.create_task(models.get([ended, started]))

        async def is_asked() -> bool:
            return bool(gateway.requests)

        await eventually(is_asked, "the gateway is asked")
        del gateway.kernels[ended]
        models.ended(ended)
        gateway.start(started)
        models.started(gateway.kernels[started])
        gateway.flows.set()
        found = await asking
        assert ended not in found.alive
        assert not found.is_dead(started)
        gateway.answers.clear()
        found = await models.get([ended, started])
        assert found.alive.keys() == {started}
        assert found.is_dead(ended)


@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.gen_test
async def test_a_late_answer_does_not_bring_back_what_has_ended_in_the_meantime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lists: bool
) -> None:
    monkeypatch.setattr(models_module, "PATIENCE", 0.1)
    monkeypatch.setattr(answers_module, "PATIENCE", 0.1)
    async with fake_gateway() as gateway:
        gateway.lists = lists
        models = make_gateway_provider(tmp_path, models_max_age=0.0)._models
        kept, ended = make_started(gateway), make_started(gateway)
        if not lists:
            await models.get([kept, ended])
        gateway.flows.clear()
        await models.get([kept, ended])
        models.ended(ended)
        gateway.flows.set()
        await until_answered(models)
        gateway.flows.clear()
        found = await models.get([kept, ended])
        assert found.alive.keys() == {kept}
        assert found.unknown == {ended: None}


@pytest.mark.gen_test
async def test_a_kernel_that_a_late_list_lacks_is_unknown_until_the_gateway_says_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_module, "PATIENCE", 0.0)  # every gateway counts as slow
    async with fake_gateway() as gateway:
        models = make_gateway_provider(tmp_path, models_max_age=0.0)._models
        kernel_id = make_started(gateway)
        await models.get([kernel_id])
        gateway.answers["GET", "kernels"] = (200, "[]")
        gateway.answers["GET", f"kernels/{kernel_id}"] = (502, "")
        assert (await models.get([kernel_id])).unknown.keys() == {kernel_id}


@pytest.mark.gen_test
async def test_the_log_tells_of_no_trouble_while_old_answers_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(models_module, "PATIENCE", 0.1)
    monkeypatch.setattr(answers_module, "PATIENCE", 0.1)
    async with fake_gateway() as gateway:
        models = make_gateway_provider(tmp_path, models_max_age=0.0)._models
        kernel_id = make_started(gateway)
        for _ in range(3):
            gateway.flows.clear()
            await models.get([kernel_id])
            gateway.flows.set()
            await until_answered(models)
        assert [each.levelname for each in caplog.records] == ["WARNING"]
        assert (await models.get([kernel_id])).alive


@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.gen_test
async def test_a_kernel_is_found_at_a_gateway_that_takes_seconds_for_an_answer(
    tmp_path: Path, lists: bool, seen: bool
) -> None:
    async with fake_gateway() as gateway:
        gateway.lists = lists
        kernel_id = make_started(gateway)
        manager = make_gateway_provider(tmp_path, models_max_age=0.0)._kernels
        if seen:
            await manager.models.get([kernel_id])
        gateway.flows.clear()
        asyncio.get_running_loop().call_later(2.5, gateway.flows.set)
        assert (await manager.learn(kernel_id))["execution_state"] == "starting"


@pytest.mark.gen_test
async def test_with_cookies_only_a_kernel_that_was_seen_alive_here_can_be_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_gateway(accept_cookies=True) as gateway:
        one, other = (make_gateway_provider(tmp_path, models_max_age=0.0) for _ in range(2))
        kernel_id = (await one.start(make_start_request(one))).kernel_id
        started_elsewhere = make_started(gateway)
        assert (await one.models([started_elsewhere])).alive
        gateway.kernels.clear()  # as if another gateway answered
        for each in (kernel_id, started_elsewhere):
            assert (await other.models([each])).unknown == {each: None}
            with pytest.raises(HTTPError, match="503"):
                await other._kernels.learn(each)
            with pytest.raises(KernelsUnavailable):
                await other.shutdown(each)
            assert (await one.models([each])).is_dead(each)
            await one.shutdown(each)
        monkeypatch.setattr(models_module, "_SEEN", 1)
        await one.start(make_start_request(one))
        assert (await one.models([kernel_id])).unknown == {kernel_id: None}
