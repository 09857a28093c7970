"""What a server with a remote store finds in its environment, and what its kernels do not get."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from traitlets import TraitError

STORE_URL_VARIABLE = "NBSESSIONS_STORE_URL"

_PREFIX = "NBSESSIONS_"
"""Of variables that may have the store's URL."""

_LIBPQ = frozenset(
    {
        "PGAPPNAME",
        "PGCHANNELBINDING",
        "PGCLIENTENCODING",
        "PGCONNECT_TIMEOUT",
        "PGDATABASE",
        "PGDATESTYLE",
        "PGGEQO",
        "PGGSSDELEGATION",
        "PGGSSENCMODE",
        "PGGSSLIB",
        "PGHOST",
        "PGHOSTADDR",
        "PGKRBSRVNAME",
        "PGLOADBALANCEHOSTS",
        "PGLOCALEDIR",
        "PGMAXPROTOCOLVERSION",
        "PGMINPROTOCOLVERSION",
        "PGOAUTHCAFILE",
        "PGOAUTHDEBUG",
        "PGOPTIONS",
        "PGPASSFILE",
        "PGPASSWORD",
        "PGPORT",
        "PGREALM",
        "PGREQUIREAUTH",
        "PGREQUIREPEER",
        "PGREQUIRESSL",
        "PGSERVICE",
        "PGSERVICEFILE",
        "PGSSLCERT",
        "PGSSLCERTMODE",
        "PGSSLCOMPRESSION",
        "PGSSLCRL",
        "PGSSLCRLDIR",
        "PGSSLKEY",
        "PGSSLKEYLOGFILE",
        "PGSSLMAXPROTOCOLVERSION",
        "PGSSLMINPROTOCOLVERSION",
        "PGSSLMODE",
        "PGSSLNEGOTIATION",
        "PGSSLROOTCERT",
        "PGSSLSNI",
        "PGSYSCONFDIR",
        "PGTARGETSESSIONATTRS",
        "PGTTY",
        "PGTZ",
        "PGUSER",
    }
)
"""The variables that libpq reads: https://www.postgresql.org/docs/current/libpq-envars.html"""


def default_namespace(environ: Mapping[str, str]) -> str:
    """Return the namespace of a server that JupyterHub has started.

    It is the hub, the user and the server's name, which is empty for the user's default server.
    Raises TraitError for another server: its root directory may be the same as that of others,
    as in containers, and they would get its kernels.
    """
    user = environ.get("JUPYTERHUB_USER")
    if not user:
        raise TraitError(
            "`namespace`: a store that other servers share needs one. Set "
            "c.AsyncSessionManager.namespace to a name that only the servers have that serve the "
            "same sessions, for example the name of their user"
        )
    known = environ.get("JUPYTERHUB_PUBLIC_HUB_URL") or environ.get("JUPYTERHUB_API_URL", "")
    url = urlsplit(known)
    hub = url.netloc + url.path.partition("/hub/")[0].rstrip("/")
    return f"{hub}/{user}/{environ.get('JUPYTERHUB_SERVER_NAME', '')}"


def without_store(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the settings of the store, which may have a password."""
    return {
        key: value
        for key, value in environ.items()
        if not key.startswith(_PREFIX) and key not in _LIBPQ
    }
