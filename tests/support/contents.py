"""Custom contents managers, and an extension that renames files in-process through them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from typing import Any

from jupyter_core.utils import ensure_async

try:
    # Try classic Notebook first: jupyter_server may be installed alongside it.
    from notebook.base.handlers import APIHandler
    from notebook.services.contents.filemanager import FileContentsManager
    from notebook.utils import url_path_join

    AsyncFileContentsManager = FileContentsManager
except ImportError:
    from jupyter_server.base.handlers import APIHandler
    from jupyter_server.services.contents.filemanager import (
        AsyncFileContentsManager,
        FileContentsManager,
    )
    from jupyter_server.utils import url_path_join

EXTENSION = {"support.contents": True}


class OwnRename(FileContentsManager):
    """Overrides ``rename`` with an extra argument and a return value."""

    def rename(self, old_path: str, new_path: str, *, note: str = "") -> Any:
        """Rename a file and return a note."""
        super().rename(old_path, new_path)
        return f"renamed{note}"


class OwnRenameFile(FileContentsManager):
    """Overrides ``rename_file``, which does the actual renaming."""

    def rename_file(self, old_path: str, new_path: str) -> None:
        """Rename a file."""
        super().rename_file(old_path, new_path)


class OwnAsyncRename(AsyncFileContentsManager):
    """Overrides ``rename`` of an asynchronous manager."""

    async def rename(self, old_path: str, new_path: str) -> Any:
        """Rename a file and return something."""
        await super().rename(old_path, new_path)
        return "renamed"


class AwaitableRename(AsyncFileContentsManager):
    """Returns an awaitable from a plain method."""

    def rename(self, old_path: str, new_path: str) -> Awaitable[Any]:
        """Rename a file once it is awaited."""
        return super().rename(old_path, new_path)


class FutureRename(AsyncFileContentsManager):
    """Starts at once and returns a future that need not be awaited."""

    def rename(self, old_path: str, new_path: str) -> Awaitable[Any]:
        """Start renaming a file."""
        return asyncio.ensure_future(super().rename(old_path, new_path))


class RenameHandler(APIHandler):
    """Renames as another extension would: ``{"old": …, "new": …, "thread": …}``."""

    async def post(self) -> None:
        """Rename on the event loop, or in a thread if ``rename`` is synchronous."""
        body = json.loads(self.request.body)
        rename = self.settings["contents_manager"].rename
        if body["thread"]:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, rename, body["old"], body["new"])
        else:
            await ensure_async(rename(body["old"], body["new"]))
        self.finish("{}")


def _load_jupyter_server_extension(serverapp: Any) -> None:
    route = url_path_join(serverapp.base_url, "/rename-in-process")
    serverapp.web_app.add_handlers(".*$", [(route, RenameHandler)])


load_jupyter_server_extension = _load_jupyter_server_extension
