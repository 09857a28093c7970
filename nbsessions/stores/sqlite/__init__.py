"""The default store, which is one SQLite file for all servers of a user."""

from nbsessions.stores.sqlite.store import SQLiteSessionStore

__all__ = ["SQLiteSessionStore"]
