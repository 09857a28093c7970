"""Reconnecting the sockets of clients to a kernel that does not hear them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nbsessions.kernels.surviving import reconnecting
from nbsessions.kernels.surviving.asking import KernelInfoRequests
from nbsessions.kernels.surviving.reconnecting import ClientReconnector
from support.surviving_managers import surviving_kernel_manager


class Deaf:
    """A client of a kernel that never answers."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.kernel.execution_state = "idle"
        self._channels = {"shell": kernel.connect_shell(), "stdin": kernel.connect_stdin()}
        self.requests = KernelInfoRequests(kernel, log=logging.getLogger("nbsessions.tests"))

    async def reconnect(self) -> None:
        await ClientReconnector(self.kernel, self.requests).reconnect([self._channels])


@asynccontextmanager
async def deaf_client(folder: Path) -> AsyncIterator[Deaf]:
    async with surviving_kernel_manager(folder) as kernel_manager:
        kernel = kernel_manager.get_kernel(await kernel_manager.start_kernel(path=""))
        yield Deaf(kernel)


@pytest.mark.gen_test
async def test_a_process_of_this_server_knows_no_old_connections(tmp_path: Path) -> None:
    async with deaf_client(tmp_path) as client:
        await asyncio.wait_for(client.reconnect(), 30)
        assert len(client.requests) == 0


@pytest.mark.gen_test
async def test_a_restarted_kernel_keeps_the_connections_that_it_gets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconnecting, "_ANSWER_TIMEOUT", 0.01)
    monkeypatch.setattr(reconnecting, "_MOST_RECONNECTIONS", 10**9)
    reconnected = asyncio.Semaphore(0)
    monkeypatch.setattr(reconnecting._Client, "_reconnect", lambda _: reconnected.release())
    async with deaf_client(tmp_path) as client:
        client.kernel.provisioner.is_process_adopted = True
        reconnecting_it = asyncio.ensure_future(client.reconnect())
        await reconnected.acquire()

        await client.kernel.restart_kernel(now=True)

        await asyncio.wait_for(reconnecting_it, 30)
