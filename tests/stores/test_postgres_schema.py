"""Who creates the tables in PostgreSQL, and who only uses them."""

from __future__ import annotations

import uuid

import psycopg
import pytest

from nbsessions.errors import StoreTooNew, StoreUnusable
from support.postgres import shared_cluster
from support.stores import Stores, ids
from support.values import make_owner, make_session

pytestmark = [
    pytest.mark.parametrize("stores", ["postgres"], indirect=True),
    pytest.mark.gen_test,
]


def schema_of(stores: Stores) -> str:
    return stores.url.rpartition("%3D")[2]


def use_role(stores: Stores) -> str:
    """Let further stores connect as a new role, which may not create tables. Return its name."""
    role = f"r{uuid.uuid4().hex}"
    shared_cluster().execute(f"CREATE ROLE {role} LOGIN")
    shared_cluster().execute(f"GRANT USAGE ON SCHEMA {schema_of(stores)} TO {role}")
    stores.url = stores.url.replace("postgres@", f"{role}@")
    return role


async def test_a_role_that_may_not_create_tables_uses_those_of_another(stores: Stores) -> None:
    await stores.open(make_owner("owner-1"))
    role = use_role(stores)
    shared_cluster().execute(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "
        f"{schema_of(stores)} TO {role}"
    )
    store = await stores.open(make_owner("owner-2"))
    session = await store.insert(make_session("a", scope="owner-2"))
    assert ids(await store.list_sessions()) == [session.session_id]


async def test_a_role_that_may_not_create_tables_is_told_who_can(stores: Stores) -> None:
    use_role(stores)
    with pytest.raises(StoreUnusable, match="Run `jupyter nbsessions database migrate`"):
        await stores.open()


async def test_a_database_of_an_incompatible_release_is_refused(stores: Stores) -> None:
    await stores.open(make_owner("owner-1"))
    with psycopg.connect(stores.url) as connection:
        connection.execute("UPDATE nbsessions_meta SET value = 1000")
    with pytest.raises(StoreTooNew, match="Upgrade nbsessions"):
        await stores.open(make_owner("owner-2"))


async def test_a_database_of_a_compatible_newer_release_is_used_as_it_is(stores: Stores) -> None:
    await stores.open(make_owner("owner-1"))
    with psycopg.connect(stores.url) as connection:
        connection.execute("UPDATE nbsessions_meta SET value = 1000 WHERE key = 'schema'")
        connection.execute("ALTER TABLE nbsessions_session ADD COLUMN newer text")
    store = await stores.open(make_owner("owner-2"))
    session = await store.insert(make_session("a", scope="owner-2"))
    assert ids(await store.list_sessions()) == [session.session_id]
    assert stores.rows("SELECT value FROM nbsessions_meta WHERE key = 'schema'") == [(1000,)]
