"""jupyter_server's own kernel and contents managers, with light kernels and without a server."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_server.services.contents.filemanager import AsyncFileContentsManager
from jupyter_server.services.kernels.kernelmanager import (
    AsyncMappingKernelManager,
    MappingKernelManager,
)

from nbsessions.kernels.base import KernelHost
from nbsessions.kernels.host import HostKernelProvider

_SUPPORT = Path(__file__).parent


def make_kernel_manager(
    folder: Path,
    kernel_manager_class: type[MappingKernelManager] = AsyncMappingKernelManager,
    **traits: Any,
) -> Any:
    """Return a kernel manager with the kernelspecs ``light`` (default), ``other``, ``broken``."""
    specs = {
        "light": [sys.executable, str(_SUPPORT / "light_kernel.py"), "{connection_file}"],
        "broken": ["/nowhere/to-be-found", "{connection_file}"],
    }
    specs["other"] = specs["light"]
    for name, argv in specs.items():
        spec_folder = folder / "kernels" / name
        spec_folder.mkdir(parents=True, exist_ok=True)
        spec = {"argv": argv, "display_name": name, "language": "python"}
        (spec_folder / "kernel.json").write_text(json.dumps(spec))
    for each in ("root", "runtime"):
        (folder / each).mkdir(exist_ok=True)
    kernel_manager = kernel_manager_class(
        default_kernel_name="light",
        kernel_spec_manager=KernelSpecManager(
            kernel_dirs=[str(folder / "kernels")], ensure_native_kernel=False
        ),
        connection_dir=str(folder / "runtime"),
        root_dir=str(folder / "root"),
        **traits,
    )
    # All tests share one context, because destroying one takes a second.
    is_async = issubclass(kernel_manager_class, AsyncMappingKernelManager)
    kernel_manager.context = (zmq.asyncio if is_async else zmq).Context.instance()
    return kernel_manager


@asynccontextmanager
async def running_kernel_manager(
    folder: Path,
    kernel_manager_class: type[MappingKernelManager] = AsyncMappingKernelManager,
    **traits: Any,
) -> AsyncIterator[Any]:
    """Yield a kernel manager whose kernels are shut down at the end."""
    kernel_manager = make_kernel_manager(folder, kernel_manager_class, **traits)
    try:
        yield kernel_manager
    finally:
        # The public method of a synchronous manager would run a nested event loop.
        await kernel_manager._async_shutdown_all(now=True)


def make_contents_manager(folder: Path) -> Any:
    """Return a contents manager with the same root directory as the kernel manager."""
    return AsyncFileContentsManager(root_dir=str(folder / "root"))


def make_provider(kernel_manager: Any, folder: Path, **changes: Any) -> HostKernelProvider:
    """Return a provider over the kernel manager; ``changes`` go to its KernelHost."""
    host: dict[str, Any] = {
        "kernel_manager": kernel_manager,
        "contents_manager": make_contents_manager(folder),
        "kernel_env": lambda path, name: {"JPY_SESSION_NAME": str(path)},
        "boot_id": "this boot",
        "log": logging.getLogger("provider under test"),
    }
    return HostKernelProvider(KernelHost(**{**host, **changes}))
