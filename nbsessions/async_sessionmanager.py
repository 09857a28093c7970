"""The session manager that servers load, which offers their interface to the session service."""

from __future__ import annotations

import hashlib
import os
import uuid
import weakref
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from functools import cached_property
from itertools import starmap
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from jupyter_core.paths import jupyter_data_dir
from jupyter_core.utils import ensure_async
from msgspec import UNSET
from msgspec.structs import asdict
from tornado.web import HTTPError
from traitlets import Any as AnyTrait
from traitlets import Unicode, default, validate
from traitlets.config.configurable import LoggingConfigurable

from nbsessions.environment import STORE_URL_VARIABLE, default_namespace, without_store
from nbsessions.errors import ServiceClosed, SessionError, StoreError
from nbsessions.httperrors import http_error
from nbsessions.identity import boot_id
from nbsessions.kernels.base import KernelHost, KernelProvider
from nbsessions.models import Ending, NewSession, SessionPatch
from nbsessions.plugins import (
    KERNEL_PROVIDERS,
    STORES,
    check_plugin,
    is_remote,
    kernel_provider_factory,
    scheme_of,
    store_factory,
)
from nbsessions.replies import (
    Encoded,
    encode,
    encode_list,
    reply_model,
    reply_models,
    session_model,
)
from nbsessions.service import ServiceOpening, SessionService
from nbsessions.stores.base import SessionStore
from nbsessions.stores.sqlite.location import default_file
from nbsessions.stores.sqlite.repair import real_path
from nbsessions.stores.sqlite.store import SQLiteSessionStore
from nbsessions.stores.sqlite.validation import validate_database_path

P = ParamSpec("P")
T = TypeVar("T")

_COLUMNS = frozenset({"session_id", "path", "name", "type", "kernel_id"})


