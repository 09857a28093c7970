"""Asks the gateway for the models of kernels, with few requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from time import monotonic
from typing import Any

from nbsessions.kernels.gateway.answers import PATIENCE, Answer, Answers
from nbsessions.kernels.gateway.listing import Listing, is_model, parsed_models
from nbsessions.kernels.gateway.requests import GatewayError, GatewayRequests
from nbsessions.models import KernelModel, KernelModels
from nbsessions.tasks import Tasks

_TIMEOUT = 4.0
"""Seconds that each attempt of a request may take. Its answer serves later callers.

A caller waits as long for a kernel that the server does not serve yet. A longer time would delay
the next attempt after the gateway has lost a request.
"""

_SEEN = 10_000
"""How many kernels are remembered to have been alive."""

_AT_ONCE = 8
"""How many requests for single kernels may be under way at once."""

_SOON = 0.3
"""Seconds that a caller waits for a newer answer about a kernel if the last one may be used."""

_FORBIDDEN_FOR = 60.0
"""Seconds after which to try again whether the gateway lists its kernels."""


class GatewayModels:
    """The models of kernels, kept for a short time. Used on one event loop.

    Concurrent callers share one request. A kernel is dead only if the gateway says so when it is
    asked for this kernel. With GatewayClient.accept_cookies, a cookie may lead each server to
    another gateway. Then a kernel that this server has not seen alive itself is unknown, never
    dead.

    Callers do not wait for a gateway that is slow. Its last answer is used while the next one is
    late. See Answers.
    """

    def __init__(self, requests: GatewayRequests, *, max_age: float, log: logging.Logger) -> None:
        """``max_age``: how many seconds an answer is new."""
        self._requests = requests
        self._max_age = max_age
        self._log = log
        self._tasks = Tasks()
        self._listing: asyncio.Task[Listing] | None = None
        self._listing_ended = 0.0
        self._forbidden_until = 0.0
        self._changed: dict[str, KernelModel | None] = {}
        """See Listing.changed. Belongs to the list that was requested last."""
        self._singles: dict[str, asyncio.Task[Answer]] = {}
        """The requests for single kernels that are under way."""
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._answers = Answers(max_age=max_age)
        """Those about single kernels, and those in lists of a slow gateway."""
        self._last_known: dict[str, KernelModel] = {}
        self._seen: dict[str, None] = {}
        """Kernels that were alive, if only these can be dead. The last ones are at the end."""
        self._in_trouble = False

    async def get(self, kernel_ids: Collection[str]) -> KernelModels:
        """Return which of the kernels are alive, dead or unknown. Never raises."""
        wanted = list(dict.fromkeys(kernel_ids))
        if not wanted:
            return KernelModels(alive={})
        deadline = monotonic() + PATIENCE
        listing = await self._list(deadline)
        if listing is None:
            return self._sorted(self._find_usable(wanted))
        if listing.failed:
            return self._sorted(dict.fromkeys(wanted))
        found = listing.find(wanted)
        missing = [each for each in wanted if each not in found]
        found.update(
            await self._ask_each(missing, listed=not listing.forbidden, deadline=deadline)
        )
        return self._sorted(found)

    async def find(self, kernel_id: str) -> KernelModels:
        """Like ``get``, but wait longer before the kernel is unknown."""
        deadline = monotonic() + _TIMEOUT
        models = await self.get([kernel_id])
        if kernel_id not in models.unknown:
            return models
        found = await self._ask_each([kernel_id], listed=False, deadline=deadline)
        return self._sorted(found)

    async def ask(self, kernel_id: str) -> KernelModel | None:
        """Return what the gateway tells about the kernel now, or None. Never raises."""
        return (await self._ask(kernel_id, listed=True)).model

    def find_last_known(self, kernel_id: str) -> KernelModel | None:
        """Return the last model of the kernel that is known here, or None. Does no I/O."""
        return self._last_known.get(kernel_id)

    def can_be_dead(self, kernel_id: str) -> bool:
        """Return whether the kernel has ended if the gateway says that it is missing."""
        return not self._requests.follows_cookies or kernel_id in self._seen

    def started(self, model: KernelModel) -> None:
        """Take note of a kernel that has just started."""
        self._saw(model)
        self._change(model["id"], model)

    def ended(self, kernel_id: str) -> None:
        """Take note that a kernel was shut down."""
        self._last_known.pop(kernel_id, None)
        self._change(kernel_id, None)

    def close(self) -> None:
        """Cancel the requests that are under way."""
        self._tasks.cancel()

    def _change(self, kernel_id: str, model: KernelModel | None) -> None:
        """Let no answer count that was requested before."""
        self._changed[kernel_id] = model
        self._singles.pop(kernel_id, None)
        self._answers.forget(kernel_id)

    # The list

    async def _list(self, deadline: float) -> Listing | None:
        """Return a list that is recent enough, or None if the gateway takes too long."""
        now = monotonic()
        if now < self._forbidden_until:
            return Listing(forbidden=True)
        task = self._listing
        if task is None or (task.done() and now >= self._listing_ended + self._max_age):
            task = self._listing = self._tasks.spawn(self._request_list())
        await _wait({task}, deadline)
        return task.result() if task.done() and not task.cancelled() else None

    async def _request_list(self) -> Listing:
        asked = monotonic()
        changed = self._changed = {}
        try:
            models, odd = parsed_models(await self._requests.list_kernels(timeout=_TIMEOUT))
        except GatewayError as error:
            if error.status == 403:
                self._forbidden_until = monotonic() + _FORBIDDEN_FOR
                return Listing(forbidden=True)
            self._note_trouble(error)
            return Listing(failed=True)
        finally:
            self._listing_ended = monotonic()
        self._note_answer()
        for each in self._last_known.keys() - models.keys() - odd - changed.keys():
            del self._last_known[each]
        self._answers.replace(models, without=changed, took=monotonic() - asked)
        return Listing(models=models, odd=odd, changed=changed)

    def _find_usable(self, kernel_ids: Iterable[str]) -> dict[str, KernelModel | None]:
        """Return what may be used of the kernels while the list is late."""
        found = {each: self._answers.find_usable(each) for each in kernel_ids}
        if None in found.values():
            self._note_trouble(GatewayError("no answer yet"))
        return found

    # Single kernels

    async def _ask_each(
        self, kernel_ids: Sequence[str], *, listed: bool, deadline: float
    ) -> dict[str, KernelModel | None]:
        """Return the models of the kernels that are not dead. None if they are unknown.

        ``listed``: whether the gateway has sent a list, in which these kernels are missing.
        """
        asked = monotonic()
        tasks = {
            each: self._single(each, listed)
            for each in kernel_ids
            if self._answers.find_new(each, asked) is None
        }
        urgent = [task for each, task in tasks.items() if self._answers.find_usable(each) is None]
        await _wait(tasks.values(), min(asked + _SOON, deadline))
        await _wait(urgent, deadline)
        found = {}
        for each in kernel_ids:
            answer = self._answers.find_new(each, asked)
            if answer is None:
                found[each] = self._answers.find_usable(each)
            elif not answer.is_dead:
                found[each] = answer.model
        return found

    def _single(self, kernel_id: str, listed: bool) -> asyncio.Task[Answer]:
        if kernel_id not in self._singles:
            self._singles[kernel_id] = task = self._tasks.spawn(self._ask(kernel_id, listed))
            task.add_done_callback(lambda task: self._single_ended(kernel_id, task))
        return self._singles[kernel_id]

    def _single_ended(self, kernel_id: str, task: asyncio.Task[Answer]) -> None:
        if self._singles.get(kernel_id) is not task:
            return  # the kernel was started or has ended in the meantime
        del self._singles[kernel_id]
        if not task.cancelled():
            self._answers.add(kernel_id, task.result())
            if task.result().is_dead:
                self._last_known.pop(kernel_id, None)

    async def _ask(self, kernel_id: str, listed: bool) -> Answer:
        asked = monotonic()
        model: Any = None
        is_dead = False
        async with self._slots:
            try:
                model = await self._requests.kernels("GET", kernel_id, timeout=_TIMEOUT)
            except GatewayError as error:
                # A 404 that does not name the kernel counts only together with a list.
                if error.is_missing(None if listed else kernel_id):
                    is_dead = self.can_be_dead(kernel_id)
                else:
                    self._note_trouble(error)
            else:
                self._note_answer()
        if not is_model(model) or model["id"] != kernel_id:
            model = None
        came = monotonic()
        return Answer(came=came, took=came - asked, model=model, is_dead=is_dead)

    # The log has the beginning and the end of a trouble, and not each request.

    def _note_trouble(self, error: GatewayError) -> None:
        if not self._in_trouble:
            self._in_trouble = True
            self._log.warning("The state of kernels is unknown. The gateway: %s", error)

    def _note_answer(self) -> None:
        if self._in_trouble:
            self._in_trouble = False
            self._log.info("The gateway tells the state of kernels again")

    def _sorted(self, found: Mapping[str, KernelModel | None]) -> KernelModels:
        alive, unknown = {}, {}
        for kernel_id, model in found.items():
            if model is None:
                unknown[kernel_id] = self._last_known.get(kernel_id)
            else:
                alive[kernel_id] = model
                self._saw(model)
        return KernelModels(alive=alive, unknown=unknown)

    def _saw(self, model: KernelModel) -> None:
        kernel_id = model["id"]
        self._last_known[kernel_id] = model
        if self._requests.follows_cookies:
            self._seen.pop(kernel_id, None)
            self._seen[kernel_id] = None
            while len(self._seen) > _SEEN:
                del self._seen[next(iter(self._seen))]


async def _wait(tasks: Collection[asyncio.Task[Any]], deadline: float) -> None:
    """Wait until the tasks are done, but not longer than until the deadline."""
    if tasks:
        await asyncio.wait(tasks, timeout=max(0.0, deadline - monotonic()))
