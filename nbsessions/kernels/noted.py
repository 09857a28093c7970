"""Which kernels have changed: what a kernel manager that can tell notes, and a dict that notes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class ModelChanges:
    """The ids of the kernels whose models have changed since they were last taken."""

    def __init__(self) -> None:
        self.complete = False
        """Whether every change is noted. If not, kernels have to be asked for their models."""
        self._kernel_ids: set[str] = set()
        self.add = self._kernel_ids.add
        """Notes a change. It is called for each message of a kernel, so it does no more."""

    def take(self) -> set[str]:
        """Return the ids of the kernels that have changed since the last call."""
        taken = self._kernel_ids.copy()
        self._kernel_ids.clear()
        return taken


class NotedDict(dict[str, T]):
    """A dict that calls ``changed`` with each key whose value was set or removed."""

    def __init__(self, contents: Mapping[str, T], changed: Callable[[str], object]) -> None:
        super().__init__(contents)
        self._changed = changed

    def __setitem__(self, key: str, value: T) -> None:
        super().__setitem__(key, value)
        self._changed(key)

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        self._changed(key)

    def pop(self, key: str, *default: Any) -> Any:
        value = super().pop(key, *default)
        self._changed(key)
        return value

    def popitem(self) -> tuple[str, T]:
        key, value = super().popitem()
        self._changed(key)
        return key, value

    def clear(self) -> None:
        for key in list(self):
            del self[key]

    def setdefault(self, key: str, default: Any = None) -> T:
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *others: Any, **more: T) -> None:
        for key, value in dict(*others, **more).items():
            self[key] = value

    def __ior__(self, other: Any) -> NotedDict[T]:  # type: ignore[override,misc]
        self.update(other)
        return self
