"""A kernel provider that uses the server's own kernel manager, of any configured class."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from importlib.metadata import version
from inspect import isawaitable
from typing import Any

from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.multikernelmanager import DuplicateKernelError
from jupyter_core.utils import ensure_async
from tornado.web import HTTPError

from nbsessions.errors import (
    InvalidRequest,
    KernelConflict,
    KernelspecNotFound,
    KernelStartFailed,
    SessionError,
)
from nbsessions.kernels import internals
from nbsessions.kernels.addresses import is_addressable
from nbsessions.kernels.base import (
    KernelHost,
    KernelProvider,
    LeftKernels,
    StartRequest,
)
from nbsessions.kernels.launches import Launches
from nbsessions.kernels.noted import ModelChanges
from nbsessions.models import (
    EndReason,
    Kernel,
    KernelModel,
    KernelModels,
    KernelTrace,
    Missed,
)
from nbsessions.registry.place import IMPORTED, RecordedKernel, this_place
from nbsessions.registry.process import list_kernels
from nbsessions.registry.records import KernelRecord

_ADOPTION_INTERVAL = timedelta(seconds=1)

_MODEL_TIMEOUT = 2.0
"""Seconds to wait for the models of kernels if the kernel manager is asynchronous."""


class HostKernelProvider(KernelProvider):
    """Starts kernels with the server's kernel manager, which determines how long they run."""

    def __init__(self, host: KernelHost) -> None:
        self._folder = os.path.realpath(getattr(host.kernel_manager, "connection_dir", ""))
        self._place = this_place(self._folder, host.boot_id)
        self.name = self._place.name
        self._kernel_manager = host.kernel_manager
        self._contents_manager = host.contents_manager
        self._kernel_env = host.kernel_env
        self._log = host.log
        self._last_known: dict[str, KernelModel] = {}
        self._launches = Launches()
        self._connected: set[str] = set()
        self._known_specs: set[str] = set()
        """The kernelspecs found so far. Caching them avoids reading their files at every start."""
        self._starts_by_kernelspec = internals.starts_by_kernelspec(host.kernel_manager)
        self._server_version = _jupyter_server_version(host.kernel_manager)
        # Other kernel managers have kernels that end with their server.
        self._succession = getattr(host.kernel_manager, "succession", None)
        if self._succession is not None:
            self.adoption_interval = _ADOPTION_INTERVAL

    @property
    def default_kernel_name(self) -> str | None:
        name: str | None = getattr(self._kernel_manager, "default_kernel_name", None)
        return name

    async def start(self, request: StartRequest) -> Kernel:
        options: dict[str, Any] = {}
        if request.kernel_id is not None and self._takes_kernel_id:
            self._refuse_foreign(request.kernel_id)
            options["kernel_id"] = request.kernel_id
        try:
            with self._launches.start(request) as launched:
                await self._check_kernelspec(request.kernel_name)
                if self._server_version is not None:
                    options["env"] = self._kernel_env(request.path, request.name)
                kernel_id: str = await ensure_async(
                    self._kernel_manager.start_kernel(
                        path=await self._kernel_path(request.path),
                        kernel_name=request.kernel_name,
                        **options,
                    )
                )
        except SessionError:
            raise
        except NoSuchKernel as error:
            raise KernelspecNotFound(request.kernel_name or error.name) from error
        except DuplicateKernelError as error:
            raise KernelConflict(str(request.kernel_id), "already exists") from error
        except Exception as error:
            shut_down = self._find_shut_down(error)
            if shut_down is not None:
                raise KernelConflict(shut_down, "was shut down while it was starting") from error
            self._log.error("Kernel %r did not start", request.kernel_name, exc_info=True)
            await self._end_launched(launched)
            raise KernelStartFailed(request.kernel_name, error) from error
        finally:
            self._forget_failed_starts()
        model = (await self.models([kernel_id])).alive.get(kernel_id, {})
        return Kernel(
            kernel_id=kernel_id,
            kernel_name=model.get("name", request.kernel_name),
            provider=self.name,
        )

    async def _end_launched(self, kernel_ids: Collection[str]) -> None:
        """Shut down kernels that the manager has got before their start failed. Never raises."""
        for kernel_id in kernel_ids:
            try:
                await self.shutdown(kernel_id)
            except Exception as error:
                self._log.warning("Kernel %s could not be shut down: %r", kernel_id, error)

    async def wait_for_start(self, kernel_id: str) -> None:
        await self._launches.wait(kernel_id)

    async def _check_kernelspec(self, name: str | None) -> None:
        """Raise NoSuchKernel before jupyter_client does, which would also log a traceback.

        Does nothing for kernel managers of unknown classes, because they may interpret kernel
        names in another way.
        """
        if name is None or name in self._known_specs or not self._starts_by_kernelspec:
            return
        specs = self._kernel_manager.kernel_spec_manager
        await ensure_async(specs.get_kernel_spec(internals.kernelspec_name(name)))
        self._known_specs.add(name)

    def _find_shut_down(self, error: Exception) -> str | None:
        """Return the id of the kernel if the error means that it was shut down while starting."""
        if not isinstance(error, KeyError):
            return None
        kernel_id = str(error.args[0] if error.args else "")
        gone = self.can_address(kernel_id) and kernel_id not in self._kernel_manager
        return kernel_id if gone else None

    def _forget_failed_starts(self) -> None:
        internals.forget_failed_starts(self._kernel_manager, self._connection_file)

    async def models(self, kernel_ids: Sequence[str]) -> KernelModels:
        unknown: dict[str, KernelModel | None] = {}
        alive = self._get_models(kernel_ids, unknown)
        if set(map(type, alive.values())) - {dict}:
            await self._await_all(alive, unknown)
        if getattr(self._kernel_manager, "use_pending_kernels", False):
            alive = {each: self._explain_start(each, model) for each, model in alive.items()}
        self._last_known.update(alive)
        return KernelModels(alive=alive, unknown=unknown)

    def _get_models(
        self, kernel_ids: Sequence[str], unknown: dict[str, KernelModel | None]
    ) -> dict[str, Any]:
        """Return the kernel manager's model for each kernel. Awaitables are not awaited here."""
        distinct = len(set(kernel_ids)) == len(kernel_ids)
        ids = kernel_ids if distinct else list(dict.fromkeys(kernel_ids))
        asked = iter(ids)
        answers: list[Any] = []
        failed: list[str] = []
        while True:
            try:
                # One `extend` for all kernels is fast even for a thousand of them. After an
                # error, the models before it are still in the list.
                answers.extend(map(self._kernel_manager.kernel_model, asked))
            except Exception as error:
                failed.append(ids[len(answers)])
                answers.append(None)
                self._handle_failure(failed[-1], error, unknown)
            else:
                break
        alive = dict(zip(ids, answers, strict=True))
        for kernel_id in failed:
            del alive[kernel_id]
        return alive

    async def _await_all(
        self, alive: dict[str, Any], unknown: dict[str, KernelModel | None]
    ) -> None:
        """Replace awaitables by their results, and remove the models that failed."""
        tasks = {
            kernel_id: asyncio.ensure_future(model)
            for kernel_id, model in alive.items()
            if isawaitable(model)
        }
        try:
            if tasks:
                await asyncio.wait(tasks.values(), timeout=_MODEL_TIMEOUT)
        finally:
            late = [kernel_id for kernel_id, task in tasks.items() if task.cancel()]
        for kernel_id, model in list(alive.items()):
            if kernel_id in late:
                error: BaseException | None = TimeoutError(
                    "no answer from the kernel manager in time"
                )
            else:
                alive[kernel_id], error = _outcome(tasks.get(kernel_id), model)
            if error is not None:
                del alive[kernel_id]
                self._handle_failure(kernel_id, error, unknown)

    def _handle_failure(
        self, kernel_id: str, error: BaseException, unknown: dict[str, KernelModel | None]
    ) -> None:
        if kernel_id in self._launches:
            unknown[kernel_id] = None
        elif kernel_id in self._kernel_manager:
            self._log.warning("The state of kernel %s is unknown: %r", kernel_id, error)
            unknown[kernel_id] = self._last_known.get(kernel_id)
        else:
            self._last_known.pop(kernel_id, None)

    def _explain_start(self, kernel_id: str, model: dict[str, Any]) -> dict[str, Any]:
        """Return a model with the state "dead" and the reason if a pending start has failed.

        Without this, the server would list the kernel as starting until its session is deleted.
        """
        if model.get("execution_state") != "starting" or kernel_id not in self._kernel_manager:
            return model
        ready = getattr(self._kernel_manager.get_kernel(kernel_id), "ready", None)
        if ready is None or not ready.done() or ready.cancelled() or not ready.exception():
            return model
        error = ready.exception()
        reason = f"{type(error).__name__}: {error}"
        return {**model, "execution_state": "dead", "reason": reason}

    def watch_models(self, changes: ModelChanges) -> None:
        watch: Callable[[ModelChanges], None] | None = getattr(
            self._kernel_manager, "watch_models", None
        )
        # A model also tells how a pending start went, which the kernel manager does not know.
        if watch is not None and not getattr(self._kernel_manager, "use_pending_kernels", False):
            watch(changes)

    def can_address(self, kernel_id: str) -> bool:
        return is_addressable(kernel_id)

    async def shutdown(self, kernel_id: str) -> None:
        await self.wait_for_start(kernel_id)
        self._last_known.pop(kernel_id, None)
        if kernel_id not in self._kernel_manager:
            return
        try:
            await ensure_async(self._kernel_manager.shutdown_kernel(kernel_id))
        except (KeyError, HTTPError):
            # The culler or a request to /api/kernels may have shut it down in the meantime.
            if kernel_id in self._kernel_manager:
                raise
        finally:
            self._forget_failed_starts()

    def update_env(self, kernel_id: str, *, path: str | None, name: str | None) -> None:
        update_env: Callable[..., None] | None = getattr(self._kernel_manager, "update_env", None)
        if update_env is None:
            return
        try:
            update_env(kernel_id=kernel_id, env=self._kernel_env(path, name))
        except Exception as error:
            self._log.warning("Cannot update the environment of kernel %s: %r", kernel_id, error)

    def find_started(self, token: str) -> str | None:
        # If the kernel manager writes no records, its kernels ended with their server.
        find: Callable[[str], str | None] = getattr(self._kernel_manager, "find_started", _none)
        return find(token)

    async def find_ended(self, traces: Collection[KernelTrace]) -> Mapping[KernelTrace, EndReason]:
        running = set(self.list_running())
        others = [trace for trace in traces if trace.kernel_id not in running]
        return await asyncio.get_running_loop().run_in_executor(None, self._find_ended, others)

    def _find_ended(self, traces: Collection[KernelTrace]) -> dict[KernelTrace, EndReason]:
        ended = {each: EndReason.DIED for each in traces if each.provider == IMPORTED}
        for trace in traces:
            if self._place.has_rebooted(trace.provider):
                ended[trace] = EndReason.REBOOTED
        others = [each for each in traces if each not in ended]
        return {**ended, **dict.fromkeys(self._find_died(others), EndReason.DIED)}

    def _find_died(self, traces: Collection[KernelTrace]) -> list[KernelTrace]:
        """Return the kernels that ran in this boot of this host, and whose process has ended."""
        try:
            # If the kernel manager writes no records, its kernels ended with their server.
            recorded: Collection[RecordedKernel] = getattr(
                self._kernel_manager, "list_recorded", tuple
            )()
        except OSError as error:
            self._log.debug("The kernel records cannot be read: %s", error)
            return []
        died, absent = [], []
        for trace in traces:
            of_kernel = [each for each in recorded if each.matches(trace)]
            if of_kernel:
                died += [] if any(each.may_run for each in of_kernel) else [trace]
            elif self._place.sees(trace.provider):
                absent.append(trace)
        return [*died, *self._without_process(absent)]

    def _without_process(self, traces: Collection[KernelTrace]) -> list[KernelTrace]:
        """Return the kernels that no process of this place runs. None of them has a record."""
        if not traces:
            return []
        running = {each.kernel_id for each in list_kernels(self._folder)}
        return [each for each in traces if each.kernel_id not in running]

    def may_find_left(self) -> bool:
        return self._succession is not None and not self._succession.is_alone()

    async def find_left(self) -> Collection[LeftKernels]:
        if self._succession is None:
            return ()
        found = await self._succession.find_left()
        return [
            LeftKernels(server_id=server_id, kernels=[self._trace(each) for each in records])
            for server_id, records in found.items()
        ]

    def _trace(self, record: KernelRecord) -> KernelTrace:
        return KernelTrace(provider=self.name, kernel_id=record.kernel_id, token=record.token)

    async def adopt(self, server_id: str) -> Collection[str]:
        return () if self._succession is None else await self._succession.adopt(server_id)

    async def leave(self, server_id: str) -> None:
        if self._succession is not None:
            await self._succession.leave(server_id)

    def list_adopted(self) -> Collection[str]:
        adopted: Collection[str] = getattr(self._kernel_manager, "list_adopted", tuple)()
        return adopted

    def find_missed(self, clients: Collection[str]) -> Collection[Missed]:
        found: Collection[Missed] = getattr(self._kernel_manager, "find_missed", _nothing)(clients)
        return found

    def watch(self, ended: Callable[[str], None]) -> None:
        # Every kernel that ends goes through `remove_kernel`, whether by the culler, /api/kernels
        # or a failed restart. Every new websocket goes through `notify_connect`.
        remove_kernel = self._kernel_manager.remove_kernel
        notify_connect = self._kernel_manager.notify_connect

        @functools.wraps(remove_kernel)
        def remove(kernel_id: str) -> Any:
            kernel = remove_kernel(kernel_id)
            self._connected.discard(kernel_id)
            ended(kernel_id)
            return kernel

        @functools.wraps(notify_connect)
        def connect(kernel_id: str) -> Any:
            self._connected.add(kernel_id)
            return notify_connect(kernel_id)

        self._kernel_manager.remove_kernel = remove
        self._kernel_manager.notify_connect = connect

    def was_connected(self, kernel_id: str) -> bool:
        ask: Callable[[str], object] = getattr(self._kernel_manager, "had_clients", _none)
        return kernel_id in self._connected or bool(ask(kernel_id))

    def list_running(self) -> Collection[str]:
        ids: list[str] = self._kernel_manager.list_kernel_ids()
        return ids

    @property
    def _takes_kernel_id(self) -> bool:
        # jupyter_server accepts a kernel id from the client since 2.21.
        return self._server_version is not None and self._server_version >= (2, 21)

    async def _kernel_path(self, path: str | None) -> str:
        try:
            kernel_path: str = await ensure_async(
                self._contents_manager.get_kernel_path(path=path or "")
            )
        except HTTPError as error:
            if error.status_code >= 500:
                raise
            raise InvalidRequest("path", "is not inside the server's root directory") from error
        return kernel_path

    def _refuse_foreign(self, kernel_id: str) -> None:
        # Two servers may share a runtime directory. The start would overwrite the connection file.
        if os.path.exists(self._connection_file(kernel_id)):
            raise KernelConflict(kernel_id, "is in use: a connection file with this id exists")

    def _connection_file(self, kernel_id: str) -> str:
        return os.path.join(self._kernel_manager.connection_dir, f"kernel-{kernel_id}.json")


def _nothing(keys: Collection[str]) -> Collection[Any]:
    return ()


def _none(key: str) -> None:
    return None


def _outcome(task: asyncio.Future[Any] | None, model: Any) -> tuple[Any, BaseException | None]:
    """Return the kernel's model and None, or None and the error."""
    if task is not None:
        if task.cancelled():
            return None, asyncio.CancelledError()
        if task.exception() is not None:
            return None, task.exception()
        model = task.result()
    if not isinstance(model, dict):
        return None, TypeError(f"the kernel model is not a dict: {model!r}")
    return model, None


def _jupyter_server_version(kernel_manager: object) -> tuple[int, int] | None:
    """Return jupyter_server's version (major, minor), or None.

    It is None if the kernel manager's class is not derived from one of jupyter_server.
    """
    names = {base.__module__.partition(".")[0] for base in type(kernel_manager).__mro__}
    if "jupyter_server" not in names:
        return None
    major, minor = version("jupyter_server").split(".")[:2]
    return int(major), int(minor)
