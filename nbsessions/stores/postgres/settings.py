"""How to connect, from the URL and the environment, as libpq does it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo
from traitlets import TraitError

_HOST = re.compile(r"(\[[^]]*\]|[^:]*)(:[0-9]*)?")
"""A host in a URL, with or without its port."""

LONGEST_NAMESPACE = 255
"""In bytes. A longer one would not fit in an index."""


def connection_settings(url: str) -> Mapping[str, str]:
    """Return the settings of libpq from the URL and from the environment variables of libpq.

    They are read now, because a server removes the variables from its environment later, so that
    kernels do not get them. Raises TraitError, without the URL: it may have a password.
    """
    _check_escapes(url)
    try:
        given = {key: str(value) for key, value in conninfo_to_dict(url).items()}
    except ProgrammingError as error:
        raise TraitError(
            f"`store_url`: not a URL of a PostgreSQL database: {_safe(error)}"
        ) from None
    known = {
        option.keyword.decode(): option.val.decode(errors="surrogateescape")
        for option in Conninfo.get_defaults()
        if option.val is not None and option.envvar and option.envvar.decode() in os.environ
    }
    return {**known, **given}


def check_namespace(namespace: str) -> str:
    """Return the namespace. Raises TraitError if it cannot be stored."""
    size = len(namespace.encode(errors="backslashreplace"))
    if not namespace or size > LONGEST_NAMESPACE or "\0" in namespace:
        raise TraitError(
            f"`namespace`: must have between 1 and {LONGEST_NAMESPACE} bytes, but has {size}"
        )
    return namespace


def _check_escapes(url: str) -> None:
    """Raise TraitError if libpq would take a part of the password for the host or the port.

    Messages name these.
    """
    rest = url.partition("://")[2]
    user = re.match(r"[^@/]*@", rest)
    address = rest[user.end() if user else 0 :].partition("?")[0]
    hosts = address.partition("/")[0].split(",")
    if "@" in address or not all(map(_HOST.fullmatch, hosts)):
        raise TraitError(
            "`store_url`: not a URL of a PostgreSQL database: in a password or a user's name, "
            "write `@` as %40 and `/` as %2F"
        )


def _safe(error: Exception) -> str:
    """Return the message of an error about the URL, unless it repeats a part of the URL."""
    message = str(error).strip()
    return message if '"' not in message else "it cannot be parsed"
