"""The provider of a gateway's kernels, with a gateway that fails on purpose."""

from __future__ import annotations

import asyncio
import json
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
from nbsessions.kernels.gateway import provider as provider_module
from support.fake_gateway import (
    BROKEN,
    fake_gateway,
    make_gateway_provider,
    make_start_request,
)
from support.services import eventually

UNKNOWN_ID = "11111111-2222-4333-8444-555555555555"


def make_starts_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow request_timeout to be shorter than the default time-out of a launch."""
    monkeypatch.setattr(GatewayClient, "KERNEL_LAUNCH_TIMEOUT", 0)
    monkeypatch.setenv("KERNEL_LAUNCH_TIMEOUT", "0")


@pytest.mark.gen_test
async def test_a_kernel_gets_the_id_that_the_intent_has(tmp_path: Path) -> None:
    async with fake_gateway(auth_token="secret") as gateway:
        provider = make_gateway_provider(tmp_path)
        asked = make_start_request(provider)
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
        await provider.start(make_start_request(provider))
        env = gateway.bodies[0]["env"]
        assert (env["COLOUR"], env["KERNEL_USERNAME"]) == ("blue", "ada")


@pytest.mark.gen_test
async def test_an_id_that_the_gateway_chose_itself_is_the_kernels_id(tmp_path: Path) -> None:
    async with fake_gateway() as gateway:
        gateway.takes_ids = False
        provider = make_gateway_provider(tmp_path)
        kernel = await provider.start(make_start_request(provider))
        assert list(gateway.kernels) == [kernel.kernel_id]


@pytest.mark.gen_test
async def test_starts_that_the_gateway_refuses_are_told_apart(tmp_path: Path) -> None:
    async with fake_gateway() as gateway:
        provider = make_gateway_provider(tmp_path)
        with pytest.raises(KernelspecNotFound):
            await provider.start(make_start_request(provider, "missing"))
        with pytest.raises(KernelStartFailed):
            await provider.start(make_start_request(provider, BROKEN))
        with pytest.raises(InvalidRequest):
            await provider.start(make_start_request(provider, path="../../a.ipynb"))
        gateway.answers["POST", "kernels"] = (401, "")
        with pytest.raises(KernelsUnavailable):
            await provider.start(make_start_request(provider))
        assert gateway.kernels == {}


@pytest.mark.gen_test
async def test_a_gateway_that_is_not_there_starts_nothing(tmp_path: Path) -> None:
    async with fake_gateway():
        provider = make_gateway_provider(tmp_path)
    async with fake_gateway(url="http://127.0.0.1:1"):
        with pytest.raises(KernelsUnavailable) as caught:
            await provider.start(make_start_request(provider))
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
        asked = make_start_request(one)
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
            (await provider.start(make_start_request(provider))).kernel_id for _ in range(4)
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
        started = [
            (await provider.start(make_start_request(provider))).kernel_id for _ in range(3)
        ]
        assert list(provider._final_after) == started[1:]


@pytest.mark.gen_test
async def test_a_gateway_chooses_the_kernel_of_a_start_that_names_none(tmp_path: Path) -> None:
    async with fake_gateway() as gateway:
        gateway.default_name = "other"
        provider = make_gateway_provider(tmp_path)
        assert provider.default_kernel_name == "light"
        assert (await provider.start(make_start_request(provider))).kernel_name == "other"
        assert (await provider.start(make_start_request(provider, "light"))).kernel_name == "light"
        assert [each["name"] for each in gateway.bodies] == [None, "light"]
        gateway.default_name = BROKEN
        with pytest.raises(KernelStartFailed, match="'default' kernel"):
            await provider.start(make_start_request(provider))


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
            await provider.start(make_start_request(provider, "light"))
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
        asked = make_start_request(provider)
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
        kernel = await provider.start(make_start_request(provider))
        gateway.answers["DELETE", "*"] = (404, "404 page not found")
        with pytest.raises(Exception, match="404"):
            await provider.shutdown(kernel.kernel_id)
        gateway.answers.clear()
        await provider.shutdown(kernel.kernel_id)
        await provider.shutdown(kernel.kernel_id)
        assert gateway.kernels == {}
        assert (await provider.models([kernel.kernel_id])).is_dead(kernel.kernel_id)


@pytest.mark.gen_test
async def test_a_kernel_is_connected_once_it_has_had_a_client(tmp_path: Path) -> None:
    async with fake_gateway() as gateway:
        provider = make_gateway_provider(tmp_path, models_max_age=0.0)
        kernel = await provider.start(make_start_request(provider))
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
        kernel = await one.start(make_start_request(one))
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
