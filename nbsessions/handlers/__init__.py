"""The REST API of sessions, for any Tornado application that authenticates its requests.

``session_handlers`` makes the routes from a base handler of the host.
"""

from nbsessions.handlers.sessions import session_handlers

__all__ = ["session_handlers"]
