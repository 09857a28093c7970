"""The kernel manager that servers load: its kernels survive it, and it adopts those of others."""

from __future__ import annotations

import asyncio
import contextlib
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_client.kernelspec import KernelSpec, NoSuchKernel
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from jupyter_server.prometheus.metrics import KERNEL_CURRENTLY_RUNNING_TOTAL
from jupyter_server.services.kernels.kernelmanager import (
    AsyncMappingKernelManager,
    ServerKernelManager,
)
from tornado.ioloop import IOLoop
from traitlets import CaselessStrEnum, Float, default
from traitlets.config.configurable import LoggingConfigurable
from traitlets.utils.importstring import import_item

from nbsessions.kernels import internals
from nbsessions.kernels.registry.ending import KernelEnder
from nbsessions.kernels.registry.place import RecordedKernel
from nbsessions.kernels.registry.process import is_running
from nbsessions.kernels.registry.records import KernelRecord, KernelRecords
from nbsessions.kernels.registry.servers import Servers
from nbsessions.kernels.registry.trouble import explain
from nbsessions.kernels.surviving.activity import IdleProbe
from nbsessions.kernels.surviving.adoption import Adoption
from nbsessions.kernels.surviving.buffering import KeptMessages
from nbsessions.kernels.surviving.output import KernelOutput
from nbsessions.kernels.surviving.provisioner import SurvivingProvisioner
from nbsessions.kernels.surviving.recorder import KernelRecorder
from nbsessions.locks import SUPPORTED
from nbsessions.tasks import Tasks

_PENDING_TIMEOUT = 5.0


class SurvivingKernel:
    """Mixin for a ServerKernelManager whose kernel outlives the server; goes before it.

    It does nothing unless the manager of all kernels is a SurvivingKernels.
    """

    if TYPE_CHECKING:
        provisioner: Any
        parent: Any
        kernel_id: str

    async def start_kernel(self, *args: Any, **kwargs: Any) -> Any:
        """Start the kernel, with our provisioner if its kernelspec wants the local one."""
        kernel_id = kwargs.get("kernel_id")
        if (
            self.provisioner is None
            and kernel_id is not None
            and isinstance(self.parent, SurvivingKernels)
        ):
            # A kernelspec that cannot be used is the business of the start itself.
            with contextlib.suppress(NoSuchKernel):
                self.provisioner = self.parent.make_provisioner(self, kernel_id)
        return await super().start_kernel(*args, **kwargs)  # type: ignore[misc]

    async def restart_kernel(self, *args: Any, **kwargs: Any) -> Any:
        """Restart the kernel; a next server would finish what was begun."""
        if isinstance(self.parent, SurvivingKernels):
            await self.parent.recorder.restarting(self.kernel_id)
        return await super().restart_kernel(*args, **kwargs)  # type: ignore[misc]

    def update_env(self, *, env: dict[str, str]) -> None:
        """Update the environment of the next restart, whichever server does it."""
        super().update_env(env=env)  # type: ignore[misc]
        if isinstance(self.parent, SurvivingKernels):
            self.parent.recorder.renamed(self.kernel_id)


class SurvivingKernelManager(SurvivingKernel, ServerKernelManager):  # type: ignore[misc]
    """Manages one local kernel, which outlives the server."""


