"""A store in PostgreSQL, for many servers on many machines."""

from nbsessions.stores.postgres.store import PostgresSessionStore

__all__ = ["PostgresSessionStore"]
