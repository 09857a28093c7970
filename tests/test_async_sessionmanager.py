"""The session manager that servers load has the same calls and results as the server's own."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
from jupyter_server.services.sessions.sessionmanager import SessionManager as StockSessionManager
from tornado.web import HTTPError

from nbsessions import AsyncSessionManager
from nbsessions.errors import StoreUnavailable
from nbsessions.service import SessionService
from support.hosts import make_contents_manager, running_kernel_manager

pytestmark = pytest.mark.gen_test

UNKNOWN_ID = "11111111-2222-4333-8444-555555555555"


@asynccontextmanager
async def running_manager(folder: Path, **traits: Any) -> AsyncIterator[AsyncSessionManager]:
    """Yield a session manager over real kernels."""
    async with running_kernel_manager(folder) as kernel_manager:
        manager = AsyncSessionManager(
            kernel_manager=kernel_manager,
            contents_manager=make_contents_manager(folder),
            **traits,
        )
        try:
            yield manager
        finally:
            manager.close()


async def create(manager: AsyncSessionManager, path: str = "a.ipynb", **more: Any) -> Any:
    """Create a notebook's session and return its model."""
    return await manager.create_session(path=path, type="notebook", **more)


async def status_of(awaitable: Awaitable[object]) -> int:
    """Return the status code of the HTTPError that is raised."""
    with pytest.raises(HTTPError) as caught:
        await awaitable
    return caught.value.status_code


# The same calls

METHODS = [
    "create_session",
    "start_kernel_for_session",
    "get_kernel_env",
    "save_session",
    "get_session",
    "update_session",
    "kernel_culled",
    "row_to_model",
    "list_sessions",
    "delete_session",
    "close",
    "session_exists",
    "new_session_id",
]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_takes_what_the_servers_own_takes(method: str) -> None:
    ours, theirs = getattr(AsyncSessionManager, method), getattr(StockSessionManager, method)
    assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(theirs)
    our_parameters = inspect.signature(ours).parameters
    for position, (name, parameter) in enumerate(inspect.signature(theirs).parameters.items()):
        if parameter.kind is parameter.VAR_KEYWORD:
            assert our_parameters[name].kind is parameter.VAR_KEYWORD
            continue
        assert list(our_parameters)[position] == name
        assert our_parameters[name].kind is parameter.kind
        if parameter.default is not parameter.empty:
            assert our_parameters[name].default == parameter.default


