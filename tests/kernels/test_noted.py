"""What notes which kernels have changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nbsessions.kernels.noted import ModelChanges, NotedDict


def test_each_kernel_that_has_changed_is_taken_once() -> None:
    changes = ModelChanges()
    for kernel_id in "aba":
        changes.add(kernel_id)
    assert changes.take() == {"a", "b"}
    assert changes.take() == set()
    changes.add("a")
    assert changes.take() == {"a"}


def test_nothing_counts_as_complete_before_somebody_notes_changes() -> None:
    assert not ModelChanges().complete


def set_item(noted: dict[str, int]) -> None:
    noted["a"] = 2


def remove_item(noted: dict[str, int]) -> None:
    del noted["a"]


def add_in_place(noted: dict[str, int]) -> None:
    noted |= {"a": 3, "b": 3}


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        (set_item, ["a"]),
        (remove_item, ["a"]),
        (add_in_place, ["a", "b"]),
        (lambda noted: noted.pop("a"), ["a"]),
        (lambda noted: noted.pop("b", None), ["b"]),
        (lambda noted: noted.popitem(), ["z"]),
        (lambda noted: noted.clear(), ["a", "z"]),
        (lambda noted: noted.setdefault("b", 2), ["b"]),
        (lambda noted: noted.setdefault("a", 2), []),
        (lambda noted: noted.update({"a": 2}, b=2), ["a", "b"]),
        (lambda noted: noted.update([("b", 2)]), ["b"]),
    ],
)
def test_a_dict_tells_of_each_change_when_it_is_done(
    change: Callable[[dict[str, int]], Any], keys: list[str]
) -> None:
    told: list[tuple[str, int | None]] = []
    noted: NotedDict[int] = NotedDict(
        {"a": 1, "z": 1}, lambda key: told.append((key, noted.get(key)))
    )
    plain = {"a": 1, "z": 1}
    assert change(noted) == change(plain)
    assert noted == plain
    assert told == [(key, plain.get(key)) for key in keys]


def test_every_method_that_changes_a_dict_is_noted() -> None:
    reading = {
        *("__class__", "__class_getitem__", "__contains__", "__delattr__", "__dir__", "__doc__"),
        *("__eq__", "__format__", "__ge__", "__getattribute__", "__getitem__", "__getstate__"),
        *("__gt__", "__hash__", "__init__", "__init_subclass__", "__iter__", "__le__", "__len__"),
        *("__lt__", "__ne__", "__new__", "__or__", "__reduce__", "__reduce_ex__", "__repr__"),
        *("__reversed__", "__ror__", "__setattr__", "__sizeof__", "__str__", "__subclasshook__"),
        *("copy", "fromkeys", "get", "items", "keys", "values"),
    }
    assert set(dir(dict)) - reading == set(vars(NotedDict)) & set(dir(dict)) - reading


def test_a_key_that_is_missing_is_told_as_by_any_dict() -> None:
    noted: NotedDict[int] = NotedDict({}, lambda key: None)
    with pytest.raises(KeyError):
        noted.pop("a")
    with pytest.raises(KeyError):
        del noted["a"]
    with pytest.raises(KeyError):
        noted.popitem()
