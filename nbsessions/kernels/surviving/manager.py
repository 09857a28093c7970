"""A kernel manager whose kernels outlive the server, and which adopts those of dead servers."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zmq.asyncio
from jupyter_client.kernelspec import KernelSpec, NoSuchKernel
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from jupyter_server.prometheus.metrics import KERNEL_CURRENTLY_RUNNING_TOTAL
from jupyter_server.services.kernels.kernelmanager import (
    AsyncMappingKernelManager,
    ServerKernelManager,
)
from tornado.ioloop import IOLoop
from traitlets import Bool, CaselessStrEnum, Float, Int, default
from traitlets.config.configurable import LoggingConfigurable
from traitlets.utils.importstring import import_item

from nbsessions.keeper.folder import KeeperFolder
from nbsessions.keeper.link import KeeperLink
from nbsessions.kernels import internals
from nbsessions.kernels.noted import ModelChanges
from nbsessions.kernels.surviving.activity import IdleProbe
from nbsessions.kernels.surviving.buffering import ReplyBuffers
from nbsessions.kernels.surviving.missed import MissedOutputs
from nbsessions.kernels.surviving.output import KernelOutput
from nbsessions.kernels.surviving.provisioner import SurvivingProvisioner
from nbsessions.kernels.surviving.recorder import KernelRecorder
from nbsessions.kernels.surviving.succession import Succession
from nbsessions.locks import SUPPORTED
from nbsessions.models import Missed
from nbsessions.registry.adoption import Adoption
from nbsessions.registry.ending import KernelEnder
from nbsessions.registry.place import RecordedKernel
from nbsessions.registry.records import NEVER, KernelRecord, KernelRecords, may_run
from nbsessions.registry.servers import Servers
from nbsessions.tasks import Tasks

_PENDING_TIMEOUT = 5.0
_PROBES_TIMEOUT = 5.0
"""Seconds that cancelled probes have to end when the server stops."""

MAX_SOCKETS = 8192
"""How many ZMQ sockets a server may have. Each connected page needs four and more.