class AsyncSessionManager(LoggingConfigurable):
    """Keeps sessions in a durable store and starts their kernels.

    Replaces ``jupyter_server.services.sessions.sessionmanager.SessionManager``, with the same
    constructor and the same methods. A session's model is ``{"id", "path", "name", "type",
    "kernel"}``. Notebooks also have ``"notebook": {"path", "name"}``. *path* is the API path of
    the document and *kernel* the JSON object of ``/api/kernels``.

    Errors are Tornado HTTPErrors: 400 for invalid values, 404 for a session that does not
    exist, 409 for a kernel id that is in use, 501 for a kernelspec that is not installed, 500
    for a kernel that does not start, 503 when the store is unavailable or the server is
    stopping. Unknown columns raise TypeError.
    """

    @classmethod
    def section_names(cls) -> list[str]:
        """Return the sections of a config file that apply, in ascending order of precedence.

        ``c.SessionManager`` is among them, so that settings for the server's own session manager
        apply too.
        """
        return ["SessionManager", *super().section_names()]

    kernel_manager = AnyTrait(help="The server's kernel manager.")
    contents_manager = AnyTrait(help="The server's contents manager.")

    database_filepath = Unicode(
        help="""The SQLite file that sessions are kept in, or `:memory:`. Default: a file in
        the Jupyter data directory, shared by all servers of a user. The file may be one that
        jupyter_server's own session manager has used. Its sessions are then taken over, and its
        table is not changed."""
    ).tag(config=True)

    store_url = Unicode(
        help="""The URL of the session store: `sqlite:///absolute/path`, `memory:`,
        `postgresql://host/database`, or the URL of a store that another package provides. It
        overrides `database_filepath`, which is sufficient for most users. Default: the
        environment variable NBSESSIONS_STORE_URL of the server. Put passwords where libpq looks
        for them: in PGPASSWORD, or in the file that PGPASSFILE names."""
    ).tag(config=True)

    namespace = Unicode(
        help="""A server takes over the sessions of earlier servers with the same namespace. It
        does not see the sessions of other namespaces. Default: the real path of the server's
        root directory. In PostgreSQL, where other users may have the same path, there is no
        default, except in JupyterHub: the hub, the user and the name of the server."""
    ).tag(config=True)

    kernel_provider = Unicode(
        "host",
        help="""The provider that starts the kernels of sessions. `host` is the server's own
        kernel manager, of any class. `gateway` is the gateway that the server uses, and needs
        the kernel manager GatewayKernels. It is the default where that is the kernel manager,
        as it is if the server uses a gateway. Other packages may offer more providers.""",
    ).tag(config=True)

    _validate_database_filepath = validate_database_path("database_filepath")

    @validate("store_url")
    def _validate_store_url(self, proposal: Any) -> str:
        value: str = proposal["value"]
        if value:
            check_plugin("store_url", STORES, scheme_of(value))
        return value

    @validate("kernel_provider")
    def _validate_kernel_provider(self, proposal: Any) -> str:
        value: str = proposal["value"]
        check_plugin("kernel_provider", KERNEL_PROVIDERS, value)
        return value

    @default("kernel_provider")
    def _default_kernel_provider(self) -> str:
        provider: str = getattr(self.kernel_manager, "session_provider", "host")
        return provider

    @default("store_url")
    def _default_store_url(self) -> str:
        # As for the file, below.
        return os.environ.get(STORE_URL_VARIABLE, "") if self.parent is not None else ""

    @default("database_filepath")
    def _default_database_filepath(self) -> str:
        # A manager without a server is probably used in a test. Do not touch the user's files.
        if self.parent is None:
            return ":memory:"
        return str(default_file(_private_folder()))

    @default("namespace")
    def _default_namespace(self) -> str:
        if self._is_remote:
            return default_namespace(os.environ)
        path = os.path.realpath(getattr(self.kernel_manager, "root_dir", "") or os.getcwd())
        # A path that is not valid UTF-8 cannot be stored as text.
        return os.fsencode(path).decode(errors="backslashreplace")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Build the store now, so that a wrong configuration is reported when the server starts.
        self._opening = ServiceOpening(
            self._make_store(), _weak(self._make_provider), log=self.log
        )
        # As with jupyter_server's own manager, dropping the last reference closes the store.
        weakref.finalize(self, self._opening.close).atexit = False

    @cached_property
    def _is_remote(self) -> bool:
        """Whether servers of other users may share the store."""
        return bool(self.store_url) and is_remote(store_factory(self.store_url))

    def hide_store(self) -> None:
        """Remove the settings of a remote store from the environment of this process.

        Servers call this once they have made the session manager. All programs that they start
        later get the environment without these settings.
        """
        if self._is_remote:
            for name in set(os.environ) - without_store(os.environ).keys():
                del os.environ[name]

    def _make_store(self) -> SessionStore:
        if self.store_url:
            return store_factory(self.store_url)(
                self.store_url, namespace=self.namespace, log=self.log
            )
        if self.database_filepath == ":memory:":
            # Imported only where it is needed, because that takes a millisecond.
            from nbsessions.stores.memory import MemorySessionStore

            return MemorySessionStore()
        path = Path(os.path.expanduser(self.database_filepath))
        private = real_path(path).parent == real_path(_private_folder())
        return SQLiteSessionStore(path, self.namespace, log=self.log, private_folder=private)

    def _make_provider(self) -> KernelProvider:
        return kernel_provider_factory(self.kernel_provider)(
            KernelHost(
                kernel_manager=self.kernel_manager,
                contents_manager=self.contents_manager,
                kernel_env=_weak(self.get_kernel_env),
                boot_id=boot_id(),
                log=self.log,
            )
        )

    # Opening and closing

    async def open(self) -> None:
        """Open the store and recover the sessions of earlier servers.

        The first use opens the store, too. If the store cannot be used yet, this waits for a few
        seconds and then raises HTTPError 503. The opening continues in the background.
        """
        with _http_errors:
            await self._opened()

    def begin(self) -> None:
        """Begin to open the store in the background. Call it on the event loop."""
        self._opening.begin()

    async def stop(self) -> None:
        """Refuse new operations, and let running ones finish. Call it before kernels are ended."""
        await self._opening.stop()

    def close(self) -> None:
        """Close the store. Synchronous and idempotent. Later requests are answered with 503."""
        self._opening.close()

    async def _opened(self) -> SessionService:
        return await self._opening.opened()

    # Sessions

    def new_session_id(self) -> str:
        """Create a uuid for a new session."""
        return str(uuid.uuid4())

    async def session_exists(self, path: str | None) -> bool:
        """Return whether there is a session with this path whose kernel is not dead."""
        try:
            await self.get_session(path=path)
        except HTTPError as error:
            if error.status_code == 404:
                return False
            raise
        return True

    async def create_session(
        self,
        path: str | None = None,
        name: str | None = None,
        type: str | None = None,
        kernel_name: str | None = None,
        kernel_id: str | None = None,
    ) -> dict[str, Any]:
        """Return the session with this path. If there is none, create it with its kernel.

        Concurrent calls for one path start one kernel, and all return the same session. Without
        a path, each call creates a session. With ``kernel_id``, the kernel is attached if it is
        running, and otherwise started with that id.

        Raises HTTPError 400, 409, 500, 501 and 503, as described for the class.
        """
        request = NewSession(
            path=path, name=name, type=type, kernel_name=kernel_name, kernel_id=kernel_id
        )
        with _http_errors:
            return session_model(*await (await self._opened()).create(request))

    async def save_session(
        self,
        session_id: str,
        path: str | None = None,
        name: str | None = None,
        type: str | None = None,
        kernel_id: str | None = None,
    ) -> dict[str, Any]:
        """Create a session with this id for a running kernel, and return the session's model.

        Raises HTTPError 400 for an id that is in use or a kernel that is not running, 409, 503.
        """
        request = NewSession(path=path, name=name, type=type, kernel_id=kernel_id)
        with _http_errors:
            return session_model(*await (await self._opened()).save(session_id, request))

    async def get_session(self, **kwargs: str | None) -> dict[str, Any]:
        """Return the model of the oldest session with these values.

        Takes at least one of the columns session_id, path, name, type and kernel_id. Raises
        HTTPError 404 and 503.
        """
        if not kwargs:
            raise TypeError("must specify a column to query")
        _check_columns(kwargs)
        with _http_errors:
            return session_model(*await (await self._opened()).get(**kwargs))

    async def update_session(
        self, session_id: str, *, force_kernel_shutdown: bool = False, **kwargs: str | None
    ) -> None:
        """Change the columns path, name, type and kernel_id of a session.

        ``kernel_name`` starts a new kernel for the session. Its previous kernel is shut down if
        no other session uses that kernel, and in any case with ``force_kernel_shutdown``. A
        value of None leaves a column unchanged.

        Raises HTTPError 400 for an unknown kernel id, 404, 409, 500, 501, 503.
        """
        _check_columns(kwargs, also="kernel_name")
        given = {column: value for column, value in kwargs.items() if value is not None}
        patch = SessionPatch(**{column: given.get(column, UNSET) for column in kwargs})
        with _http_errors:
            service = await self._opened()
            await service.update(session_id, patch, force=force_kernel_shutdown)

    async def list_sessions(self) -> list[dict[str, Any]]:
        """Return the models of all sessions, oldest first."""
        with _http_errors:
            return list(starmap(session_model, await (await self._opened()).list_sessions()))

    async def encode_session(self, session_id: str) -> Encoded:
        """Return the session as replies show it, in JSON. Raises HTTPError 404 and 503.

        It is not made again if it has not changed since all sessions were listed last.
        """
        if not self._uses_own("get_session"):
            model: dict[str, Any] = await ensure_async(self.get_session(session_id=session_id))
            return Encoded(encode(reply_model(model)), None)
        with _http_errors:
            return await (await self._opened()).encode_session(session_id)

    async def encode_sessions(self, **columns: str) -> Encoded:
        """Return the sessions as ``GET /api/sessions`` lists them, in JSON.

        With any of the columns path, type and kernel_id, only the sessions with these values. Of
        the whole list, what has not changed since the last call is not made again.
        """
        if not self._uses_own("list_sessions"):
            models: list[dict[str, Any]] = await ensure_async(self.list_sessions())
            return Encoded(encode(reply_models(models, **columns)), None)
        with _http_errors:
            service = await self._opened()
            if not columns:
                return await service.encode_sessions()
            return Encoded(encode_list(await service.list_sessions(**columns)), None)

    def _uses_own(self, method: str) -> bool:
        """Return whether the method is that of this class.

        A subclass may return other sessions, or put more into their models.
        """
        used = getattr(getattr(self, method), "__func__", None)
        return used is getattr(AsyncSessionManager, method)

    async def delete_session(
        self, session_id: str, *, force_kernel_shutdown: bool = False
    ) -> None:
        """Remove a session, and shut its kernel down when no other session uses it.

        With ``force_kernel_shutdown`` the kernel is shut down in any case. Raises HTTPError
        404 and 503.
        """
        with _http_errors:
            await (await self._opened()).delete(session_id, force=force_kernel_shutdown)

    @property
    def namespace_id(self) -> str:
        """A text that identifies the namespace, but does not tell its name, which may be a path.

        Clients may compare it: servers have the same one if they have the same namespace.
        """
        return hashlib.sha256(self.namespace.encode(errors="backslashreplace")).hexdigest()[:16]

    async def get_status(
        self, session_ids: Collection[str], clients: Collection[str] = ()
    ) -> dict[str, Any]:
        """Return which of these sessions this server does not serve, and what clients had missed.

        The result is ``{"namespace": namespace_id, "missing": [{"id", "reason", "ended"}],
        "missed": [{"client", "lines", "lost", "problem", "is_complete"}]}``. *reason* is the value
        of an EndReason, *ended* a time, and each is None if it is not known. *missing* is None if
        that cannot be determined, because the store cannot be read. *missed* has an item for each
        of the clients of kernels that it is known of, see ``models.Missed``. Raises HTTPError 503
        after ``close``.
        """
        with _http_errors:
            missing = await self._find_missing(session_ids)
            missed = await self._find_missed(clients)
        return {"namespace": self.namespace_id, "missing": missing, "missed": missed}

    async def _find_missing(self, session_ids: Collection[str]) -> list[dict[str, Any]] | None:
        if self._opening.closed:
            raise ServiceClosed
        if not session_ids:
            return []
        try:
            missing = await (await self._opened()).find_missing(session_ids)
        except StoreError as error:
            self.log.debug("It is not known which sessions are missing: %s", error)
            return None
        return list(starmap(_missing_model, missing))

    async def _find_missed(self, clients: Collection[str]) -> list[dict[str, Any]]:
        if not clients:
            return []
        try:
            missed = (await self._opened()).find_missed(clients)
        except StoreError as error:
            self.log.debug("It is not known what clients had missed: %s", error)
            return []
        return list(map(asdict, missed))

    async def rename_document(self, old_path: str, new_path: str) -> None:
        """Give the sessions of a renamed file or folder their new path.

        Servers that load the extension call this themselves. Does nothing after ``close``.
        """
        if not self._opening.closed:
            with _http_errors:
                await (await self._opened()).rename(old_path, new_path)

    # Kernels

    def get_kernel_env(self, path: str | None, name: str | None = None) -> dict[str, str]:
        """Return the environment for a session's kernel: the server's, and JPY_SESSION_NAME.

        Subclasses may add variables.
        """
        if path is not None and name is not None:
            path = os.path.join(self.kernel_manager.cwd_for_path(path), name)
        session_name = path or name
        environ = without_store(os.environ) if self._is_remote else os.environ
        return {**environ, **({"JPY_SESSION_NAME": session_name} if session_name else {})}

    async def start_kernel_for_session(
        self,
        session_id: str,
        path: str | None,
        name: str | None,
        type: str | None,
        kernel_name: str | None,
        kernel_id: str | None = None,
    ) -> str:
        """Start a kernel and return its id. Creates no session. The caller manages the kernel."""
        request = NewSession(
            path=path, name=name, type=type, kernel_name=kernel_name, kernel_id=kernel_id
        )
        with _http_errors:
            kernel = await (await self._opened()).start_kernel(request, session_id)
        return kernel.kernel_id

    async def list_session_kernels(self) -> dict[str, set[str]]:
        """Return the ids of all sessions by the id of their kernel. Raises HTTPError 503."""
        with _http_errors:
            return await (await self._opened()).list_kernels()

    async def end_kernel(self, kernel_id: str, session_ids: Collection[str]) -> bool:
        """Shut down a kernel and end its sessions, if these are all its sessions.

        Returns whether this call has ended the kernel. Raises HTTPError 503.
        """
        with _http_errors:
            return await (await self._opened()).end_kernel(kernel_id, session_ids)

    async def outlive_server(self) -> bool:
        """Return whether other servers can go on with the sessions when this one has ended.

        Raises HTTPError 503.
        """
        with _http_errors:
            return (await self._opened()).outlives_server()

    async def kernel_culled(self, kernel_id: str) -> bool:
        """Return whether the kernel is dead."""
        with _http_errors:
            return not await (await self._opened()).has_kernel(kernel_id)

    async def row_to_model(
        self, row: Mapping[str, Any], tolerate_culled: bool = False
    ) -> dict[str, Any] | None:
        """Return the model of the session whose row has this session_id and kernel_id.

        If the kernel is dead, returns None with ``tolerate_culled``, and otherwise raises
        KeyError. Raises HTTPError 404 if the session is not in the store, and 503.
        """
        if await self.kernel_culled(row["kernel_id"]):
            if tolerate_culled:
                return None
            raise KeyError(f"Kernel {row['kernel_id']!r} of session {row['session_id']!r} is gone")
        return await self.get_session(session_id=row["session_id"])


def _missing_model(session_id: str, ending: Ending | None) -> dict[str, Any]:
    reason, ended = (None, None) if ending is None else (ending.reason.value, ending.ended)
    return {"id": session_id, "reason": reason, "ended": None if ended is None else _text(ended)}


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _weak(method: Callable[P, T]) -> Callable[P, T]:
    """Return a function that calls the bound method without keeping its object alive."""
    reference = weakref.WeakMethod(method)

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        bound = reference()
        assert bound is not None
        return bound(*args, **kwargs)

    return call


def _check_columns(columns: Mapping[str, object], also: str | None = None) -> None:
    for column in columns:
        if column not in _COLUMNS and column != also:
            raise TypeError(f"No such column: {column!r}")


class _HTTPErrors:
    """Turns SessionErrors into the HTTPErrors that callers of a session manager expect.

    This is a class because every lookup uses it, and a generator takes three times as long.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, SessionError):
            raise http_error(error) from error  # type: ignore[misc]  # every SessionError has one


_http_errors = _HTTPErrors()


def _private_folder() -> Path:
    return Path(jupyter_data_dir()).absolute() / "nbsessions"
