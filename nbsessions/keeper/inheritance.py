"""What a keeper takes over from the one before it."""

from __future__ import annotations

from dataclasses import dataclass, field

from nbsessions.keeper.delivery import Delivery
from nbsessions.keeper.sockets import Subscription


@dataclass(kw_only=True)
class Inheritance:
    """What a keeper takes over from the one before it. Nothing, if that has not ended in time."""

    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    """By kernel id. They have begun before the earlier keeper ended."""
    deliveries: dict[str, Delivery] = field(default_factory=dict)
    """The connections of clients, by name."""

    def close(self) -> None:
        """Close what nobody has taken. Idempotent."""
        for group in (self.subscriptions, self.deliveries):
            while group:
                group.popitem()[1].close()
