"""The use cases of sessions: what happens in which order, and how it is undone.

Starts and stops of kernels are written to the store as intents before they happen, so that a
later run finds and finishes whatever a crash interrupted.
"""

from nbsessions.service.opening import ServiceOpening
from nbsessions.service.service import SessionService

__all__ = ["ServiceOpening", "SessionService"]
