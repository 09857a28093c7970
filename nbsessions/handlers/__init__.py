"""The REST API of sessions, for any Tornado application that authenticates its requests.

``session_handlers`` creates the routes from a base handler of the host application.
"""

from nbsessions.handlers.sessions import session_handlers

__all__ = ["session_handlers"]
