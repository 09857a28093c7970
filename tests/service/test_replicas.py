"""Servers that share one store and one scope: any of them serves any session."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from pathlib import Path

import pytest
from tornado.httpclient import AsyncHTTPClient

from support.application import Api
from support.postgres import shared_cluster
from support.replica import STUCK, running_replicas
from support.services import eventually

REPLICAS = 8
CLIENTS = 64
ROUNDS = 50
NAMESPACE = "replicas"


@pytest.fixture(params=["postgres", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that several processes can use."""
    if request.param == "postgres":
        return shared_cluster().make_schema()
    return f"sqlite://{tmp_path / 'sessions.db'}"


@pytest.fixture
def client() -> AsyncHTTPClient:
    return AsyncHTTPClient(force_instance=True, max_clients=CLIENTS)


def events(folder: Path) -> list[str]:
    """Return the starts and stops of kernels."""
    return [line.split()[0] for line in (folder / "log").read_text().splitlines()]


@pytest.mark.gen_test(timeout=300)
async def test_many_clients_of_many_servers_get_one_session_and_one_kernel(
    url: str, tmp_path: Path, client: AsyncHTTPClient
) -> None:
    folder = tmp_path / "kernels"
    rounds = ROUNDS if url.startswith("postgres") else 5
    with running_replicas(REPLICAS, url, NAMESPACE, folder) as (_, addresses):
        apis = [Api(client, address) for address in addresses]
        for number in range(rounds):
            path = f"{number}.ipynb"
            models = await asyncio.gather(
                *(random.choice(apis).create(path) for _ in range(CLIENTS))
            )
            assert all(model == models[0] for model in models)
            session_id = models[0]["id"]
            lists = await asyncio.gather(*(api.models() for api in apis))
            assert [[model["id"] for model in each] for each in lists] == [[session_id]] * REPLICAS
            reply = await random.choice(apis)("DELETE", f"/{session_id}")
            assert reply.code == 204
    assert events(folder) == ["start", "stop"] * rounds


@pytest.mark.gen_test
async def test_any_server_goes_on_with_the_sessions_of_one_that_was_killed(
    url: str, tmp_path: Path, client: AsyncHTTPClient
) -> None:
    folder = tmp_path / "kernels"
    with running_replicas(3, url, NAMESPACE, folder) as (replicas, addresses):
        one, *others = (Api(client, address) for address in addresses)
        model = await one.create("a.ipynb")
        replicas[0].process.kill()
        for api in others:
            assert [each["id"] for each in await api.models()] == [model["id"]]
            assert (await api.create("a.ipynb"))["id"] == model["id"]
        body = {"path": "b.ipynb"}
        reply = await others[0]("PATCH", f"/{model['id']}", body)
        assert json.loads(reply.body)["path"] == "b.ipynb"
        replicas[1].process.terminate()
        replicas[1].process.wait()
        assert [each["path"] for each in await others[1].models()] == ["b.ipynb"]
        assert (await others[1]("DELETE", f"/{model['id']}")).code == 204
    assert events(folder) == ["start", "stop"]


@pytest.mark.gen_test
async def test_a_start_that_a_killed_server_left_is_undone_by_one_of_the_others(
    url: str, tmp_path: Path, client: AsyncHTTPClient
) -> None:
    folder = tmp_path / "kernels"
    with running_replicas(4, url, NAMESPACE, folder) as (replicas, addresses):
        one, *others = (Api(client, address) for address in addresses)
        stuck = asyncio.ensure_future(one.create("a.ipynb", kernel={"name": STUCK}))

        async def has_begun() -> bool:
            return any(file.read_text() for file in folder.glob("*-*"))

        await eventually(has_begun, "the kernel is being started")
        replicas[0].process.kill()
        await asyncio.gather(stuck, return_exceptions=True)
        models = await asyncio.gather(*(api.create("a.ipynb") for api in others))
        assert len({model["id"] for model in models}) == 1
    assert events(folder) == ["start", "stop", "start"]


@pytest.mark.gen_test
async def test_an_abandoned_window_of_a_server_that_was_killed_is_ended_by_another(
    url: str, tmp_path: Path, client: AsyncHTTPClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "kernels"
    monkeypatch.setenv("PLACEHOLDER_TIMEOUT", "3")
    with running_replicas(2, url, NAMESPACE, folder) as (replicas, addresses):
        one, other = (Api(client, address) for address in addresses)
        await one.create(str(uuid.uuid4()), name="a.ipynb")
        replicas[0].process.kill()
        assert len(await other.models()) == 1

        async def is_ended() -> bool:
            return not await other.models() and len(events(folder)) == 2

        await eventually(is_ended, "the session and its kernel are ended")
    assert events(folder) == ["start", "stop"]
