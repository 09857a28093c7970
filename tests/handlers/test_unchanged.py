"""A client that has the list already is told so, and nothing is sent to it again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.httpclient import HTTPResponse
from tornado.web import Application

from nbsessions.async_sessionmanager import AsyncSessionManager
from nbsessions.kernels.surviving.manager import SurvivingMappingKernelManager
from support.application import Api, make_application
from support.hosts import make_contents_manager, make_kernel_manager
from support.surviving_managers import receive

# Named here, because pytest-tornado asks for the application only when a test runs.
pytestmark = pytest.mark.usefixtures("session_manager")

KERNEL_MANAGERS = {
    "tells": (SurvivingMappingKernelManager, {"keep_output": False, "orphan_timeout": None}),
    "is-asked": (AsyncMappingKernelManager, {}),
}


class MoreInModels(AsyncSessionManager):
    """Puts more into the models, as a subclass may."""

    number = 1

    async def list_sessions(self) -> list[dict[str, Any]]:
        return [{**model, "more": self.number} for model in await super().list_sessions()]

    async def get_session(self, **columns: str | None) -> dict[str, Any]:
        return {**await super().get_session(**columns), "more": self.number}


@pytest.fixture(params=KERNEL_MANAGERS)
def kernel_manager(request: pytest.FixtureRequest, io_loop: Any, tmp_path: Path) -> Iterator[Any]:
    """A kernel manager that tells which kernels have changed, and one that has to be asked."""
    kind, traits = KERNEL_MANAGERS[request.param]
    manager = make_kernel_manager(tmp_path, kind, **traits)
    yield manager
    io_loop.run_sync(lambda: manager._async_shutdown_all(now=True))


@pytest.fixture
def session_manager(kernel_manager: Any, tmp_path: Path) -> Iterator[AsyncSessionManager]:
    """Take the place of the manager over stock kernels."""
    manager = make_session_manager(AsyncSessionManager, kernel_manager, tmp_path)
    yield manager
    manager.close()


def make_session_manager(
    kind: type[AsyncSessionManager], kernel_manager: Any, folder: Path
) -> AsyncSessionManager:
    contents_manager = make_contents_manager(folder)
    return kind(kernel_manager=kernel_manager, contents_manager=contents_manager)


async def get(api: Api, path: str = "", *, known: str | None = None) -> HTTPResponse:
    """Send a request whose client already has what belongs to the ETag."""
    return await api("GET", path, headers={} if known is None else {"If-None-Match": known})


class Client:
    """A client that remembers the last ETag."""

    def __init__(self, api: Api, path: str = "") -> None:
        self._api = api
        self._path = path
        self._known: str | None = None

    async def changed(self) -> Any:
        """Return what has changed since the last time."""
        reply = await get(self._api, self._path, known=self._known)
        assert reply.code == 200
        assert reply.headers["Content-Type"] == "application/json"
        assert reply.headers["Etag"] != self._known
        self._known = reply.headers["Etag"]
        return json.loads(reply.body)

    async def unchanged(self) -> None:
        """Check that nothing has changed."""
        reply = await get(self._api, self._path, known=self._known)
        assert (reply.code, reply.body) == (304, b"")
        assert reply.headers["Etag"] == self._known


@pytest.mark.gen_test
async def test_a_list_is_sent_again_after_each_change_and_only_then(
    api: Api, kernel_manager: Any
) -> None:
    client = Client(api)
    assert await client.changed() == []
    await client.unchanged()
    model = await api.create()
    assert await client.changed() == [model]
    await client.unchanged()
    await api("PATCH", f"/{model['id']}", {"path": "b.ipynb"})
    assert [each["path"] for each in await client.changed()] == ["b.ipynb"]
    kernel_id = model["kernel"]["id"]
    kernel_manager.get_kernel(kernel_id).execution_state = "busy"
    assert (await client.changed())[0]["kernel"]["execution_state"] == "busy"
    kernel_manager.notify_connect(kernel_id)
    assert (await client.changed())[0]["kernel"]["connections"] == 1
    await client.unchanged()
    await kernel_manager.shutdown_kernel(kernel_id, now=True)
    assert await client.changed() == []
    await client.unchanged()


@pytest.mark.gen_test
async def test_what_a_kernel_has_said_is_in_the_next_list(api: Api, kernel_manager: Any) -> None:
    model = await api.create()
    kernel = kernel_manager.get_kernel(model["kernel"]["id"])
    client = Client(api)
    await client.changed()
    receive(kernel, "status", {"execution_state": "busy"})
    (listed,) = await client.changed()
    assert listed["kernel"]["execution_state"] == "busy"
    receive(kernel, "stream", {"name": "stdout", "text": "1"})
    (later,) = await client.changed()
    assert later["kernel"]["last_activity"] > listed["kernel"]["last_activity"]
    await client.unchanged()


@pytest.mark.gen_test
async def test_a_session_is_sent_again_after_each_change_and_only_then(
    api: Api, kernel_manager: Any
) -> None:
    model = await api.create()
    client = Client(api, f"/{model['id']}")
    assert await client.changed() == model
    await client.unchanged()
    await api("PATCH", f"/{model['id']}", {"name": "new"})
    assert (await client.changed())["name"] == "new"
    kernel_manager.get_kernel(model["kernel"]["id"]).execution_state = "busy"
    assert (await client.changed())["kernel"]["execution_state"] == "busy"
    await client.unchanged()


@pytest.mark.gen_test
async def test_a_filtered_list_is_sent_again_after_each_change_and_only_then(api: Api) -> None:
    await api.create("a.ipynb")
    client = Client(api, "?path=a.ipynb")
    assert len(await client.changed()) == 1
    await api.create("b.ipynb")
    await client.unchanged()
    whole = await get(api)
    filtered = await get(api, "?path=a.ipynb")
    assert whole.headers["Etag"] != filtered.headers["Etag"]


@pytest.mark.gen_test
async def test_a_list_is_that_of_all_single_sessions(api: Api) -> None:
    paths = ("a.ipynb", "d/ä\\ \n.ipynb", "c")
    bodies = [(await get(api, f"/{(await api.create(path))['id']}")).body for path in paths]
    assert (await get(api)).body == b"[" + b",".join(bodies) + b"]"


@pytest.mark.gen_test
async def test_a_client_may_know_several_versions_and_weak_ones(api: Api) -> None:
    await api.create()
    etag = (await get(api)).headers["Etag"]
    for known in (f"W/{etag}", f'"other", {etag}', "*"):
        assert (await get(api, known=known)).code == 304
    for known in ('"other"', etag.strip('"'), ""):
        assert (await get(api, known=known)).code == 200


@pytest.mark.gen_test
async def test_who_may_not_read_is_not_told_that_nothing_has_changed(api: Api) -> None:
    etag = (await get(api)).headers["Etag"]
    assert (await api("GET", "", user=None, headers={"If-None-Match": etag})).code == 403


@pytest.mark.gen_test
async def test_two_servers_never_have_the_same_version(
    api: Api, kernel_manager: Any, tmp_path: Path
) -> None:
    other = make_session_manager(AsyncSessionManager, kernel_manager, tmp_path)
    try:
        mine = await get(api)
        theirs = await other.encode_sessions()
        assert theirs.content == mine.body == b"[]"
        assert mine.headers["Etag"] != f'"{theirs.version}"'
    finally:
        other.close()


class TestSubclass:
    """A session manager that lists sessions in its own way."""

    @pytest.fixture
    def session_manager(self, kernel_manager: Any, tmp_path: Path) -> Iterator[MoreInModels]:
        manager = make_session_manager(MoreInModels, kernel_manager, tmp_path)
        assert isinstance(manager, MoreInModels)
        yield manager
        manager.close()

    @pytest.fixture
    def app(self, session_manager: MoreInModels) -> Application:
        return make_application(session_manager)

    @pytest.mark.gen_test
    async def test_what_it_lists_is_sent(self, api: Api, session_manager: MoreInModels) -> None:
        client = Client(api)
        one = Client(api, f"/{(await api.create())['id']}")
        assert [each["more"] for each in await client.changed()] == [1]
        await client.unchanged()
        assert (await one.changed())["more"] == 1
        await one.unchanged()
        session_manager.number = 2
        assert (await one.changed())["more"] == 2
        assert [each["more"] for each in await client.changed()] == [2]


@pytest.mark.gen_test
async def test_many_readers_get_the_same_list_as_a_writer_works(api: Api) -> None:
    model = await api.create()

    async def write() -> None:
        for number in range(20):
            await api("PATCH", f"/{model['id']}", {"name": str(number)})
            (listed,) = await api.models()
            assert listed["name"] == str(number)

    async def read() -> None:
        last = -1
        while last < 19:
            (listed,) = await api.models()
            number = int(listed["name"]) if listed["name"].isdigit() else -1
            assert number >= last, "a reader was sent back in time"
            last = number

    await asyncio.gather(write(), *(read() for _ in range(5)))