class SurvivingKernels(LoggingConfigurable):
    """Mixin for an AsyncMappingKernelManager whose kernels survive it; goes before it.

    Kernels that a dead server of the same root directory left running are adopted when the
    manager is made, before the server listens.
    """

    keep_kernels = CaselessStrEnum(
        ["crash", "restart", "never"],
        "crash",
        help="""When kernels go on running after the server has ended, so that the next server
        of the same root directory takes them over. `crash`: when the server dies (kill -9, out
        of memory, a dropped SSH connection); stopping it ends its kernels. `restart`: also when
        it is stopped by SIGINT or SIGTERM; "Shut Down" in the File menu, `/api/shutdown` and
        `jupyter server stop` still end them. `never`: kernels always end with their server.""",
    ).tag(config=True)

    hangup = CaselessStrEnum(
        ["crash", "stop"],
        "crash",
        help="""What SIGHUP counts as, which a closed terminal and a dropped SSH connection send.
        `crash`: the server dies, and its kernels go on unless `keep_kernels` is `never`. `stop`:
        the server is stopped, as by SIGTERM.""",
    ).tag(config=True)

    orphan_timeout = Float(
        24 * 3600.0,
        min=0.0,
        help="""Seconds after which a kernel of this server is ended, once the server is dead and
        was not followed by another one of the same root directory. It is ended when any server
        of the same user starts.""",
    ).tag(config=True)

    @default("kernel_manager_class")
    def _default_kernel_manager_class(self) -> str:
        return "nbsessions.kernels.surviving.manager.SurvivingKernelManager"

    if TYPE_CHECKING:
        connection_dir: str
        kernel_manager_class: str
        root_dir: str
        buffer_offline_messages: bool
        kernel_spec_manager: Any
        kernel_manager_factory: Any
        last_kernel_activity: Any

        def get_kernel(self, kernel_id: str) -> Any: ...
        def list_kernel_ids(self) -> list[str]: ...
        def stop_watching_activity(self, kernel_id: str) -> None: ...
        async def shutdown_kernel(self, kernel_id: str, now: bool = False) -> None: ...

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        folder = Path(self.connection_dir or ".").absolute() / "nbsessions"
        root_dir = os.path.realpath(self.root_dir)
        self._records = KernelRecords(folder / "kernels", log=self.log)
        self._servers = Servers(folder / "servers")
        self.recorder = KernelRecorder(
            self._records,
            self._servers,
            KernelOutput(),
            root_dir=root_dir,
            orphan_timeout=self.orphan_timeout,
            log=self.log,
        )
        if not issubclass(import_item(self.kernel_manager_class), SurvivingKernel):
            self.log.warning(
                "Kernels end with this server: their manager %s is no SurvivingKernel",
                self.kernel_manager_class,
            )
        self._kept = KeptMessages()
        self._probes = Tasks()
        self._keeping: bool | None = None
        # Without a server around it, a manager is somebody's test: leave their kernels alone.
        if SUPPORTED and self.parent is not None:
            adoption = Adoption(
                self._records,
                self._servers,
                KernelEnder(self._records),
                root_dir=root_dir,
                orphan_timeout=self.orphan_timeout,
                log=self.log,
            )
            try:
                adoption.run(self._adopt)
            except OSError as error:
                # The server is there for more than old kernels.
                self.log.warning(
                    "Kernels of earlier servers are not taken over: %s", explain(error, folder)
                )

    # Kernels that are started here

    def make_provisioner(self, kernel: Any, kernel_id: str) -> Any:
        """Return what is to launch the kernel: ours, unless the kernelspec has another."""
        factory = KernelProvisionerFactory.instance(parent=self)
        provisioner = factory.create_provisioner_instance(
            kernel_id, kernel.kernel_spec, parent=kernel
        )
        kept = SUPPORTED and self.keep_kernels != "never"
        if kept and type(provisioner) is LocalProvisioner:
            return self._surviving_provisioner(kernel, kernel_id)
        return provisioner

    def _surviving_provisioner(self, kernel: Any, kernel_id: str) -> SurvivingProvisioner:
        provisioner = SurvivingProvisioner(
            kernel_id=kernel_id, kernel_spec=kernel.kernel_spec, parent=kernel
        )
        provisioner.log_file = self._records.log_file(kernel_id)
        provisioner.launching = partial(self.recorder.launching, kernel, kernel_id)
        provisioner.launched = partial(self.recorder.launched, kernel, kernel_id)
        provisioner.ended = partial(self.recorder.forget, kernel_id)
        return provisioner

    def remove_kernel(self, kernel_id: str) -> Any:
        """Forget a kernel, also when it died and is not to be restarted any more."""
        self.recorder.forget(kernel_id)
        self._kept.drop(kernel_id)
        return super().remove_kernel(kernel_id)  # type: ignore[misc]

    # Kernels that were started by other servers

    def _adopt(self, record: KernelRecord) -> None:
        kernel_id = record.kernel_id
        self.recorder.register()
        kernel = self._make_kernel(record)
        try:
            self.recorder.adopted(kernel, record)
            internals.add_kernel(self, kernel_id, kernel)
        except BaseException:
            internals.drop_kernel(self, kernel_id, kernel)
            raise
        if record.last_activity is not None:
            kernel.last_activity = record.last_activity
            self.last_kernel_activity = max(self.last_kernel_activity, record.last_activity)
        KERNEL_CURRENTLY_RUNNING_TOTAL.labels(type=kernel.kernel_name).inc()
        self._probe(kernel)
        if self.buffer_offline_messages:
            self._kept.keep(kernel_id, kernel, record.clients)
        if record.process is None:
            IOLoop.current().add_callback(kernel.restart_kernel, now=True)
            self.log.info("Kernel %s adopted in its restart, which is begun again", kernel_id)
        else:
            self.log.info("Kernel %s adopted (process %d)", kernel_id, record.process.pid)

    def _make_kernel(self, record: KernelRecord) -> Any:
        """Return a manager of the kernel, as if it had started it."""
        specs = {"kernel_spec_manager": self.kernel_spec_manager}
        kernel = self.kernel_manager_factory(
            connection_file=record.connection_file,
            parent=self,
            log=self.log,
            kernel_name=record.kernel_name,
            **(specs if self.kernel_spec_manager else {}),
        )
        kernel.kernel_id = record.kernel_id
        try:
            kernel.kernel_spec  # noqa: B018  # raises when it is not installed any more
        except NoSuchKernel:
            internals.set_kernel_spec(kernel, KernelSpec(**record.kernel_spec))
        provisioner = self._surviving_provisioner(kernel, record.kernel_id)
        provisioner.adopt(record.process, record.connection_info, record.cwd)
        kernel.provisioner = provisioner
        kernel.load_connection_info(record.connection_info)
        env = {name: os.environ[name] for name in os.environ if name not in record.env_removed}
        internals.set_started(
            kernel,
            launch_arguments={"env": {**env, **record.env}, "cwd": record.cwd},
            protocol_version=record.protocol_version,
        )
        kernel.execution_state = "busy"
        kernel.reason = ""
        return kernel

    def _probe(self, kernel: Any) -> None:
        def clients() -> list[Any]:
            kernel_id = kernel.kernel_id
            return [
                *self._kept.channels(kernel_id),
                *internals.websocket_channels(kernel_id),
            ]

        probe = IdleProbe(kernel, clients=clients, log=self.log)

        def run() -> None:
            self._probes.spawn(probe.run())

        IOLoop.current().add_callback(run)

    def get_buffer(self, kernel_id: str, session_key: str) -> Any:
        """Return what was kept for the client: since the adoption, or since it went."""
        kept = self._kept.take(kernel_id, session_key)
        return kept or super().get_buffer(kernel_id, session_key)  # type: ignore[misc]

    def find_started(self, token: str) -> str | None:
        """Return the id of the kernel that was started under this intent."""
        return self.recorder.find_started(token)

    def had_clients(self, kernel_id: str) -> bool:
        """Return whether clients were connected to the kernel, of this server or one before."""
        return self.recorder.had_clients(kernel_id)

    def list_adopted(self) -> list[str]:
        """Return the ids of the kernels that were taken over from dead servers."""
        return self.recorder.list_adopted()

    def list_recorded(self) -> list[RecordedKernel]:
        """Return all kernels that have a record here, whosever they are. Blocks; OSError."""
        records = {record.kernel_id: record for record in self._records.read_all()}
        return [
            RecordedKernel(kernel_id=kernel_id, readable=False, may_run=True)
            if (record := records.get(kernel_id)) is None
            else RecordedKernel(kernel_id=kernel_id, token=record.token, may_run=_may_run(record))
            for kernel_id in self._records.list_ids()
        ]

    # The end

    def begin_stop(self) -> bool:
        """Decide whether the kernels go on without us, and write it down. Returns it.

        The first decision stays, whatever else is asked of a server that is stopping.
        """
        if self._keeping is None:
            by_signal = internals.stopped_by_signal(self.parent)
            self._keeping = self.keep_kernels == "restart" and by_signal
            if not self._keeping:
                self._servers.note_ending()
        return self._keeping

    async def shutdown_all(self, now: bool = False) -> None:
        """End all kernels, or leave those that are to go on. Never raises."""
        try:
            await self._end_all(now)
        except Exception:
            # A server that is told to stop, stops.
            self.log.warning("Not all kernels were shut down", exc_info=True)

    async def _end_all(self, now: bool) -> None:
        keeping = self.begin_stop()
        try:
            # jupyter_client does not take it well when a kernel is shut down in its start.
            pending = internals.pending_kernels(self)
            if pending:
                await asyncio.wait(pending, timeout=_PENDING_TIMEOUT)
            if keeping:
                await self._leave_all(now)
            else:
                await super().shutdown_all(now=now)  # type: ignore[misc]
        finally:
            self._probes.cancel()
            self.recorder.close()

    async def _leave_all(self, now: bool) -> None:
        kernel_ids = self.list_kernel_ids()
        left = [kernel_id for kernel_id in kernel_ids if self.recorder.has(kernel_id)]
        for kernel_id in left:
            kernel = self.get_kernel(kernel_id)
            self.stop_watching_activity(kernel_id)
            kernel.stop_restarter()
            internals.leave_kernel(kernel)
        for kernel_id in set(kernel_ids) - set(left):
            with contextlib.suppress(Exception):
                await self.shutdown_kernel(kernel_id, now=now)
        self.log.info("%d kernels go on running for the next server", len(left))


def _may_run(record: KernelRecord) -> bool:
    """Return whether the record leaves it open that the kernel runs, or will again."""
    process = record.process
    if process is None or record.restarting or not process.is_of_this_boot:
        return True
    return is_running(process)


class SurvivingMappingKernelManager(SurvivingKernels, AsyncMappingKernelManager):  # type: ignore[misc]
    """The kernel manager of a server whose kernels survive it."""
