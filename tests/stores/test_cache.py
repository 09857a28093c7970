"""The cache of sessions, and the order in which it applies reads and writes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from nbsessions.models import Session
from nbsessions.stores.cache import SessionCache
from support.values import make_session

A, B, C = (make_session(path, session_id=path) for path in "abc")


@pytest.fixture
def cache() -> SessionCache:
    """A cache that contains A and reflects revision 5 of the first file."""
    made = SessionCache()
    made.replace((1, 5), [A])
    return made


def test_a_cache_is_at_the_version_that_was_read(cache: SessionCache) -> None:
    assert cache.is_at((1, 5))
    assert not cache.is_at((1, 6))
    assert not cache.is_at((2, 5))
    assert not SessionCache().is_at((0, 0))


def test_a_write_of_our_own_takes_the_cache_with_it(cache: SessionCache) -> None:
    cache.apply(1, 5, 6, {"b": B})
    assert cache.is_at((1, 6))
    cache.apply(1, 6, 7, {"a": None, "unknown": None})
    assert cache.is_at((1, 7))
    assert cache.list_sessions() == [B]


def test_after_a_write_of_others_the_cache_is_read_again(cache: SessionCache) -> None:
    cache.apply(1, 6, 7, {"b": B})
    assert not cache.is_at((1, 5))
    assert not cache.is_at((1, 7))
    assert cache.list_sessions() == [A, B]


def test_a_write_that_was_read_already_changes_nothing(cache: SessionCache) -> None:
    cache.replace((1, 7), [A])  # B was written and removed before this read
    cache.apply(1, 5, 6, {"b": B})
    assert cache.list_sessions() == [A]
    assert cache.is_at((1, 7))


def test_what_was_read_before_a_write_of_our_own_does_not_take_it_back(
    cache: SessionCache,
) -> None:
    cache.apply(1, 6, 7, {"b": B})
    cache.replace((1, 6), [A])
    assert cache.list_sessions() == [A, B]
    cache.replace((1, 7), [A, B])
    assert cache.is_at((1, 7))


def test_what_was_read_of_an_older_file_does_not_count(cache: SessionCache) -> None:
    cache.apply(2, 0, 1, {"b": B})
    cache.replace((1, 6), [A])
    assert cache.list_sessions() == [A, B]


def test_what_was_read_before_the_first_write_does_not_take_it_back() -> None:
    cache = SessionCache()
    cache.apply(1, 1, 2, {"a": A})
    cache.replace((1, 1), [])
    assert cache.list_sessions() == [A]


def test_nobody_sees_a_half_of_what_is_read(cache: SessionCache) -> None:
    seen = []

    def read() -> Iterator[Session]:
        for session in (A, B, C):
            seen.append(cache.list_sessions())
            yield session

    cache.replace((1, 6), read())
    assert seen == [[A]] * 3
    assert cache.list_sessions() == [A, B, C]


def test_sessions_that_are_older_than_what_is_there_come_first(cache: SessionCache) -> None:
    older, newer = replace(B, seq=-1), replace(C, seq=1)
    cache.apply(1, 5, 6, {"c": newer, "b": older})
    assert cache.list_sessions() == [older, A, newer]


def test_sessions_that_come_at_once_in_any_order_are_listed_oldest_first() -> None:
    cache = SessionCache()
    taken = [replace(make_session(f"{number}"), seq=number) for number in (3, 1, 2)]
    cache.apply(1, 0, 1, {session.session_id: session for session in taken})
    assert [session.seq for session in cache.list_sessions()] == [1, 2, 3]


def test_documents_follow_their_sessions(cache: SessionCache) -> None:
    moved = make_session("b", session_id="a")
    cache.apply(1, 5, 6, {"a": moved, "c": C})
    assert cache.list_by_document("a") == []
    assert cache.list_by_document("b") == [moved]
    cache.apply(1, 6, 7, {"a": None})
    assert cache.list_by_document("b") == []
    assert cache.find("a") is None
    assert cache.find("c") == C


def test_kernels_follow_their_sessions(cache: SessionCache) -> None:
    moved = replace(A, kernel_id="new")
    cache.apply(1, 5, 6, {"a": moved})
    assert cache.list_by_kernel(A.kernel_id) == []
    assert cache.list_by_kernel("new") == [moved]
    cache.replace((1, 7), [moved, replace(B, kernel_id="new")])
    assert [each.session_id for each in cache.list_by_kernel("new")] == ["a", "b"]
    cache.apply(1, 7, 8, {"a": None, "b": None})
    assert cache.list_by_kernel("new") == []


def test_a_snapshot_is_the_same_object_until_something_changes(cache: SessionCache) -> None:
    before = cache.snapshot()
    assert cache.snapshot() is before
    cache.apply(1, 5, 6, {"unknown": None})
    assert cache.snapshot() is before
    cache.apply(1, 6, 7, {"b": B})
    after = cache.snapshot()
    assert (before, after) == ([A], [A, B])
    cache.apply(1, 7, 8, {"b": None})
    assert cache.snapshot() == [A]


def test_what_is_read_again_and_has_not_changed_stays_the_same(cache: SessionCache) -> None:
    before = cache.snapshot()
    cache.replace((1, 6), [replace(A)])
    assert cache.snapshot() is before
    cache.replace((1, 7), [replace(A), B])
    assert cache.snapshot()[0] is before[0]
    cache.replace((1, 8), [replace(A, name="new"), B])
    assert [each.name for each in cache.snapshot()] == ["new", B.name]
    cache.replace((1, 9), [B, replace(A, name="new")])
    assert [each.session_id for each in cache.snapshot()] == ["b", "a"]
