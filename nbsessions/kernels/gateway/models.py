"""Asks the gateway for the models of kernels, with few requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from nbsessions.kernels.gateway.requests import GatewayError
from nbsessions.models import KernelModel, KernelModels
from nbsessions.tasks import Tasks

_PATIENCE = 1.5
"""Seconds that a caller waits. Kernels that the gateway has not told about then are unknown."""

_TIMEOUT = 4.0
"""Seconds that a request may take. Its answer serves later callers.

A caller waits as long for a kernel that nothing is known of. A longer time would delay the next
request after the gateway has lost one.
"""

_REMEMBERED_FOR = 30.0
"""Seconds for which the answer of a slow gateway is used while the next one is late."""

_SEEN = 10_000
"""How many kernels are remembered to have been alive."""

_AT_ONCE = 8
"""How many requests for single kernels may be under way at once."""

_PER_SECOND = 20
"""For how many kernels to ask per second on average, if the gateway does not list them."""

_SOON = 0.3
"""Seconds that a caller waits for a newer answer about a kernel if the last one may be used."""

_MAY_BE_LATE = 5.0
"""Seconds for which the last answer may be used while the gateway is being asked again."""

_FORBIDDEN_FOR = 60.0
"""Seconds after which to try again whether the gateway lists its kernels."""

_MODEL = {"id": str, "name": str, "last_activity": str, "execution_state": str, "connections": int}


class Requests(Protocol):
    """See GatewayRequests."""

    @property
    def follows_cookies(self) -> bool:
        """See GatewayRequests.follows_cookies."""

    async def kernels(
        self, method: str, *path: str, body: Any = None, timeout: float | None = None
    ) -> Any:
        """See GatewayRequests.kernels."""


@dataclass(frozen=True)
class _Listing:
    """The gateway's list of kernels, or why there is none."""

    began: float
    models: Mapping[str, KernelModel] = field(default_factory=dict)
    odd: frozenset[str] = frozenset()
    """Kernels whose models make no sense."""
    failed: bool = False
    forbidden: bool = False


_UNKNOWN, _LATE, _DEAD = object(), object(), object()


