"""The kernels whose processes run already while their starts go on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from msgspec.structs import replace

from nbsessions.kernels.base import StartRequest, current_start


class Launches:
    """Notes which kernels have been launched, but are not yet known to the kernel manager."""

    def __init__(self) -> None:
        self._under_way: dict[str, asyncio.Event] = {}

    def __contains__(self, kernel_id: object) -> bool:
        return kernel_id in self._under_way

    async def wait(self, kernel_id: str) -> None:
        """Wait for the end of the kernel's start if it is under way."""
        ended = self._under_way.get(kernel_id)
        if ended is not None:
            await ended.wait()

    @contextmanager
    def start(self, request: StartRequest) -> Iterator[Sequence[str]]:
        """In the body, a kernel manager can read the request, and tell of the launch.

        Yields a sequence that then has the kernel's id.
        """
        ended = asyncio.Event()
        launched: list[str] = []

        def note(kernel_id: str, kernel_name: str) -> None:
            # The restarts of this kernel run in the same context as its start.
            if not launched and not ended.is_set():
                launched.append(kernel_id)
                self._under_way[kernel_id] = ended
                request.launched(kernel_id, kernel_name)

        reset = current_start.set(replace(request, launched=note))
        try:
            yield launched
        finally:
            current_start.reset(reset)
            ended.set()
            for kernel_id in launched:
                del self._under_way[kernel_id]
