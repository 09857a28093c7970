"""What kernels do not get of the environment of a server with a remote store."""

from __future__ import annotations

from psycopg.pq import Conninfo

from nbsessions.environment import without_store


def test_all_that_libpq_reads_is_left_out() -> None:
    read = {option.envvar.decode() for option in Conninfo.get_defaults() if option.envvar}
    assert read
    names = {*read, "PGSERVICEFILE", "PGSYSCONFDIR", "PGREQUIRESSL", "NBSESSIONS_STORE_URL"}
    assert without_store(dict.fromkeys(names, "x")) == {}


def test_variables_of_other_programs_are_kept() -> None:
    environ = {"PGPLOT_DIR": "/pgplot", "PGI": "/pgi", "PGHOSTS": "x", "PATH": "/bin"}
    assert without_store(environ) == environ
