"""Sessions follow renames by contents managers of all kinds, on the event loop and in threads."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from jupyter_core.utils import ensure_async
from jupyter_server.services.contents.filemanager import (
    AsyncFileContentsManager,
    FileContentsManager,
)
from jupyter_server.services.contents.largefilemanager import (
    AsyncLargeFileManager,
    LargeFileManager,
)
from tornado.web import HTTPError

from nbsessions import AsyncSessionManager
from nbsessions.errors import StoreUnavailable
from nbsessions.hosts.renames import follow_renames
from support.contents import (
    AwaitableRename,
    FutureRename,
    OwnAsyncRename,
    OwnRename,
    OwnRenameFile,
)
from support.hosts import running_kernel_manager
from support.services import eventually

pytestmark = pytest.mark.gen_test

SYNC = [FileContentsManager, LargeFileManager, OwnRename, OwnRenameFile]
ASYNC = [
    AsyncFileContentsManager,
    AsyncLargeFileManager,
    OwnAsyncRename,
    AwaitableRename,
    FutureRename,
]


class Site:
    """A contents manager with the file ``a.ipynb``, and a session manager with its session."""

    def __init__(self, contents_manager: Any, session_manager: AsyncSessionManager) -> None:
        self.contents_manager = contents_manager
        self.session_manager = session_manager

    async def rename(self, old: str, new: str) -> None:
        """Rename a file, like callers that support both kinds of contents managers."""
        await ensure_async(self.contents_manager.rename(old, new))

    async def paths(self) -> list[str]:
        """Return the paths of the sessions."""
        return [model["path"] for model in await self.session_manager.list_sessions()]

    async def wait_for(self, *paths: str) -> None:
        """Wait until the sessions have these paths."""

        async def are_these() -> bool:
            return await self.paths() == list(paths)

        await eventually(are_these, f"the paths are {paths}")

    def add_file(self, path: str) -> None:
        """Create an empty file."""
        Path(self.contents_manager.root_dir, path).write_text("")

    def has_file(self, path: str) -> bool:
        """Return whether the file exists."""
        return Path(self.contents_manager.root_dir, path).exists()


@asynccontextmanager
async def site(folder: Path, contents_class: Any) -> AsyncIterator[Site]:
    """Yield a site with one file and its session, whose renames are followed."""
    async with running_kernel_manager(folder) as kernel_manager:
        contents_manager = contents_class(root_dir=kernel_manager.root_dir)
        session_manager = AsyncSessionManager(
            kernel_manager=kernel_manager, contents_manager=contents_manager
        )
        follow_renames(contents_manager, session_manager)
        here = Site(contents_manager, session_manager)
        here.add_file("a.ipynb")
        try:
            await session_manager.create_session(path="a.ipynb", name="a.ipynb", type="notebook")
            yield here
        finally:
            session_manager.close()


def fail_to_move(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every move of sessions fail."""

    async def rename_document(old_path: str, new_path: str) -> None:
        raise StoreUnavailable("the store is down")

    monkeypatch.setattr(site.session_manager, "rename_document", rename_document)


# Ways to rename


@pytest.mark.parametrize("contents_class", ASYNC)
async def test_after_an_asynchronous_rename_the_session_has_moved(
    tmp_path: Path, contents_class: Any
) -> None:
    async with site(tmp_path, contents_class) as here:
        result = await here.contents_manager.rename("a.ipynb", "b.ipynb")
        assert await here.paths() == ["b.ipynb"]
        assert here.has_file("b.ipynb")
        assert result == ("renamed" if contents_class is OwnAsyncRename else None)


@pytest.mark.parametrize("contents_class", SYNC)
async def test_a_session_follows_a_synchronous_rename(tmp_path: Path, contents_class: Any) -> None:
    async with site(tmp_path, contents_class) as here:
        result = here.contents_manager.rename("a.ipynb", "b.ipynb")
        await here.wait_for("b.ipynb")
        assert here.has_file("b.ipynb")
        assert result == ("renamed" if contents_class is OwnRename else None)


@pytest.mark.parametrize("contents_class", SYNC)
async def test_a_session_follows_a_rename_in_a_thread(tmp_path: Path, contents_class: Any) -> None:
    async with site(tmp_path, contents_class) as here:
        loop = asyncio.get_running_loop()
        rename = here.contents_manager.rename
        await loop.run_in_executor(None, rename, "a.ipynb", "b.ipynb")
        await here.wait_for("b.ipynb")


async def test_a_session_follows_a_rename_on_another_event_loop(tmp_path: Path) -> None:
    async with site(tmp_path, AsyncFileContentsManager) as here:

        def rename() -> None:
            asyncio.run(here.contents_manager.rename("a.ipynb", "b.ipynb"))

        await asyncio.get_running_loop().run_in_executor(None, rename)
        await here.wait_for("b.ipynb")


async def test_a_rename_that_nobody_awaits_is_followed(tmp_path: Path) -> None:
    async with site(tmp_path, FutureRename) as here:
        here.contents_manager.rename("a.ipynb", "b.ipynb")
        await here.wait_for("b.ipynb")