@pytest.mark.parametrize("method", METHODS)
def test_whatever_a_method_takes_in_addition_may_be_left_out(method: str) -> None:
    ours = inspect.signature(getattr(AsyncSessionManager, method)).parameters
    theirs = inspect.signature(getattr(StockSessionManager, method)).parameters
    for name in set(ours) - set(theirs):
        assert ours[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert ours[name].default is not inspect.Parameter.empty


def test_the_constructor_takes_the_same_traits() -> None:
    kernel_manager, contents_manager = object(), object()
    manager = AsyncSessionManager(
        kernel_manager=kernel_manager,
        contents_manager=contents_manager,
        database_filepath=":memory:",
    )
    assert manager.kernel_manager is kernel_manager
    assert manager.contents_manager is contents_manager
    manager.close()


# The same results


async def test_a_model_has_the_servers_own_fields(tmp_path: Path) -> None:
    async with running_manager(tmp_path) as manager:
        model = await create(manager, "d/a.ipynb", name="A", kernel_name="other")
        kernel = manager.kernel_manager.kernel_model(model["kernel"]["id"])
        assert model == {
            "id": model["id"],
            "path": "d/a.ipynb",
            "name": "A",
            "type": "notebook",
            "kernel": kernel,
            "notebook": {"path": "d/a.ipynb", "name": "A"},
        }
        assert await manager.get_session(session_id=model["id"]) == model
        assert await manager.list_sessions() == [model]


async def test_what_was_not_given_stays_none(tmp_path: Path) -> None:
    async with running_manager(tmp_path) as manager:
        model = await manager.create_session()
        assert (model["path"], model["name"], model["type"]) == (None, None, None)
        assert "notebook" not in model


async def test_a_session_exists_when_its_kernel_does(tmp_path: Path) -> None:
    async with running_manager(tmp_path) as manager:
        assert not await manager.session_exists(path="a.ipynb")
        model = await create(manager)
        assert await manager.session_exists(path="a.ipynb")
        await manager.kernel_manager.shutdown_kernel(model["kernel"]["id"], now=True)
        assert not await manager.session_exists(path="a.ipynb")


async def test_a_session_is_found_by_any_of_its_columns(tmp_path: Path) -> None:
    async with running_manager(tmp_path) as manager:
        model = await create(manager, name="A")
        for columns in (
            {"session_id": model["id"]},
            {"path": "a.ipynb"},
            {"name": "A"},
            {"type": "notebook"},
            {"kernel_id": model["kernel"]["id"]},
            {"path": "a.ipynb", "type": "notebook"},
        ):
            assert await manager.get_session(**columns) == model


async def test_a_session_that_is_not_there_is_404(tmp_path: Path) -> None:
    async with running_manager(tmp_path) as manager:
        for call in (
            manager.get_session(session_id="x"),
            manager.update_session("x", path="b"),
            manager.update_session("x"),
            manager.delete_session("x"),
        ):
            assert await status_of(call) == 404


async def test_unknown_columns_are_type_errors(tmp_path: Path) -> None:
    async with running_manager(tmp_path) as manager:
        model = await create(manager)
        for call in (
            manager.get_session(bad_id="x"),
            manager.get_session(),
            manager.update_session(model["id"], bad_kw="x"),
        ):
            with pytest.raises(TypeError, match="column"):
                await call


async def test_columns_can_be_changed(tmp_path: Path) -> None:
    async with running_manager(tmp_path) as manager:
        model, other = await create(manager), await create(manager, "b.ipynb")
        await manager.update_session(
            model["id"], path="c.ipynb", name="C", kernel_id=other["kernel"]["id"], type=None
        )
        changed = await manager.get_session(session_id=model["id"])
        assert (changed["path"], changed["name"], changed["type"]) == ("c.ipynb", "C", "notebook")
        assert changed["kernel"]["id"] == other["kernel"]["id"]
        assert manager.kernel_manager.list_kernel_ids() == [other["kernel"]["id"]]


async def test_a_session_can_be_saved_for_a_kernel_of_ones_own(tmp_path: Path) -> None:
    async with running_manager(tmp_path) as manager:
        session_id = manager.new_session_id()
        kernel_id = await manager.start_kernel_for_session(
            session_id, "a.ipynb", None, "notebook", "other"
        )
        assert await manager.list_sessions() == []
        model = await manager.save_session(
            session_id, path="a.ipynb", name="A", type="notebook", kernel_id=kernel_id
        )
        assert (model["id"], model["kernel"]["id"]) == (session_id, kernel_id)
        assert await manager.get_session(session_id=session_id) == model


async def test_a_kernel_is_culled_when_it_is_not_there(tmp_path: Path) -> None:
    async with running_manager(tmp_path) as manager:
        model = await create(manager)
        assert not await manager.kernel_culled(model["kernel"]["id"])
        assert await manager.kernel_culled(UNKNOWN_ID)


async def test_a_row_becomes_a_model(tmp_path: Path) -> None:
    async with running_manager(tmp_path) as manager:
        model = await create(manager)
        row = {"session_id": model["id"], "kernel_id": model["kernel"]["id"]}
        assert await manager.row_to_model(row) == model
        dead = {"session_id": model["id"], "kernel_id": UNKNOWN_ID}
        assert await manager.row_to_model(dead, tolerate_culled=True) is None
        with pytest.raises(KeyError):
            await manager.row_to_model(dead)


async def test_sessions_of_culled_kernels_are_not_listed(tmp_path: Path) -> None:
    async with running_manager(tmp_path) as manager:
        culled, model = await create(manager), await create(manager, "b.ipynb")
        await manager.kernel_manager.shutdown_kernel(culled["kernel"]["id"], now=True)
        assert await manager.list_sessions() == [model]
        assert await status_of(manager.get_session(session_id=culled["id"])) == 404


async def test_deleting_shuts_the_kernel_down(tmp_path: Path) -> None:
    async with running_manager(tmp_path) as manager:
        model = await create(manager)
        await manager.delete_session(model["id"])
        assert manager.kernel_manager.list_kernel_ids() == []


@pytest.mark.parametrize(
    ("call", "status"),
    [
        (lambda manager, _: create(manager, "b", kernel_name="missing"), 501),
        (lambda manager, _: create(manager, "b", kernel_name="broken"), 500),
        (lambda manager, _: manager.save_session("x", kernel_id=UNKNOWN_ID), 400),
        (lambda manager, model: manager.save_session(model["id"], kernel_id=_kernel(model)), 400),
        (lambda manager, model: manager.update_session(model["id"], kernel_id=UNKNOWN_ID), 400),
        (lambda manager, _: manager.start_kernel_for_session("x", "b", "", "", "missing"), 501),
    ],
)
async def test_errors_are_http_errors(
    tmp_path: Path, call: Callable[[AsyncSessionManager, Any], Awaitable[object]], status: int
) -> None:
    async with running_manager(tmp_path) as manager:
        model = await create(manager)
        assert await status_of(call(manager, model)) == status


def _kernel(model: Any) -> str:
    return str(model["kernel"]["id"])


@pytest.mark.parametrize("name", [None, "A", ""])
async def test_a_kernels_environment_names_its_file_as_the_servers_own_does(
    tmp_path: Path, name: str | None
) -> None:
    async with running_manager(tmp_path) as manager:
        (tmp_path / "root" / "d").mkdir()
        stock: Any = StockSessionManager(  # type: ignore[no-untyped-call]
            kernel_manager=manager.kernel_manager, contents_manager=manager.contents_manager
        )
        for path in ("d/a.ipynb", "a.ipynb", "missing/a.ipynb"):
            assert manager.get_kernel_env(path, name) == stock.get_kernel_env(path, name)
        stock.close()


async def test_a_kernel_without_a_path_has_an_environment(tmp_path: Path) -> None:
    async with running_manager(tmp_path) as manager:
        assert manager.get_kernel_env(None, "A")["JPY_SESSION_NAME"] == "A"
        assert "JPY_SESSION_NAME" not in manager.get_kernel_env(None)


async def test_a_subclass_can_change_the_environment(tmp_path: Path) -> None:
    class Special(AsyncSessionManager):
        """Adds a variable to the environment of its kernels."""

        def get_kernel_env(self, path: str | None, name: str | None = None) -> dict[str, str]:
            return {**super().get_kernel_env(path, name), "SPECIAL": "1"}

    async with running_kernel_manager(tmp_path) as kernel_manager:
        environments = []
        start_kernel = kernel_manager.start_kernel

        async def watch(**options: Any) -> Any:
            environments.append(options["env"])
            return await start_kernel(**options)

        kernel_manager.start_kernel = watch
        manager = Special(
            kernel_manager=kernel_manager, contents_manager=make_contents_manager(tmp_path)
        )
        await create(manager)
        assert [each["SPECIAL"] for each in environments] == ["1"]
        manager.close()


# Status


async def test_managers_of_one_namespace_have_one_namespace_id(tmp_path: Path) -> None:
    async with (
        running_manager(tmp_path) as manager,
        running_manager(tmp_path) as same,
        running_manager(tmp_path, namespace="other \ud800") as other,
    ):
        assert manager.namespace_id == same.namespace_id
        assert manager.namespace_id != other.namespace_id


async def test_the_status_is_not_known_while_the_store_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_manager(tmp_path) as manager:
        fail = AsyncMock(side_effect=StoreUnavailable("locked"))
        monkeypatch.setattr(SessionService, "open", fail)
        monkeypatch.setattr("nbsessions.service.opening._OPEN_TIMEOUT", 0.05)
        status = await manager.get_status([UNKNOWN_ID])
        assert status == {"namespace": manager.namespace_id, "missing": None, "missed": []}


# Closing


async def test_closing_is_synchronous_and_idempotent_and_ends_all_calls(tmp_path: Path) -> None:
    async with running_manager(tmp_path) as manager:
        model = await create(manager)
        manager.close()
        manager.close()
        for call in (
            manager.list_sessions(),
            create(manager),
            manager.get_session(session_id=model["id"]),
            manager.update_session(model["id"], name="B"),
            manager.delete_session(model["id"]),
            manager.kernel_culled(UNKNOWN_ID),
            manager.session_exists("a.ipynb"),
            manager.get_status([]),
            manager.get_status([model["id"]]),
        ):
            assert await status_of(call) == 503


async def test_a_manager_that_was_never_used_can_be_closed(tmp_path: Path) -> None:
    async with running_manager(tmp_path) as manager:
        manager.close()
        assert await status_of(manager.open()) == 503


async def test_closing_while_the_store_is_being_opened_is_a_503(tmp_path: Path) -> None:
    file = tmp_path / "sessions.db"
    async with running_manager(tmp_path, database_filepath=str(file)) as manager:
        opening = asyncio.create_task(manager.open())
        await asyncio.sleep(0)
        manager.close()
        assert await status_of(opening) == 503


async def test_a_root_directory_may_have_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"\xff")
    file = tmp_path / "sessions.db"
    root.mkdir()
    for _ in range(2):
        async with running_manager(root, database_filepath=str(file)) as manager:
            await create(manager)
            assert manager.namespace.endswith("/\\xff/root")


