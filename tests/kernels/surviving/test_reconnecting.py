"""Reconnecting the sockets of clients to a kernel that does not hear them."""

from __future__ import annotations

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


@pytest.fixture
def reconnections(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The reconnections of clients, which do not happen here."""
    monkeypatch.setattr(reconnecting, "_ANSWER_TIMEOUT", 0.01)
    found: list[object] = []
    monkeypatch.setattr(reconnecting._Client, "_reconnect", lambda each: found.append(each))
    return found


@pytest.mark.gen_test
async def test_a_process_of_a_dead_server_may_know_an_old_connection(
    tmp_path: Path, reconnections: list[object]
) -> None:
    async with deaf_client(tmp_path) as client:
        client.kernel.provisioner.is_process_adopted = True
        await client.reconnect()
        assert len(reconnections) == len(client.requests) == 3


@pytest.mark.gen_test
async def test_a_process_of_this_server_knows_no_old_connections(
    tmp_path: Path, reconnections: list[object]
) -> None:
    async with deaf_client(tmp_path) as client:
        await client.reconnect()
        assert reconnections == []
        # An answer tells that earlier replies have arrived.
        assert len(client.requests) == 3


@pytest.mark.gen_test
async def test_a_kernel_that_is_restarted_meanwhile_keeps_its_connections(
    tmp_path: Path, reconnections: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    gets_answer = reconnecting._Client._gets_answer

    async with deaf_client(tmp_path) as client:
        client.kernel.provisioner.is_process_adopted = True

        async def restart_and_ask(asking: reconnecting._Client) -> bool:
            if client.kernel.provisioner.is_process_adopted:
                await client.kernel.restart_kernel(now=True)
                client.kernel.execution_state = "idle"
            return await gets_answer(asking)

        monkeypatch.setattr(reconnecting._Client, "_gets_answer", restart_and_ask)
        await client.reconnect()
        assert reconnections == []
