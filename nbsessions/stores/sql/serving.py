"""Decides whether any server serves a shared scope, or has done so not long ago."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from msgspec import Struct


class Sharer(Struct, frozen=True):
    """An owner that serves a shared scope, or that has open intents in it."""

    serves: bool
    """Whether the scope is that of the owner's own sessions."""
    is_dead: bool
    unseen_for: timedelta | None
    """How long ago it stopped, or else sent its last heartbeat. None if that is not known."""


def is_unserved(sharers: Iterable[Sharer], after: timedelta | None) -> bool:
    """Return whether all of them are dead, and none has served the scope for so long.

    False if the time is not known. With None, the time does not matter.
    """
    sharers = list(sharers)
    if not all(each.is_dead for each in sharers):
        return False
    if after is None:
        return True
    unseen = [each.unseen_for for each in sharers if each.serves]
    return bool(unseen) and all(each is not None and each >= after for each in unseen)