async def test_an_opening_that_fails_is_tried_again_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_manager(tmp_path) as manager:
        with monkeypatch.context() as fault:
            fault.setattr(SessionService, "open", AsyncMock(side_effect=RuntimeError("not now")))
            with pytest.raises(RuntimeError, match="not now"):
                await manager.list_sessions()
        assert await manager.list_sessions() == []


async def test_a_manager_that_stops_takes_no_new_work(tmp_path: Path) -> None:
    async with running_manager(tmp_path) as manager:
        model = await create(manager)
        await manager.stop()
        assert await status_of(create(manager, "b.ipynb")) == 503
        assert await manager.list_sessions() == [model]


async def test_a_manager_that_stops_before_its_first_use_takes_no_new_work(
    tmp_path: Path,
) -> None:
    async with running_manager(tmp_path) as manager:
        await manager.stop()
        assert await status_of(create(manager)) == 503
        assert manager.kernel_manager.list_kernel_ids() == []


async def test_a_manager_that_is_dropped_lets_go_of_its_store(tmp_path: Path) -> None:
    async with running_kernel_manager(tmp_path) as kernel_manager:
        traits = {
            "kernel_manager": kernel_manager,
            "contents_manager": make_contents_manager(tmp_path),
            "database_filepath": str(tmp_path / "sessions.db"),
        }
        manager = AsyncSessionManager(**traits)
        model = await create(manager)

        del manager  # this closes the store, as with jupyter_server's own manager

        manager = AsyncSessionManager(**traits)
        assert (await manager.get_session(session_id=model["id"]))["id"] == model["id"]
        manager.close()
