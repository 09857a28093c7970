"""The provider of a gateway's kernels, with a gateway that fails on purpose."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path

import pytest
from jupyter_server.gateway.gateway_client import GatewayClient
from tornado.web import HTTPError

from nbsessions.errors import (
    InvalidRequest,
    KernelspecNotFound,
    KernelStartFailed,
    KernelStartUncertain,
    KernelsUnavailable,
)
from nbsessions.kernels.base import StartRequest
from nbsessions.kernels.gateway import answers as answers_module
from nbsessions.kernels.gateway import models as models_module
from nbsessions.kernels.gateway import provider as provider_module
from nbsessions.kernels.gateway.models import GatewayModels
from nbsessions.kernels.gateway.provider import GatewayKernelProvider
from support.fake_gateway import (
    BROKEN,
    fake_gateway,
    make_gateway_provider,
    make_started,
)
from support.services import eventually

UNKNOWN_ID = "11111111-2222-4333-8444-555555555555"


def request(
    provider: GatewayKernelProvider, kernel_name: str | None = None, path: str = "a.ipynb"
) -> StartRequest:
    return StartRequest(
        token=str(uuid.uuid4()),
        session_id=str(uuid.uuid4()),
        kernel_name=kernel_name,
        kernel_id=provider.new_kernel_id(),
        path=path,
        name=None,
        type="notebook",
    )


def make_starts_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow request_timeout to be shorter than the default time-out of a launch."""
    monkeypatch.setattr(GatewayClient, "KERNEL_LAUNCH_TIMEOUT", 0)
    monkeypatch.setenv("KERNEL_LAUNCH_TIMEOUT", "0")


async def until_answered(models: GatewayModels) -> None:
    """Wait until the gateway has answered what it was asked for."""

    async def is_answered() -> bool:
        return not models._tasks.are_running

    await eventually(is_answered, "the answers are here")


@pytest.mark.gen_test
async def test_a_kernel_gets_the_id_that_the_intent_has(tmp_path: Path) -> None:
    async with fake_gateway(auth_token="secret") as gateway:
        provider = make_gateway_provider(tmp_path)
        asked = request(provider)
        kernel = await provider.start(asked)
        assert (kernel.kernel_id, kernel.kernel_name) == (asked.kernel_id, "light")
        assert (
            kernel.provider == provider.name == provider.shared_scope == f"gateway:{gateway.url}"
        )
        (body,) = gateway.bodies
        assert body["kernel_id"] == body["env"]["KERNEL_ID"] == asked.kernel_id
        assert body["env"]["KERNEL_OF"] == "a.ipynb"
        assert body["env"]["KERNEL_WORKING_DIR"] == str(tmp_path / "root")
        assert "SECRET" not in body["env"]
        assert {each["Authorization"] for each in gateway.headers} == {"token secret"}
        assert (await provider.models([kernel.kernel_id])).alive[kernel.kernel_id]["id"]


@pytest.mark.gen_test
async def test_variables_that_the_gateway_client_allows_are_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLOUR", "blue")
    monkeypatch.delenv("KERNEL_USERNAME", raising=False)
    async with fake_gateway(allowed_envs="COLOUR,MISSING", http_user="ada") as gateway:
        provider = make_gateway_provider(tmp_path)
        await provider.start(request(provider))
        env = gateway.bodies[0]["env"]
        assert (env["COLOUR"], env["KERNEL_USERNAME"]) == ("blue", "ada")


@pytest.mark.gen_test
async def test_an_id_that_the_gateway_chose_itself_is_the_kernels_id(tmp_path: Path) -> None:
    async with fake_gateway() as gateway:
        gateway.takes_ids = False
        provider = make_gateway_provider(tmp_path)
        kernel = await provider.start(request(provider))
        assert list(gateway.kernels) == [kernel.kernel_id]


@pytest.mark.gen_test
async def test_starts_that_the_gateway_refuses_are_told_apart(tmp_path: Path) -> None:
    async with fake_gateway() as gateway:
        provider = make_gateway_provider(tmp_path)
        with pytest.raises(KernelspecNotFound):
            await provider.start(request(provider, "missing"))
        with pytest.raises(KernelStartFailed):
            await provider.start(request(provider, BROKEN))
        with pytest.raises(InvalidRequest):
            await provider.start(request(provider, path="../../a.ipynb"))
        gateway.answers["POST", "kernels"] = (401, "")
        with pytest.raises(KernelsUnavailable):
            await provider.start(request(provider))
        assert gateway.kernels == {}


