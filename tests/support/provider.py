"""A fake kernel provider without processes. It keeps a ledger and fails on demand."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from nbsessions.errors import KernelConflict, KernelspecNotFound, KernelStartFailed, SessionError
from nbsessions.kernels.base import KernelProvider, LeftKernels, StartRequest, current_start
from nbsessions.kernels.launches import Launches
from nbsessions.kernels.noted import ModelChanges
from nbsessions.models import EndReason, Kernel, KernelModel, KernelModels, KernelTrace
from support.interruptions import Interruption

KERNELSPECS = ("light", "other")
BROKEN = "broken"
"""A kernelspec whose kernels fail to start."""


class Gate:
    """A point where a task waits, so that a test can act at exactly that moment."""

    def __init__(self) -> None:
        self._reached = asyncio.Event()
        self._opened = asyncio.Event()

    async def enter(self) -> None:
        """Wait until the gate is open."""
        self._reached.set()
        await self._opened.wait()

    async def reached(self) -> None:
        """Wait until a task is waiting at the gate."""
        await self._reached.wait()

    def open(self) -> None:
        """Let all tasks through from now on."""
        self._opened.set()


class FakeKernelProvider(KernelProvider):
    """Its kernels are entries in a ledger of kernels that started, stopped or died.

    ``start_gate``, ``shutdown_gate`` and ``model_gate`` hold up the calls that begin while they
    are set, and ``launch_gate`` starts whose kernel has been launched. The next calls raise the
    errors in ``start_errors``, ``launch_errors`` (after the launch) and ``shutdown_errors``, one
    per call.
    """

    def __init__(
        self, name: str = "local:test", *, tells: bool = False, announces: bool = True
    ) -> None:
        """``tells`` is whether it can tell which kernels have changed, see ``watch_models``.

        ``announces`` is whether it tells of launches, see ``StartRequest.launched``.
        """
        self.name = name
        self.tells = tells
        self.asked: list[str] = []
        """The kernels whose models were asked for."""
        self.model_gate: Gate | None = None
        self.events: list[tuple[str, str]] = []
        """Pairs of event ("start", "stop" or "die") and kernel id, in the order they happened."""
        self.requests: list[StartRequest] = []
        self.environments: dict[str, tuple[str | None, str | None]] = {}
        self.unknown: set[str] = set()
        """Kernels whose state cannot be determined at the moment."""
        self.announces = announces
        self.start_gate: Gate | None = None
        self.shutdown_gate: Gate | None = None
        self.launch_gate: Gate | None = None
        self.start_errors: list[SessionError] = []
        self.launch_errors: list[SessionError] = []
        self.shutdown_errors: list[Exception] = []
        self.before_stop: Callable[[str], Awaitable[None]] | None = None
        """Called with each kernel that is about to be stopped."""
        self.interruption = Interruption()
        self.connected: set[str] = set()
        """Kernels that clients were connected to."""
        self.elsewhere: set[str] = set()
        """Kernels that this server does not see: they belong to other servers or wait for them."""
        self.rebooted = False
        """Whether kernels of dead servers ended because the machine was rebooted."""
        self.adopted: set[str] = set()
        """Kernels that were taken over from dead servers."""
        self.left: dict[str, dict[str, str | None]] = {}
        """The tokens of the kernels that dead servers have left, by server and kernel id."""
        self.is_alone = False
        """Whether it knows that there are no servers beside it."""
        self.looks = 0
        """How often such kernels were looked for."""
        self.look_gate: Gate | None = None
        self._launches = Launches()
        self._states: dict[str, str] = {}
        self._changes = ModelChanges()
        self._names: dict[str, str] = {}
        self._tokens: dict[str, str] = {}
        self._watchers: list[Callable[[str], None]] = []

    # The ledger

    @property
    def running(self) -> set[str]:
        """The running kernels: those started, minus those stopped or died."""
        return set(self._names)

    def count(self, event: str) -> int:
        """Return the number of such events: "start", "stop" or "die"."""
        return sum(each == event for each, _ in self.events)

    @property
    def starts(self) -> int:
        """How many kernels were started."""
        return self.count("start")

    @property
    def stops(self) -> int:
        """How many kernels were stopped."""
        return self.count("stop")

    def has_died(self, kernel_id: str) -> bool:
        """Return whether a kernel with this id has ended by itself."""
        return ("die", kernel_id) in self.events

    def die(self, *kernel_ids: str) -> None:
        """Let kernels end by themselves."""
        for kernel_id in kernel_ids:
            self._ended("die", kernel_id)

    def say(self, kernel_id: str, state: str) -> None:
        """Let a kernel say what it is doing."""
        self._states[kernel_id] = state
        self._changes.add(kernel_id)

    def lose_sight(self, *kernel_ids: str) -> None:
        """Let the state of these kernels be unknown, and that of all others known again."""
        for kernel_id in {*self.unknown, *kernel_ids}:
            self._changes.add(kernel_id)
        self.unknown = set(kernel_ids)

    # The port

    @property
    def default_kernel_name(self) -> str:
        return KERNELSPECS[0]

    async def start(self, request: StartRequest) -> Kernel:
        self.requests.append(request)
        await self.interruption.moment()
        if self.start_gate is not None:
            await self.start_gate.enter()
        if self.start_errors:
            raise self.start_errors.pop(0)
        name = request.kernel_name or KERNELSPECS[0]
        if name == BROKEN:
            raise KernelStartFailed(name, OSError("it is broken"))
        if name not in KERNELSPECS:
            raise KernelspecNotFound(name)
        kernel_id = request.kernel_id or str(uuid.uuid4())
        if kernel_id in self._names:
            raise KernelConflict(kernel_id, "already exists")
        self._names[kernel_id] = name
        self._changes.add(kernel_id)
        self._tokens[request.token] = kernel_id
        self.events.append(("start", kernel_id))
        await self._complete_start(request, kernel_id)
        return Kernel(kernel_id=kernel_id, kernel_name=name, provider=self.name)

    async def _complete_start(self, request: StartRequest, kernel_id: str) -> None:
        with self._launches.start(request):
            if self.announces:
                started = current_start.get()
                assert started is not None
                started.launched(kernel_id, self._names[kernel_id])
            await self.interruption.moment()
            if self.launch_gate is not None:
                await self.launch_gate.enter()
            if self.launch_errors:
                del self._names[kernel_id]
                self.events.append(("stop", kernel_id))
                raise self.launch_errors.pop(0)

    async def models(self, kernel_ids: Sequence[str]) -> KernelModels:
        await self.interruption.moment()
        self.asked += kernel_ids
        asked = set(kernel_ids)
        unknown = asked & self.unknown | {each for each in asked if each in self._launches}
        models = KernelModels(
            alive={each: self.model(each) for each in asked & self.running - unknown},
            unknown=dict.fromkeys(unknown),
        )
        if self.model_gate is not None:
            await self.model_gate.enter()
        return models

    def watch_models(self, changes: ModelChanges) -> None:
        if self.tells:
            self._changes.complete = False
            self._changes = changes
            changes.complete = True

    def model(self, kernel_id: str) -> KernelModel:
        """Return the model of a running kernel."""
        return {
            "id": kernel_id,
            "name": self._names[kernel_id],
            "last_activity": "2024-01-01T00:00:00.000000Z",
            "execution_state": self._states.get(kernel_id, "idle"),
            "connections": 0,
        }

    def can_address(self, kernel_id: str) -> bool:
        return len(kernel_id) <= 64 and bool(re.fullmatch(r"\w+-\w+-\w+-\w+-\w+", kernel_id))

    async def shutdown(self, kernel_id: str) -> None:
        await self.wait_for_start(kernel_id)
        await self.interruption.moment()
        if self.shutdown_gate is not None:
            await self.shutdown_gate.enter()
        if self.shutdown_errors:
            raise self.shutdown_errors.pop(0)
        if self.before_stop is not None:
            await self.before_stop(kernel_id)
        if kernel_id in self._names:
            self._ended("stop", kernel_id)
        await self.interruption.moment()

    async def wait_for_start(self, kernel_id: str) -> None:
        await self._launches.wait(kernel_id)

    def update_env(self, kernel_id: str, *, path: str | None, name: str | None) -> None:
        self.environments[kernel_id] = (path, name)

    def find_started(self, token: str) -> str | None:
        kernel_id = self._tokens.get(token)
        return kernel_id if kernel_id in self._names else None

    async def find_ended(self, traces: Collection[KernelTrace]) -> Mapping[KernelTrace, EndReason]:
        await self.interruption.moment()
        reason = EndReason.REBOOTED if self.rebooted else EndReason.DIED
        return {each: reason for each in traces if self._has_ended(each)}

    def _has_ended(self, trace: KernelTrace) -> bool:
        if trace.provider != self.name or trace.kernel_id in self.elsewhere:
            return False
        return self.find_started(str(trace.token)) is None and trace.kernel_id not in self._names

    def leave_all_to(self, other: FakeKernelProvider, server_id: str) -> None:
        """Let the server of this provider be dead, and have left all its kernels to another."""
        tokens = {kernel_id: token for token, kernel_id in self._tokens.items()}
        other.left[server_id] = {each: tokens.get(each) for each in self.running}

    def may_find_left(self) -> bool:
        return not self.is_alone

    async def find_left(self) -> Collection[LeftKernels]:
        self.looks += 1
        if self.look_gate is not None:
            await self.look_gate.enter()
        return [
            LeftKernels(
                server_id=server_id,
                kernels=[
                    KernelTrace(provider=self.name, kernel_id=kernel_id, token=token)
                    for kernel_id, token in tokens.items()
                ],
            )
            for server_id, tokens in self.left.items()
        ]

    async def adopt(self, server_id: str) -> Collection[str]:
        await self.interruption.moment()
        tokens = self.left.pop(server_id, {})
        for kernel_id, token in tokens.items():
            self._names[kernel_id] = KERNELSPECS[0]
            self._changes.add(kernel_id)
            self._tokens[str(token)] = kernel_id
            self.adopted.add(kernel_id)
        return list(tokens)

    async def leave(self, server_id: str) -> None:
        del self.left[server_id]

    def list_adopted(self) -> Collection[str]:
        return self.adopted & self.running

    def was_connected(self, kernel_id: str) -> bool:
        return kernel_id in self.connected

    def watch(self, ended: Callable[[str], None]) -> None:
        self._watchers.append(ended)

    def _ended(self, event: str, kernel_id: str) -> None:
        del self._names[kernel_id]
        self._changes.add(kernel_id)
        self.events.append((event, kernel_id))
        for ended in self._watchers:
            ended(kernel_id)

    def list_running(self) -> Collection[str]:
        return list(self._names)
