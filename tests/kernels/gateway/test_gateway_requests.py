"""What the answers of a gateway mean, and those of others that answer in its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nbsessions.errors import KernelStartUncertain, KernelsUnavailable
from nbsessions.kernels.gateway.provider import GatewayKernelProvider
from nbsessions.kernels.gateway.requests import GatewayError
from support.fake_gateway import fake_gateway, make_gateway_provider, make_start_request

UNKNOWN_ID = "11111111-2222-4333-8444-555555555555"


async def start_error(provider: GatewayKernelProvider) -> KernelsUnavailable:
    """Return the error of a start that does not succeed."""
    with pytest.raises(KernelsUnavailable) as caught:
        await provider.start(make_start_request(provider))
    return caught.value


@pytest.mark.parametrize(
    "page",
    [
        f"<p>The requested URL /api/kernels/{UNKNOWN_ID} was not found on this server.</p>",
        json.dumps(f"no route to /api/kernels/{UNKNOWN_ID}"),
        json.dumps({"path": f"/api/kernels/{UNKNOWN_ID}", "message": "no route"}),
        json.dumps({"message": {"path": UNKNOWN_ID}}),
        json.dumps([{"message": UNKNOWN_ID}]),
        "[" * 100_000 + UNKNOWN_ID,
    ],
)
@pytest.mark.gen_test
async def test_a_page_that_echoes_the_address_does_not_tell_that_a_kernel_is_gone(
    tmp_path: Path, page: str
) -> None:
    async with fake_gateway() as gateway:
        gateway.lists = False
        provider = make_gateway_provider(tmp_path, models_max_age=0.0)
        gateway.start(UNKNOWN_ID)
        for method in ("GET", "DELETE"):
            gateway.answers[method, f"kernels/{UNKNOWN_ID}"] = (404, page)
        assert (await provider.models([UNKNOWN_ID])).unknown == {UNKNOWN_ID: None}
        with pytest.raises(GatewayError, match="404"):
            await provider.shutdown(UNKNOWN_ID)
        gateway.answers.clear()
        await provider.shutdown(UNKNOWN_ID)
        assert (await provider.models([UNKNOWN_ID])).is_dead(UNKNOWN_ID)


@pytest.mark.parametrize(
    ("message", "missing"),
    [
        ("Kernel spec r not found", True),
        ("No such kernel named: r", True),
        ("No route to this resource", False),
        ("Kernel spec r2 not found", False),
    ],
)
def test_what_is_missing_is_named_by_a_word_of_the_message(message: str, missing: bool) -> None:
    error = GatewayError("the answer is 404", status=404)
    error.body = json.dumps({"message": message})
    assert error.is_missing("r") is missing


@pytest.mark.parametrize(
    "url",
    ["http://no-such-host.invalid:1", "http://" + "a" * 70 + ".example", "httpx://localhost"],
)
@pytest.mark.gen_test
async def test_a_host_that_cannot_be_found_is_an_error_like_any_other(
    tmp_path: Path, url: str
) -> None:
    async with fake_gateway(url=url):
        provider = make_gateway_provider(tmp_path)
        assert (await provider.models([UNKNOWN_ID])).unknown == {UNKNOWN_ID: None}
        assert isinstance(await start_error(provider), KernelsUnavailable)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70 + ".example"])
@pytest.mark.gen_test
async def test_a_start_whose_host_has_no_address_was_never_sent(tmp_path: Path, host: str) -> None:
    async with fake_gateway(url=f"http://{host}:1"):
        error = await start_error(make_gateway_provider(tmp_path))
        assert not isinstance(error, KernelStartUncertain)


@pytest.mark.gen_test
async def test_a_start_is_not_sent_to_a_gateway_that_is_not_trusted(tmp_path: Path) -> None:
    async with fake_gateway(tls=True, validate_cert=True) as gateway:
        error = await start_error(make_gateway_provider(tmp_path))
        assert not isinstance(error, KernelStartUncertain)
        assert gateway.requests == []


@pytest.mark.parametrize("answer", ["<html>", "[" * 100_000, "", "{}"])
@pytest.mark.gen_test
async def test_a_start_is_uncertain_if_its_answer_is_no_kernel(
    tmp_path: Path, answer: str
) -> None:
    async with fake_gateway() as gateway:
        gateway.answers["POST", "kernels"] = (201, answer)
        error = await start_error(make_gateway_provider(tmp_path))
        assert isinstance(error, KernelStartUncertain)