@pytest.mark.gen_test
async def test_a_gateway_that_is_not_there_starts_nothing(tmp_path: Path) -> None:
    async with fake_gateway():
        provider = make_gateway_provider(tmp_path)
    async with fake_gateway(url="http://127.0.0.1:1"):
        with pytest.raises(KernelsUnavailable) as caught:
            await provider.start(request(provider))
        assert not isinstance(caught.value, KernelStartUncertain)
        assert (await provider.models([UNKNOWN_ID])).unknown == {UNKNOWN_ID: None}
        with pytest.raises(HTTPError) as refused:
            await provider._kernels.learn(UNKNOWN_ID)
        assert refused.value.status_code == 503


@pytest.mark.gen_test
async def test_a_start_that_was_cut_short_is_undone_even_if_its_kernel_comes_up_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_starts_short(monkeypatch)
    monkeypatch.setattr(provider_module, "_SETTLES_AFTER", 0.5)
    async with fake_gateway(request_timeout=3.0) as gateway:
        loop = asyncio.get_running_loop()
        one, other = make_gateway_provider(tmp_path), make_gateway_provider(tmp_path)
        gateway.answers["POST", "kernels"] = (504, "of a proxy")
        asked = request(one)
        assert asked.kernel_id is not None
        with pytest.raises(KernelStartUncertain):
            await one.start(asked)
        began = loop.time()
        for provider in (one, other):
            with pytest.raises(KernelStartUncertain):
                await provider.undo_start(asked.kernel_id)
        gateway.start(asked.kernel_id)
        await one.undo_start(asked.kernel_id)
        assert gateway.kernels == {}
        await one.undo_start(asked.kernel_id)

        async def is_settled() -> bool:
            try:
                await other.undo_start(asked.kernel_id)
            except KernelStartUncertain:
                return False
            return True

        await eventually(is_settled, "the start cannot bring a kernel up any more")
        # The gateway may go on for as long as a launch may take.
        assert loop.time() - began >= 3.0


@pytest.mark.gen_test
async def test_a_start_takes_as_long_as_the_gateway_was_told_that_a_launch_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_starts_short(monkeypatch)
    monkeypatch.setattr(GatewayClient, "KERNEL_LAUNCH_TIMEOUT", 60)
    async with fake_gateway(request_timeout=20.0, launch_timeout_pad=2.0):
        assert make_gateway_provider(tmp_path)._requests.start_timeout == 62.0


@pytest.mark.gen_test
async def test_starts_of_kernels_that_have_ended_are_forgotten(tmp_path: Path) -> None:
    async with fake_gateway() as gateway:
        provider = make_gateway_provider(tmp_path, models_max_age=0.0)
        ended, died, ended_elsewhere, kept = [
            (await provider.start(request(provider))).kernel_id for _ in range(4)
        ]
        await provider.shutdown(ended)
        del gateway.kernels[died]
        assert (await provider.models([died, kept])).is_dead(died)
        provider._kernels.remove_kernel(ended_elsewhere)
        assert list(provider._final_after) == [kept]


@pytest.mark.gen_test
async def test_only_the_last_starts_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_module, "_REMEMBERED", 2)
    async with fake_gateway():
        provider = make_gateway_provider(tmp_path)
        started = [(await provider.start(request(provider))).kernel_id for _ in range(3)]
        assert list(provider._final_after) == started[1:]