@pytest.mark.parametrize("contents_class", [FileContentsManager, AsyncFileContentsManager])
async def test_the_paths_may_be_given_by_name(tmp_path: Path, contents_class: Any) -> None:
    async with site(tmp_path, contents_class) as here:
        await ensure_async(here.contents_manager.rename(new_path="b.ipynb", old_path="a.ipynb"))
        await here.wait_for("b.ipynb")


async def test_arguments_of_a_subclass_reach_it(tmp_path: Path) -> None:
    async with site(tmp_path, OwnRename) as here:
        result = here.contents_manager.rename("a.ipynb", "b.ipynb", note=" for a reason")
        assert result == "renamed for a reason"
        await here.wait_for("b.ipynb")


@pytest.mark.parametrize("contents_class", [FileContentsManager, AsyncFileContentsManager])
async def test_an_update_of_a_file_is_a_rename(tmp_path: Path, contents_class: Any) -> None:
    async with site(tmp_path, contents_class) as here:
        model = await ensure_async(here.contents_manager.update({"path": "/b.ipynb"}, "/a.ipynb"))
        assert model["path"] == "b.ipynb"
        await here.wait_for("b.ipynb")


# Wrapped methods


@pytest.mark.parametrize("contents_class", [*SYNC, *ASYNC])
async def test_a_method_stays_what_it_was(tmp_path: Path, contents_class: Any) -> None:
    async with site(tmp_path, contents_class) as here:
        ours, theirs = here.contents_manager.rename, contents_class(root_dir=str(tmp_path)).rename
        assert inspect.signature(ours) == inspect.signature(theirs)
        assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(theirs)
        assert (ours.__name__, ours.__doc__) == (theirs.__name__, theirs.__doc__)


async def test_other_managers_of_the_class_are_left_alone(tmp_path: Path) -> None:
    async with site(tmp_path, FileContentsManager) as here:
        other = FileContentsManager(root_dir=here.contents_manager.root_dir)
        other.rename("a.ipynb", "b.ipynb")
        assert other.rename.__func__ is FileContentsManager.rename
        assert await here.paths() == ["a.ipynb"]


async def test_who_follows_already_does_not_follow_twice(tmp_path: Path) -> None:
    async with site(tmp_path, FileContentsManager) as here:
        rename = here.contents_manager.rename
        follow_renames(here.contents_manager, here.session_manager)
        assert here.contents_manager.rename is rename


async def test_several_session_managers_follow_one_contents_manager(tmp_path: Path) -> None:
    async with site(tmp_path, AsyncFileContentsManager) as here:
        other = Site(
            here.contents_manager,
            AsyncSessionManager(
                kernel_manager=here.session_manager.kernel_manager,
                contents_manager=here.contents_manager,
            ),
        )
        follow_renames(here.contents_manager, other.session_manager)
        await other.session_manager.create_session(path="a.ipynb", type="notebook")
        await here.contents_manager.rename("a.ipynb", "b.ipynb")
        assert await here.paths() == await other.paths() == ["b.ipynb"]
        other.session_manager.close()


# Failures


@pytest.mark.parametrize("contents_class", [FileContentsManager, AsyncFileContentsManager])
async def test_a_rename_that_fails_raises_and_moves_nothing(
    tmp_path: Path, contents_class: Any
) -> None:
    async with site(tmp_path, contents_class) as here:
        here.add_file("b.ipynb")
        with pytest.raises(HTTPError) as refused:
            await here.rename("a.ipynb", "b.ipynb")
        assert refused.value.status_code == 409
        assert await here.paths() == ["a.ipynb"]


@pytest.mark.parametrize("contents_class", [FileContentsManager, AsyncFileContentsManager])
async def test_a_session_that_cannot_be_moved_is_warned_of(
    tmp_path: Path,
    contents_class: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with site(tmp_path, contents_class) as here:
        here.session_manager.log = logging.getLogger("renames under test")
        fail_to_move(here, monkeypatch)
        await here.rename("a.ipynb", "b.ipynb")
        assert here.has_file("b.ipynb")

        async def is_logged() -> bool:
            return bool(caplog.records)

        await eventually(is_logged, "there is a message")
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        for part in ("'a.ipynb'", "'b.ipynb'", "the store is down"):
            assert part in record.getMessage()


@pytest.mark.parametrize("contents_class", [FileContentsManager, AsyncFileContentsManager])
async def test_once_the_session_manager_is_closed_renames_go_on_as_before(
    tmp_path: Path, contents_class: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with site(tmp_path, contents_class) as here:
        here.session_manager.close()
        await here.rename("a.ipynb", "b.ipynb")
        assert here.has_file("b.ipynb")
        assert caplog.records == []


def test_a_rename_after_the_end_of_the_event_loop_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.ipynb").write_text("")
    contents_manager = FileContentsManager(root_dir=str(tmp_path))
    session_manager = AsyncSessionManager(
        kernel_manager=None,
        contents_manager=contents_manager,
        log=logging.getLogger("renames under test"),
    )

    async def follow() -> None:
        follow_renames(contents_manager, session_manager)

    asyncio.run(follow())
    contents_manager.rename("a.ipynb", "b.ipynb")
    assert (tmp_path / "b.ipynb").exists()
    (record,) = caplog.records
    assert "closed" in record.getMessage()
