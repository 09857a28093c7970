"""How to connect, from the URL and the environment, as libpq does it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Conninfo, PGconn
from psycopg.pq.misc import ConninfoOption
from traitlets import TraitError

_HOST = re.compile(r"(\[[^]]*\]|[^:]*)(:[0-9]*)?")
"""A host in a URL, with or without its port."""

_CHECKED = ("target_session_attrs", "channel_binding")
"""Two parameters whose values libpq checks before it connects."""

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
        option.keyword.decode(): _text(option.val)
        for option in Conninfo.get_defaults()
        if option.val is not None and _is_in_environment(option)
    }
    settings = {**known, **given}
    return (_with_service(given) or settings) if "service" in settings else settings


def check_namespace(namespace: str) -> str:
    """Return the namespace. Raises TraitError if it cannot be stored."""
    size = len(namespace.encode(errors="backslashreplace"))
    if not namespace or size > LONGEST_NAMESPACE or "\0" in namespace:
        raise TraitError(
            f"`namespace`: must have between 1 and {LONGEST_NAMESPACE} bytes, but has {size}"
        )
    return namespace


def _with_service(given: Mapping[str, str]) -> Mapping[str, str] | None:
    """Return all settings, with those of the service instead of its name.

    Without PGSERVICEFILE and PGSYSCONFDIR, libpq would not find the service later. Returns None
    for a service that cannot be read, so that it keeps its name and the first connection says why.
    """
    found = dict(given)
    for wrong in _CHECKED:
        # libpq reads the service, and gives up at the wrong value before it connects.
        values = make_conninfo(**{**given, wrong: "-"})
        connection = PGconn.connect_start(values.encode(errors="surrogateescape"))
        options = [option for option in connection.info if option.val is not None]
        connection.finish()
        if not options:
            return None
        found |= {
            option.keyword.decode(): _text(option.val)
            for option in options
            if option.keyword.decode() != wrong
            and (option.val != option.compiled or _is_in_environment(option))
        }
    return {key: value for key, value in found.items() if key != "service"}


def _is_in_environment(option: ConninfoOption) -> bool:
    return option.envvar is not None and option.envvar.decode() in os.environ


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="surrogateescape")


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
