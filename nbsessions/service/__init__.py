"""The use cases of sessions: the order of their steps, and how failed steps are undone.

Starts and stops of kernels are written to the store as intents before they happen, so that a
later run can find and complete the ones that a crash interrupted.
"""

from nbsessions.service.opening import ServiceOpening
from nbsessions.service.service import SessionService

__all__ = ["ServiceOpening", "SessionService"]
