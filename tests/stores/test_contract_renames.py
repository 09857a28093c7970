"""The contract of session stores, continued: renames of documents and of folders."""

from __future__ import annotations

from datetime import timedelta

import pytest

from nbsessions.models import utcnow
from nbsessions.stores.base import SessionStore
from support.contract import state
from support.stores import KINDS, NAMESPACE, OTHER_NAMESPACE, Stores, ids
from support.values import make_owner, make_session, make_start

pytestmark = pytest.mark.parametrize("stores", KINDS, indirect=True)


async def paths(store: SessionStore) -> list[str | None]:
    """Return the paths of all sessions, oldest first."""
    return [session.path for session in await store.list_sessions()]


@pytest.mark.gen_test
async def test_a_renamed_document_takes_its_session_along(store: SessionStore) -> None:
    before = await store.insert(
        make_session("d/a.ipynb", created=utcnow() - timedelta(hours=1), name="a.ipynb")
    )
    [after] = await store.rename_document("d/a.ipynb", "e/b.ipynb")
    assert (after.path, after.name) == ("e/b.ipynb", "b.ipynb")
    assert (after.session_id, after.kernel_id, after.created, after.seq) == (
        before.session_id,
        before.kernel_id,
        before.created,
        before.seq,
    )
    assert after.last_activity > before.last_activity
    assert await store.find_session(before.session_id) == after
    assert await store.list_by_document("e/b.ipynb") == [after]
    assert await store.list_by_document("d/a.ipynb") == []


@pytest.mark.gen_test
async def test_a_renamed_folder_takes_all_below_it_along(store: SessionStore) -> None:
    for path in ("a/x.ipynb", "a/b/y.ipynb", "a", "a/a/a"):
        await store.insert(make_session(path))
    renamed = await store.rename_document("a", "c/d")
    moved = ["c/d/x.ipynb", "c/d/b/y.ipynb", "c/d", "c/d/a/a"]
    assert [session.path for session in renamed] == moved
    assert await paths(store) == moved


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "path", ["ab.ipynb", "a.ipynb", "a0", "a-b/x", "b/a/x.ipynb", "A/x.ipynb", "", None]
)
async def test_what_only_looks_alike_stays(store: SessionStore, path: str | None) -> None:
    await store.insert(make_session(path))
    before = await state(store)
    assert list(await store.rename_document("a", "c")) == []
    assert await state(store) == before


@pytest.mark.gen_test
@pytest.mark.parametrize("old", ["100%", "a_b", "[x]", "*", "é", "日本", "\U0001f600"])
async def test_characters_of_patterns_and_of_all_scripts_are_nothing_special(
    store: SessionStore, old: str
) -> None:
    await store.insert(make_session(f"{old}/x.ipynb"))
    await store.insert(make_session("100c/a-b/x/xx/e"))
    await store.rename_document(old, f"new {old}")
    assert await paths(store) == [f"new {old}/x.ipynb", "100c/a-b/x/xx/e"]


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("before", "after"), [("/a/x", "/b/x"), ("a/x/", "b/x/"), ("//a/x", "//b/x"), ("a/x", "b/x")]
)
async def test_the_slashes_around_a_path_stay(
    store: SessionStore, before: str, after: str
) -> None:
    await store.insert(make_session(before))
    await store.rename_document("a", "b")
    assert await paths(store) == [after]


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("before", "after"),
    [("x.ipynb", "y.ipynb"), ("Analysis", "Analysis"), ("", ""), (None, None)],
)
async def test_a_name_follows_if_it_was_the_last_part_of_the_path(
    store: SessionStore, before: str | None, after: str | None
) -> None:
    await store.insert(make_session("/d/x.ipynb", name=before))
    [session] = await store.rename_document("d/x.ipynb", "d/y.ipynb")
    assert (session.path, session.name) == ("/d/y.ipynb", after)


@pytest.mark.gen_test
async def test_a_name_stays_when_a_folder_is_renamed(store: SessionStore) -> None:
    await store.insert(make_session("d/x.ipynb", name="x.ipynb"))
    [session] = await store.rename_document("d", "x.ipynb")
    assert (session.path, session.name) == ("x.ipynb/x.ipynb", "x.ipynb")


@pytest.mark.gen_test
async def test_a_rename_onto_a_held_path_keeps_both_sessions(store: SessionStore) -> None:
    first = await store.insert(make_session("a"))
    second = await store.insert(make_session("b"))
    await store.rename_document("b", "a")
    assert ids(await store.list_sessions()) == ids([first, second])
    assert await paths(store) == ["a", "a"]
    assert ids(await store.list_by_document("a")) == ids([first, second])
    assert list(await store.list_intents()) == []


@pytest.mark.gen_test
async def test_a_rename_to_the_same_path_changes_nothing(store: SessionStore) -> None:
    await store.insert(make_session("a"))
    before = await state(store)
    assert list(await store.rename_document("a", "a")) == []
    assert await state(store) == before


@pytest.mark.gen_test
async def test_several_sessions_of_one_document_go_together(store: SessionStore) -> None:
    notebook = await store.insert(make_session("a", type="notebook"))
    await store.insert(make_session("/a", type="console", kernel_id=notebook.kernel_id))
    await store.rename_document("a", "b")
    assert await paths(store) == ["b", "/b"]


@pytest.mark.gen_test
async def test_a_rename_leaves_intents_alone(store: SessionStore) -> None:
    start = make_start("a")
    await store.acquire(start)
    await store.rename_document("a", "b")
    assert list(await store.list_intents()) == [start]


@pytest.mark.gen_test
async def test_sessions_of_others_stay(stores: Stores) -> None:
    mine = await stores.open()
    other = await stores.open(make_owner("other"), NAMESPACE)
    elsewhere = await stores.open(make_owner("elsewhere"), OTHER_NAMESPACE)
    await other.insert(make_session("a", scope="other"))
    await elsewhere.insert(make_session("a", scope="elsewhere"))
    assert list(await mine.rename_document("a", "b")) == []
    assert await paths(other) == ["a"]
    assert await paths(elsewhere) == ["a"]