@pytest.mark.gen_test
async def test_a_gateway_chooses_the_kernel_of_a_start_that_names_none(tmp_path: Path) -> None:
    async with fake_gateway() as gateway:
        gateway.default_name = "other"
        provider = make_gateway_provider(tmp_path)
        assert provider.default_kernel_name == "light"
        assert (await provider.start(request(provider))).kernel_name == "other"
        assert (await provider.start(request(provider, "light"))).kernel_name == "light"
        assert [each["name"] for each in gateway.bodies] == [None, "light"]
        gateway.default_name = BROKEN
        with pytest.raises(KernelStartFailed, match="'default' kernel"):
            await provider.start(request(provider))


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        (
            403,
            {"message": "Resource Limit: 2 kernels", "reason": "x"},
            "Resource Limit: 2 kernels",
        ),
        (500, {"message": "No room", "traceback": "SECRET"}, "No room"),
        (500, {"message": "", "reason": "The launch timed out"}, "The launch timed out"),
        (500, {"message": "word " * 1000}, "word …"),
        (500, {"message": ["SECRET"]}, "GatewayError"),
        (500, "SECRET", "GatewayError"),
    ],
)
@pytest.mark.gen_test
async def test_a_client_sees_why_the_gateway_starts_no_kernel(
    tmp_path: Path, status: int, answer: object, expected: str
) -> None:
    async with fake_gateway() as gateway:
        gateway.answers["POST", "kernels"] = (status, json.dumps(answer))
        provider = make_gateway_provider(tmp_path)
        with pytest.raises((KernelsUnavailable, KernelStartFailed)) as caught:
            await provider.start(request(provider, "light"))
        assert expected in str(caught.value)
        assert "SECRET" not in str(caught.value)
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize("lacking", ["name", "last_activity", "execution_state", "connections"])
@pytest.mark.gen_test
async def test_a_start_is_uncertain_if_the_model_in_the_answer_lacks_something(
    tmp_path: Path, lacking: str
) -> None:
    async with fake_gateway() as gateway:
        provider = make_gateway_provider(tmp_path)
        asked = request(provider)
        assert asked.kernel_id is not None
        gateway.start(asked.kernel_id)
        del gateway.kernels[asked.kernel_id][lacking]
        model = json.dumps(gateway.kernels[asked.kernel_id])
        gateway.answers["POST", "kernels"] = (201, model)
        with pytest.raises(KernelStartUncertain):
            await provider.start(asked)
        await provider.undo_start(asked.kernel_id)
        assert gateway.kernels == {}


@pytest.mark.gen_test
async def test_a_shutdown_that_the_gateway_does_not_carry_out_raises(tmp_path: Path) -> None:
    async with fake_gateway() as gateway:
        provider = make_gateway_provider(tmp_path)
        kernel = await provider.start(request(provider))
        gateway.answers["DELETE", "*"] = (404, "404 page not found")
        with pytest.raises(Exception, match="404"):
            await provider.shutdown(kernel.kernel_id)
        gateway.answers.clear()
        await provider.shutdown(kernel.kernel_id)
        await provider.shutdown(kernel.kernel_id)
        assert gateway.kernels == {}
        assert (await provider.models([kernel.kernel_id])).is_dead(kernel.kernel_id)


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
        kernel = await provider.start(request(provider))
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
        kernel = await provider.start(request(provider))
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
        kernel = await provider.start(request(provider))
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
        kernel = await provider.start(request(provider))
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
        kernel_id = (await one.start(request(one))).kernel_id
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
        await one.start(request(one))
        assert (await one.models([kernel_id])).unknown == {kernel_id: None}


@pytest.mark.gen_test
async def test_a_kernel_is_connected_once_it_has_had_a_client(tmp_path: Path) -> None:
    async with fake_gateway() as gateway:
        provider = make_gateway_provider(tmp_path, models_max_age=0.0)
        kernel = await provider.start(request(provider))
        assert not provider.was_connected(kernel.kernel_id)
        gateway.kernels[kernel.kernel_id]["execution_state"] = "idle"
        await provider.models([kernel.kernel_id])
        assert provider.was_connected(kernel.kernel_id)
        assert provider.was_connected("of nobody")


@pytest.mark.gen_test
async def test_the_name_of_the_provider_has_no_credentials(tmp_path: Path) -> None:
    async with fake_gateway(url="https://ada:secret@Gateway.example:8888/base/?x=1"):
        assert make_gateway_provider(tmp_path).name == "gateway:https://gateway.example:8888/base"


@pytest.mark.gen_test
async def test_a_kernel_of_another_server_is_served_on_demand(tmp_path: Path) -> None:
    async with fake_gateway() as gateway:
        one, other = make_gateway_provider(tmp_path), make_gateway_provider(tmp_path)
        kernel = await one.start(request(one))
        manager = other._kernels
        assert kernel.kernel_id not in manager
        assert (await manager.kernel_model(kernel.kernel_id))["id"] == kernel.kernel_id
        assert kernel.kernel_id in manager
        ended: list[str] = []
        other.watch(ended.append)
        await manager.shutdown_kernel(kernel.kernel_id)
        assert ended == [kernel.kernel_id]
        assert gateway.kernels == {}
        with pytest.raises(HTTPError) as missing:
            await manager.kernel_model(kernel.kernel_id)
        assert missing.value.status_code == 404
