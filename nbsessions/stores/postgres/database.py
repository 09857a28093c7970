"""The connections to the database: time limits, transactions, and errors."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from typing import Any, ClassVar

import psycopg
from psycopg import Connection, errors
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from nbsessions.errors import (
    InvalidRequest,
    StoreError,
    StoreUnavailable,
    StoreUncertain,
    StoreUnusable,
)
from nbsessions.stores.postgres.statements import BEGIN
from nbsessions.stores.sql.mark import StoreReverted

_CONNECT_TIMEOUT = 3
"""Seconds that an attempt to connect to one host of the URL may take."""

_CANCEL_TIMEOUT = 0.3
"""Seconds to tell the database that a query is not wanted any more."""

_LARGEST_POOL = 3
"""One connection for writes, and two for reads."""


class TimedConnection(Connection[Any]):
    """A connection whose operations fail at a deadline, also when the network is silent."""

    deadline: float | None = None
    """The moment on the monotonic clock when operations fail."""

    failures: ClassVar[deque[psycopg.Error]]
    """Why it was not possible to connect, the last time. A pool does not tell."""

    @classmethod
    def connect(cls, *args: Any, **kwargs: Any) -> Any:
        try:
            connection = super().connect(*args, **kwargs)
        except psycopg.Error as error:
            cls.failures.append(error)
            raise
        cls.failures.clear()
        return connection

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        if self.deadline is not None:
            kwargs["timeout"] = max(0.0, self.deadline - time.monotonic())
        return super().wait(gen, *args, **kwargs)


class ConnectionLost(StoreUnavailable):
    """The connection broke before a commit was sent, so nothing was written."""


class Conflict(StoreUnavailable):
    """The database rolled the transaction back. The same transaction may succeed now."""


class Database:
    """A pool of connections to one database. All methods block; call them off the event loop."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        """``settings`` are those of libpq. They may have a password, which is never logged."""
        # The pool would log each attempt to connect. Callers get the errors.
        logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
        self.settings = settings
        self.name = _name(settings)
        """Where the database is, for messages."""
        self._failures: deque[psycopg.Error] = deque(maxlen=1)
        self._kind: type[TimedConnection] = type(
            "Connection", (TimedConnection,), {"failures": self._failures}
        )
        self._parameters: dict[str, Any] = {
            "connect_timeout": str(_CONNECT_TIMEOUT),
            "application_name": "nbsessions",
            "keepalives_idle": "30",
            "keepalives_interval": "10",
            "keepalives_count": "3",
            **settings,
            "autocommit": True,
            # Poolers give each transaction another connection, which lacks what the last one has
            # prepared.
            "prepare_threshold": None,
        }
        self._pool: ConnectionPool[TimedConnection] = ConnectionPool(
            kwargs=self._parameters,
            connection_class=self._kind,
            min_size=1,
            max_size=_LARGEST_POOL,
            # A new attempt to connect begins with the next request, not after a long pause.
            reconnect_timeout=2.0,
            max_idle=300.0,
            open=False,
            name="nbsessions",
        )

    def open(self) -> None:
        """Begin to connect, without waiting for it. Idempotent."""
        if self._pool.closed:
            self._pool.open(wait=False)

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self._pool.close(timeout=2.0)

    @contextmanager
    def connection(
        self, timeout: float, *, wait: float = _CONNECT_TIMEOUT
    ) -> Iterator[TimedConnection]:
        """Yield a connection whose operations end within ``timeout`` seconds.

        It takes ``wait`` seconds of these at most to get one. Raises StoreError instead of
        psycopg.Error.
        """
        deadline = time.monotonic() + timeout
        try:
            with self._pool.connection(timeout=min(wait, timeout)) as connection:
                connection.deadline = deadline
                try:
                    yield connection
                finally:
                    connection.deadline = None
                    if connection.pgconn.transaction_status == TransactionStatus.ACTIVE:
                        # The answer to a query that timed out may still come. Where it waits for
                        # a lock, the database would not notice that nobody wants it.
                        with suppress(psycopg.Error):
                            connection.cancel_safe(timeout=_CANCEL_TIMEOUT)
                        connection.close()
                    if connection.closed:
                        # The others lead to the same server, which may have ended.
                        self._pool.drain()
        except PoolTimeout as error:
            raise self.error((*self._failures, error)[0]) from error
        except (psycopg.Error, PoolClosed) as error:
            raise self.error(error) from error

    @contextmanager
    def single_connection(self, timeout: float) -> Iterator[TimedConnection]:
        """Yield a new connection outside of the pool, which need not be open.

        Its operations end within ``timeout`` seconds. A password is tried only once. Raises
        StoreError instead of psycopg.Error.
        """
        try:
            with closing(self._kind.connect(**self._parameters)) as connection:
                connection.deadline = time.monotonic() + timeout
                yield connection
        except psycopg.Error as error:
            known = self.error(error)
            if not isinstance(known, StoreError):
                known = StoreUnusable(self._problem(error))
            raise known from error

    @contextmanager
    def transaction(self, connection: TimedConnection) -> Iterator[None]:
        """Run the body in one transaction. Roll it back when the body raises an error.

        Raises Conflict or ConnectionLost when nothing was written and the transaction may be
        tried again, and StoreUncertain when it is not known whether the commit succeeded.
        """
        try:
            connection.execute(BEGIN)
            yield
        except BaseException as error:
            with suppress(psycopg.Error):
                connection.execute("ROLLBACK")
            if isinstance(error, errors.ReadOnlySqlTransaction):
                connection.close()  # This host is a standby now.
            if isinstance(error, psycopg.Error):
                raise self.error(error, connection) from error
            raise
        self._commit(connection)

    def _commit(self, connection: TimedConnection) -> None:
        try:
            connection.execute("COMMIT")
        except (errors.SerializationFailure, errors.DeadlockDetected) as error:
            raise Conflict(str(error)) from error
        except psycopg.Error as error:
            connection.close()
            raise StoreUncertain(
                f"it is not known whether the session store {self.name} saved a change: "
                f"{_first_line(error)}"
            ) from error

    def error(self, error: Exception, connection: Connection | None = None) -> Exception:
        """Return the SessionError for an error of psycopg, or the error itself if it is a bug."""
        text = self._problem(error)
        if isinstance(error, (errors.SerializationFailure, errors.DeadlockDetected)):
            return Conflict(text)
        if isinstance(error, psycopg.DataError):
            return InvalidRequest("text", f"cannot be stored: {_first_line(error)}")
        if isinstance(error, errors.UndefinedTable):
            return StoreReverted(text)
        if isinstance(error, errors.InsufficientPrivilege):
            return StoreUnusable(text)
        if isinstance(error, psycopg.ProgrammingError):
            return error
        if connection is not None and connection.broken:
            return ConnectionLost(text)
        return StoreUnavailable(text)

    def _problem(self, error: Exception) -> str:
        return f"the session store {self.name} cannot be used: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _name(settings: Mapping[str, str]) -> str:
    """Return where the database is, without any secret."""
    host = settings.get("host") or settings.get("hostaddr") or settings.get("service") or "local"
    port = settings.get("port")
    name = settings.get("dbname", "")
    return f"postgresql://{host}{f':{port}' if port else ''}/{name}"