ZMQ's own limit of 1023 is reached when about 200 pages connect at once.
"""

_SUBSHELL_MESSAGES = [
    f"{action}_subshell_{kind}"
    for action in ("create", "delete", "list")
    for kind in ("request", "reply")
]


def _nothing() -> None:
    pass


class SurvivingKernel:
    """Mixin for a ServerKernelManager whose kernel outlives the server.

    It must precede ServerKernelManager in the list of base classes. It has no effect unless the
    manager of all kernels is a SurvivingKernels.
    """

    if TYPE_CHECKING:
        provisioner: Any
        parent: Any
        kernel_id: str

    model_changed: Callable[[], object] = staticmethod(_nothing)
    """Called when a trait of this kernel has changed. Its model consists of some of them."""

    def notify_change(self, change: Any) -> None:
        """Tell of a change. Most are those of ``last_activity``, one for each message."""
        self.model_changed()
        super().notify_change(change)  # type: ignore[misc]

    async def start_kernel(self, *args: Any, **kwargs: Any) -> Any:
        """Start the kernel with the provisioner that ``SurvivingKernels`` chooses for it."""
        kernel_id = kwargs.get("kernel_id")
        if (
            self.provisioner is None
            and kernel_id is not None
            and isinstance(self.parent, SurvivingKernels)
        ):
            # If the kernelspec cannot be found, the start itself reports the error.
            with contextlib.suppress(NoSuchKernel):
                self.provisioner = self.parent.make_provisioner(self, kernel_id)
        return await super().start_kernel(*args, **kwargs)  # type: ignore[misc]

    async def restart_kernel(self, *args: Any, **kwargs: Any) -> Any:
        """Restart the kernel. If the server dies meanwhile, the next one completes the restart."""
        if isinstance(self.parent, SurvivingKernels):
            await self.parent.recorder.restarting(self.kernel_id)
        return await super().restart_kernel(*args, **kwargs)  # type: ignore[misc]

    def update_env(self, *, env: dict[str, str]) -> None:
        """Update the environment of the next restart, even if another server performs it."""
        super().update_env(env=env)  # type: ignore[misc]
        if isinstance(self.parent, SurvivingKernels):
            self.parent.recorder.renamed(self.kernel_id)


class SurvivingKernelManager(SurvivingKernel, ServerKernelManager):  # type: ignore[misc]
    """The manager of one local kernel that outlives the server."""


class SurvivingKernels(LoggingConfigurable):
    """Mixin for an AsyncMappingKernelManager whose kernels outlive the server.

    It must precede AsyncMappingKernelManager in the list of base classes. Before the server
    listens, ``adopt_left`` adopts the kernels that dead servers with the same root directory left
    running. ``succession`` adopts those of servers that die later.
    """

    keep_kernels = CaselessStrEnum(
        ["crash", "restart", "never"],
        "crash",
        help="""When kernels go on running after the server has ended, so that the next server
        with the same root directory can take them over. `crash`: when the server dies (kill -9,
        out of memory, a dropped SSH connection). A server that is stopped ends its kernels.
        `restart`: also when SIGINT or SIGTERM stops the server. "Shut Down" in the File menu,
        `/api/shutdown` and `jupyter server stop` still end the kernels. `never`: kernels always
        end with their server. This is about local kernels. A gateway's kernels that have
        sessions always go on running, because other servers can serve them.""",
    ).tag(config=True)

    hangup = CaselessStrEnum(
        ["crash", "stop"],
        "crash",
        help="""What to do on SIGHUP, which the system sends when the terminal is closed or the
        SSH connection is dropped. `crash`: the server dies, and its kernels go on running unless
        `keep_kernels` is `never`. `stop`: the server stops as it does on SIGTERM.""",
    ).tag(config=True)

    orphan_timeout = Float(
        24 * 3600.0,
        min=0.0,
        allow_none=True,
        help="""Seconds after this server's death until its kernels are ended, if no other server
        with the same root directory has taken them over. A process beside the kernels, the
        keeper, ends them, and so does any server of the same user when it starts. To the keeper,
        the time that the machine is asleep does not count. `None` means never, and `0` means at
        once.""",
    ).tag(config=True)

    keep_output = Bool(
        True,
        help="""Whether what kernels say is kept while nobody can receive it: while this server is
        dead, or while a page is away. A process beside the kernels, the keeper, writes it to files
        in the runtime directory. If False, such output is lost.""",
    ).tag(config=True)

    output_limit = Int(
        20_000_000,
        min=1_000_000,
        help="""How many bytes of the newest messages of each kernel are kept. The files are up to
        a fifth larger. Of older messages, those are kept that a page needs to make sense of the
        newer ones.""",
    ).tag(config=True)

    total_output_limit = Int(
        500_000_000,
        min=1_000_000,
        help="""How many bytes the files of all kernels may have together. If they have more, the
        largest shrink first, but none to less than a megabyte. If the servers of a user that share
        the runtime directory have different values, the smallest counts.""",
    ).tag(config=True)

    @default("kernel_manager_class")
    def _default_kernel_manager_class(self) -> str:
        return "nbsessions.kernels.surviving.manager.SurvivingKernelManager"

    @default("context")
    def _context_default(self) -> zmq.asyncio.Context:
        context: zmq.asyncio.Context = super()._context_default()  # type: ignore[misc]
        # ZMQ takes the limit into account when the first socket is created.
        context.set(zmq.MAX_SOCKETS, min(MAX_SOCKETS, context.get(zmq.SOCKET_LIMIT)))
        return context

    @default("untracked_message_types")
    def _default_untracked_message_types(self) -> list[str]:
        """Return those of jupyter_server, and the messages about subshells.

        Pages send these on the control channel, where a busy kernel answers at once. It goes on
        with its cell, so the answer does not mean that it is idle.
        """
        trait: Any = self.traits()["untracked_message_types"]
        return [*trait.default(), *_SUBSHELL_MESSAGES]

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
            orphan_timeout=self._orphan_seconds,
            output_limit=self.output_limit if self.keep_output else 0,
            total_output_limit=self.total_output_limit,
            log=self.log,
        )
        self._keeper = KeeperLink(KeeperFolder(folder), self._servers.server_id, log=self.log)
        if not issubclass(import_item(self.kernel_manager_class), SurvivingKernel):
            self.log.warning(
                "Kernels end with this server: kernel_manager_class %s is not a subclass of "
                "SurvivingKernel",
                self.kernel_manager_class,
            )
        self._model_changes = ModelChanges()
        self._buffers = ReplyBuffers()
        self.missed = MissedOutputs()
        self._probes = Tasks()
        self._leave_running: bool | None = None
        self.succession: Succession | None = None
        self._adoption: Adoption | None = None
        # A manager without a server, as in a test, does not adopt kernels.
        if SUPPORTED and self.parent is not None:
            self._adoption = Adoption(
                self._records,
                self._servers,
                KernelEnder(self._records),
                root_dir=root_dir,
                orphan_timeout=self._orphan_seconds,
                log=self.log,
            )
            self.succession = Succession(self._adoption, self._adopt)
            # The extension calls it earlier. Without it, there is no namespace.
            IOLoop.current().add_callback(self.adopt_left)

    # Kernels that this server starts

    def make_provisioner(self, kernel: Any, kernel_id: str) -> Any:
        """Return the provisioner for the kernel.

        It is a SurvivingProvisioner if the kernelspec uses LocalProvisioner and kernels may
        outlive the server. Otherwise, it is the one that the kernelspec names.
        """
        factory = KernelProvisionerFactory.instance(parent=self)
        provisioner = factory.create_provisioner_instance(
            kernel_id, kernel.kernel_spec, parent=kernel
        )
        survives = SUPPORTED and self.keep_kernels != "never"
        if survives and type(provisioner) is LocalProvisioner:
            return self._surviving_provisioner(kernel, kernel_id)
        return provisioner

    def _surviving_provisioner(self, kernel: Any, kernel_id: str) -> SurvivingProvisioner:
        provisioner = SurvivingProvisioner(
            kernel_id=kernel_id, kernel_spec=kernel.kernel_spec, parent=kernel
        )
        provisioner.launching = partial(self._launching, kernel, kernel_id)
        provisioner.open_log = partial(self._records.open_log, kernel_id)
        provisioner.launched = partial(self.recorder.launched, kernel, kernel_id)
        provisioner.announce = partial(self.recorder.announce, kernel_id)
        provisioner.ended = partial(self.recorder.forget, kernel_id)
        return provisioner

    @property
    def _orphan_seconds(self) -> float:
        return NEVER if self.orphan_timeout is None else self.orphan_timeout

    def _tell_keeper(self, kernel_id: str) -> None:
        if self.keep_output or self.orphan_timeout is not None:
            self._keeper.watch(kernel_id)

    async def _launching(self, kernel: Any, kernel_id: str) -> bool:
        recorded = await self.recorder.launching(kernel, kernel_id)
        if recorded:
            # Now, because the kernel must not say anything before the keeper listens to it.
            self._tell_keeper(kernel_id)
        return recorded

    def remove_kernel(self, kernel_id: str) -> Any:
        """Remove a kernel, including one that died and will not be restarted."""
        self.recorder.forget(kernel_id)
        self._buffers.stop(kernel_id)
        self._keeper.forget(kernel_id)
        return super().remove_kernel(kernel_id)  # type: ignore[misc]

    # Kernels that other servers started

    def adopt_left(self, namespace: str | None = None) -> None:
        """Adopt the kernels that dead servers have left. Only the first call has an effect.

        ``namespace`` is that of the sessions of this server. The kernels whose sessions are in
        another one are left to other servers. None if it is not known.
        """
        adoption, self._adoption = self._adoption, None
        if adoption is not None:
            self.recorder.namespace = adoption.namespace = namespace
            adoption.run(self._adopt)

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
        self._tell_keeper(kernel_id)
        if self.buffer_offline_messages and not self.keep_output:
            self._buffers.start(kernel_id, kernel, record.clients)
        if record.process is None:
            IOLoop.current().add_callback(kernel.restart_kernel, now=True)
            self.log.info("Kernel %s adopted during a restart, which is repeated", kernel_id)
        else:
            self.log.info("Kernel %s adopted (process %d)", kernel_id, record.process.pid)

    def _make_kernel(self, record: KernelRecord) -> Any:
        """Return a manager for the kernel in the state after a start."""
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
            kernel.kernel_spec  # noqa: B018  # raises if it is no longer installed
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
        clients = partial(self._buffers.channels, kernel.kernel_id)
        probe = IdleProbe(kernel, clients=clients, log=self.log)

        def run() -> None:
            self._probes.spawn(probe.run())

        IOLoop.current().add_callback(run)

    # Clients that are away

    def keeper_of(self, kernel_id: str) -> KeeperLink | None:
        """Return the keeper that keeps what the kernel says, or None if nobody does."""
        kept = self.keep_output and self.recorder.has(kernel_id)
        return self._keeper if kept else None

    def keep_replies(self, kernel_id: str, session_key: str, channels: dict[str, Any]) -> None:
        """Keep the replies to a client whose connection has ended, until it is back."""
        if kernel_id in self and self.buffer_offline_messages:  # type: ignore[operator]
            self._buffers.keep(kernel_id, session_key, channels)
        else:
            for stream in channels.values():
                stream.close()

    def start_buffering(self, kernel_id: str, session_key: str, channels: Any) -> None:
        """Keep what the kernel sends to the last of its clients, if nobody else keeps that."""
        if channels:
            super().start_buffering(kernel_id, session_key, channels)  # type: ignore[misc]

    def get_buffer(self, kernel_id: str, session_key: str) -> Any:
        """Return the replies since the client disconnected, and its channels."""
        buffer = self._buffers.take(kernel_id, session_key)
        if buffer is None:
            return super().get_buffer(kernel_id, session_key)  # type: ignore[misc]
        iopub = self.get_kernel(kernel_id).connect_iopub()
        iopub.channel = "iopub"
        buffer["channels"]["iopub"] = iopub
        return buffer

    # Changes of models

    def watch_models(self, changes: ModelChanges) -> None:
        """See KernelProvider.watch_models."""
        self._model_changes.complete = False
        self._model_changes = changes
        if internals.are_models_known(self):
            changes.complete = True
            changed = partial(self._kernel_changed, changes)
            internals.note_models(self, changed, changes.add)
            for kernel_id in self.list_kernel_ids():
                changed(kernel_id)

    def _kernel_changed(self, changes: ModelChanges, kernel_id: str) -> None:
        changes.add(kernel_id)
        if kernel_id not in self:  # type: ignore[operator]
            return
        kernel = self.get_kernel(kernel_id)
        if isinstance(kernel, SurvivingKernel) and internals.has_model_traits(kernel):
            kernel.model_changed = partial(changes.add, kernel_id)
        else:
            changes.complete = False

    # Queries

    def find_started(self, token: str) -> str | None:
        """Return the id of the kernel with this start token, or None."""
        return self.recorder.find_started(token)

    def had_clients(self, kernel_id: str) -> bool:
        """Return whether clients were connected to the kernel, on this or an earlier server."""
        return self.recorder.had_clients(kernel_id)

    def find_missed(self, clients: Collection[str]) -> list[Missed]:
        """Return what these clients had missed when they connected, as far as it is known."""
        return self.missed.of(clients)

    def is_adopted(self, kernel_id: str) -> bool:
        """Return whether this server adopted the kernel from a dead server."""
        return self.recorder.is_adopted(kernel_id)

    def list_adopted(self) -> list[str]:
        """Return the ids of the kernels that this server adopted from dead servers."""
        return self.recorder.list_adopted()

    def list_recorded(self) -> list[RecordedKernel]:
        """Return all kernels with a record, of all servers and users. Blocks. Raises OSError."""
        records = {record.kernel_id: record for record in self._records.read_all()}
        return [
            RecordedKernel(kernel_id=kernel_id, readable=False, may_run=True)
            if (record := records.get(kernel_id)) is None
            else RecordedKernel(kernel_id=kernel_id, token=record.token, may_run=may_run(record))
            for kernel_id in self._records.list_ids()
        ]

    # Stopping

    def begin_stop(self) -> bool:
        """Decide and record whether the kernels go on running after the stop. Return the result.

        Only the first call decides. Later calls return the same result, even if the server is
        asked to stop in another way.
        """
        if self._leave_running is None:
            by_signal = internals.stopped_by_signal(self.parent)
            self._leave_running = self.keep_kernels == "restart" and by_signal
            if not self._leave_running:
                self._servers.mark_ending()
        return self._leave_running

    async def shutdown_all(self, now: bool = False) -> None:
        """Shut down all kernels, except those that are to go on running. Never raises."""
        try:
            await self._end_all(now)
        except Exception:
            # An error must not prevent the server from stopping.
            self.log.warning("Not all kernels were shut down", exc_info=True)

    async def _end_all(self, now: bool) -> None:
        leave_running = self.begin_stop()
        if self.succession is not None:
            await self.succession.stop()
        try:
            # jupyter_client does not handle the shutdown of a kernel that is still starting.
            pending = internals.pending_kernels(self)
            if pending:
                await asyncio.wait(pending, timeout=_PENDING_TIMEOUT)
            if leave_running:
                await self._leave_kernels(now)
            else:
                await super().shutdown_all(now=now)  # type: ignore[misc]
        finally:
            self._probes.cancel()
            self.recorder.close()
            self._keeper.close()
            # Python logs a traceback of tasks that are not done when the event loop stops.
            await self._probes.wait(_PROBES_TIMEOUT)

    async def _leave_kernels(self, now: bool) -> None:
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
        self.log.info("%d kernels were left running for the next server", len(left))


class SurvivingMappingKernelManager(SurvivingKernels, AsyncMappingKernelManager):  # type: ignore[misc]
    """The manager of all kernels of a server, which outlive the server."""