class GatewayModels:
    """The models of kernels, kept for a short time. Used on one event loop.

    Concurrent callers share one request. A kernel is dead only if the gateway says so when it is
    asked for this kernel. With GatewayClient.accept_cookies, a cookie may lead each server to
    another gateway. Then a kernel that this server has not seen alive itself is unknown, never
    dead.

    Callers do not wait for a gateway that is slow. If its last answer took longer than they wait,
    it counts for some time while the next one is late.
    """

    def __init__(self, requests: Requests, *, max_age: float, log: logging.Logger) -> None:
        """``max_age``: how many seconds an answer is used."""
        self._requests = requests
        self._max_age = max_age
        self._log = log
        self._tasks = Tasks()
        self._listing: asyncio.Task[_Listing] | None = None
        self._listing_ended = 0.0
        self._forbidden_until = 0.0
        self._singles: dict[str, asyncio.Task[Any]] = {}
        self._singles_ended: dict[str, float] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._changed: dict[str, tuple[float, KernelModel | None]] = {}
        """What this server knows better than a list that was requested before that time."""
        self._last_known: dict[str, KernelModel] = {}
        self._answers: dict[str, tuple[float, KernelModel]] = {}
        """When and what the gateway last told about each kernel that it does not list."""
        self._slow: dict[str, tuple[float, KernelModel]] = {}
        """What a slow gateway has told, with the time of the request. It has no dead kernels."""
        self._seen: dict[str, None] = {}
        """Kernels that were alive, if only these can be dead. The last ones are at the end."""
        self._in_trouble = False

    async def get(self, kernel_ids: Collection[str]) -> KernelModels:
        """Return which of the kernels are alive, dead or unknown. Never raises."""
        wanted = dict.fromkeys(kernel_ids)
        if not wanted:
            return KernelModels(alive={})
        deadline = _now() + _PATIENCE
        listing = await self._list(deadline)
        if listing is None or listing.failed:
            answer = _LATE if listing is None else _UNKNOWN
            return self._sorted(dict.fromkeys(wanted, answer))
        found = {each: self._in(listing, each) for each in wanted}
        missing = [each for each, answer in found.items() if answer is None]
        found.update(
            await self._ask_each(missing, listed=not listing.forbidden, deadline=deadline)
        )
        return self._sorted(found)

    async def find(self, kernel_id: str) -> KernelModels:
        """Like ``get``, for a kernel that may never have been seen here. Takes longer then."""
        deadline = _now() + _TIMEOUT
        models = await self.get([kernel_id])
        if kernel_id not in models.unknown or models.unknown[kernel_id] is not None:
            return models
        found = await self._ask_each([kernel_id], listed=False, deadline=deadline)
        return self._sorted(found)

    async def ask(self, kernel_id: str) -> KernelModel | None:
        """Return what the gateway tells about the kernel now, or None. Never raises."""
        answer = await self._ask(kernel_id, listed=True)
        return None if answer in (_DEAD, _UNKNOWN) else answer

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
        self._forget(kernel_id)
        self._change(kernel_id, None)

    def close(self) -> None:
        """Cancel the requests that are under way."""
        self._tasks.cancel()

    def _change(self, kernel_id: str, model: KernelModel | None) -> None:
        self._forget_single(kernel_id)
        if _now() >= self._forbidden_until:
            self._changed[kernel_id] = (_now(), model)

    # The list

    async def _list(self, deadline: float) -> _Listing | None:
        """Return a list that is recent enough, or None if the gateway takes too long."""
        now = _now()
        if now < self._forbidden_until:
            return _Listing(now, forbidden=True)
        task = self._listing
        if task is None or (task.done() and now >= self._listing_ended + self._max_age):
            task = self._listing = self._tasks.spawn(self._request_list())
        if not task.done():
            await asyncio.wait({task}, timeout=max(0.0, deadline - now))
        if not task.done():
            self._note_trouble(GatewayError("no answer yet"))
        return task.result() if task.done() and not task.cancelled() else None

    async def _request_list(self) -> _Listing:
        began = _now()
        try:
            models, odd = _parsed(await self._ask_for_list())
            listing = _Listing(began, models, odd)
            self._changed = {
                each: change for each, change in self._changed.items() if change[0] > began
            }
            for each in self._last_known.keys() - models.keys() - odd - self._changed.keys():
                del self._last_known[each]
            self._slow = {}
            for each in models.keys() - self._changed.keys():
                self._note_pace(began, models[each])
            self._note_answer()
        except GatewayError as error:
            if error.status == 403:
                self._forbidden_until = _now() + _FORBIDDEN_FOR
                self._changed.clear()
                listing = _Listing(began, forbidden=True)
            else:
                self._note_trouble(error)
                listing = _Listing(began, failed=True)
        finally:
            self._listing_ended = _now()
        return listing

    async def _ask_for_list(self) -> Any:
        try:
            return await self._requests.kernels("GET", timeout=_TIMEOUT)
        except GatewayError as error:
            if error.status != 500:
                raise
        # A gateway cannot list its kernels in the moment in which it adds one.
        return await self._requests.kernels("GET", timeout=_TIMEOUT)

    def _in(self, listing: _Listing, kernel_id: str) -> Any:
        """Return what the list says about the kernel. None if the gateway has to be asked."""
        changed = self._changed.get(kernel_id)
        if changed is not None and changed[0] > listing.began:
            return None if listing.forbidden else changed[1]
        return _UNKNOWN if kernel_id in listing.odd else listing.models.get(kernel_id)

    # Single kernels

    async def _ask_each(
        self, kernel_ids: Iterable[str], *, listed: bool, deadline: float
    ) -> dict[str, Any]:
        """Return the model of each kernel, or whether it is dead or unknown.

        ``listed``: whether the gateway has sent a list, in which these kernels are missing.
        """
        max_age = self._max_age if listed else self._single_max_age
        tasks = {each: self._single(each, listed, max_age) for each in kernel_ids}
        usable = {} if listed else self._usable_answers(max_age)
        urgent = [task for each, task in tasks.items() if each not in usable]
        if len(urgent) < len(tasks):
            await asyncio.wait(tasks.values(), timeout=_SOON)
        if urgent:
            await asyncio.wait(urgent, timeout=max(0.0, deadline - _now()))
        return {
            each: task.result()
            if task.done() and not task.cancelled()
            else usable.get(each, _LATE)
            for each, task in tasks.items()
        }

    @property
    def _single_max_age(self) -> float:
        """For how many seconds answers are used, so that the gateway is not asked too often."""
        return max(self._max_age, len(self._answers) // _PER_SECOND)

    def _usable_answers(self, max_age: float) -> dict[str, KernelModel]:
        """Return what may be used while the gateway is being asked again. Forget the rest."""
        since = _now() - max_age - _MAY_BE_LATE
        self._answers = {
            each: answer for each, answer in self._answers.items() if answer[0] > since
        }
        return {each: model for each, (_, model) in self._answers.items()}

    def _single(self, kernel_id: str, listed: bool, max_age: float) -> asyncio.Task[Any]:
        now = _now()
        while self._singles_ended:
            oldest = next(iter(self._singles_ended))  # they are in the order in which they ended
            if now < self._singles_ended[oldest] + max_age:
                break
            self._forget_single(oldest)
        if kernel_id not in self._singles:
            self._singles[kernel_id] = task = self._tasks.spawn(self._ask(kernel_id, listed))
            task.add_done_callback(lambda task: self._single_ended(kernel_id, now, task))
        return self._singles[kernel_id]

    def _single_ended(self, kernel_id: str, began: float, task: asyncio.Task[Any]) -> None:
        if self._singles.get(kernel_id) is not task:
            return  # the kernel was started or has ended in the meantime
        self._singles_ended[kernel_id] = _now()
        if not task.cancelled() and is_model(task.result()):
            self._note_pace(began, task.result())

    def _forget_single(self, kernel_id: str) -> None:
        self._singles.pop(kernel_id, None)
        self._singles_ended.pop(kernel_id, None)

    async def _ask(self, kernel_id: str, listed: bool) -> Any:
        async with self._slots:
            try:
                model = await self._requests.kernels("GET", kernel_id, timeout=_TIMEOUT)
            except GatewayError as error:
                self._answers.pop(kernel_id, None)
                # A 404 that does not name the kernel counts only together with a list.
                if error.is_missing(None if listed else kernel_id):
                    return _DEAD if self.can_be_dead(kernel_id) else _UNKNOWN
                self._note_trouble(error)
                return _UNKNOWN
        self._note_answer()
        if not is_model(model) or model["id"] != kernel_id:
            return _UNKNOWN
        if not listed:
            self._answers[kernel_id] = (_now(), model)
        return model

    # Slow gateways

    def _note_pace(self, began: float, model: KernelModel) -> None:
        """Remember a model for later callers if callers could not wait for it."""
        kernel_id = model["id"]
        if kernel_id in self._slow or _now() > began + _PATIENCE:
            self._slow[kernel_id] = (began, model)

    def _find_slow(self, kernel_id: str) -> Any:
        began, model = self._slow.get(kernel_id, (0.0, None))
        return _UNKNOWN if model is None or _now() > began + _REMEMBERED_FOR else model

    # The log has the beginning and the end of a trouble, and not each request.

    def _note_trouble(self, error: GatewayError) -> None:
        if not self._in_trouble:
            self._in_trouble = True
            self._log.warning("The state of kernels is unknown. The gateway: %s", error)

    def _note_answer(self) -> None:
        if self._in_trouble:
            self._in_trouble = False
            self._log.info("The gateway tells the state of kernels again")

    def _sorted(self, found: Mapping[str, Any]) -> KernelModels:
        alive, unknown = {}, {}
        for kernel_id, told in found.items():
            answer = self._find_slow(kernel_id) if told is _LATE else told
            if answer is _UNKNOWN:
                unknown[kernel_id] = self._last_known.get(kernel_id)
            elif answer is _DEAD:
                self._forget(kernel_id)
            else:
                alive[kernel_id] = answer
                self._saw(answer)
        return KernelModels(alive=alive, unknown=unknown)

    def _saw(self, model: KernelModel) -> None:
        kernel_id = model["id"]
        self._last_known[kernel_id] = model
        if self._requests.follows_cookies:
            self._seen.pop(kernel_id, None)
            self._seen[kernel_id] = None
            while len(self._seen) > _SEEN:
                del self._seen[next(iter(self._seen))]

    def _forget(self, kernel_id: str) -> None:
        self._last_known.pop(kernel_id, None)
        self._answers.pop(kernel_id, None)
        self._slow.pop(kernel_id, None)


def _parsed(answer: Any) -> tuple[dict[str, KernelModel], frozenset[str]]:
    """Return the models by kernel id, and the ids of those that make no sense."""
    if not isinstance(answer, list) or not all(
        isinstance(each, dict) and isinstance(each.get("id"), str) for each in answer
    ):
        raise GatewayError("the answer is not a list of kernels")
    odd = frozenset(each["id"] for each in answer if not is_model(each))
    return {each["id"]: each for each in answer if each["id"] not in odd}, odd


def is_model(model: Any) -> bool:
    """Return whether a value from an answer is a kernel's model, with all that is used of it."""
    return isinstance(model, dict) and all(
        isinstance(model.get(key), kind) for key, kind in _MODEL.items()
    )


def _now() -> float:
    return asyncio.get_running_loop().time()
