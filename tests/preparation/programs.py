"""The programs that tests run on Linux."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from preparation.commands import StepFailed, clean_environment, say

PROGRAMS = ("strace", "chromium", "openssl", "gcc", "nginx", "pgbouncer")
"""Their Debian packages have the same names."""

POSTGRESQL = "postgresql"
"""The package of Debian's own version of PostgreSQL. The programs are not in the PATH."""

IRKERNEL = "r-cran-irkernel"
"""The package of the kernel for R, which brings R along."""

POLICY = Path("/usr/sbin/policy-rc.d")
"""What Debian's packages ask whether they may start their services."""

NO_CLUSTER = Path("/etc/postgresql-common/createcluster.d/nbsessions-tests.conf")
"""Tells the package of PostgreSQL to create no database, which later boots would start."""


def ensure_programs() -> None:
    """On Linux, install the programs that the tests run."""
    if not sys.platform.startswith("linux"):
        return
    missing = missing_programs()
    if not missing:
        return
    names = " ".join(missing)
    commands = installations(missing)
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        wanted = "; ".join(map(" ".join, commands))
        raise StepFailed(f"{names} missing; on Debian and Ubuntu: {wanted}")
    say(f"- installing {names}")
    environment = {**clean_environment(), "DEBIAN_FRONTEND": "noninteractive"}
    with services_kept_off(), databases_kept_off():
        for command in (["apt-get", "update"], *commands):
            subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
    missing = missing_programs()
    if missing:
        raise StepFailed(f"apt-get could not install {' '.join(missing)}")


def missing_programs() -> list[str]:
    """Return the programs that are not installed."""
    # Not everybody's PATH has the folder of nginx and PgBouncer.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if not list_postgresql():
        missing.append(POSTGRESQL)
    if not has_irkernel():
        missing.append(IRKERNEL)
    return missing


def installations(packages: Sequence[str]) -> list[list[str]]:
    """Return the commands that install Debian's packages."""
    install = ["apt-get", "install", "--yes"]
    others = [name for name in packages if name != IRKERNEL]
    commands = [[*install, *others]] if others else []
    if IRKERNEL in packages:
        # What it recommends takes 1.6 GB: hundreds of packages for R, and a Fortran compiler.
        commands.append([*install, "--no-install-recommends", IRKERNEL])
    return commands


def list_postgresql() -> list[Path]:
    """Return the folders with the programs of PostgreSQL's versions, as Debian installs them."""
    return sorted(each.parent for each in Path("/usr/lib/postgresql").glob("*/bin/postgres"))


def has_irkernel() -> bool:
    """Return whether R can load its kernel, wherever that comes from."""
    if shutil.which("Rscript") is None:
        return False
    load = ["Rscript", "-e", "loadNamespace('IRkernel')"]
    return subprocess.run(load, capture_output=True, check=False).returncode == 0


@contextmanager
def services_kept_off(policy: Path = POLICY) -> Iterator[None]:
    """Keep Debian's packages from starting services, unless the machine has its own policy."""
    try:
        descriptor = os.open(policy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755)
    except FileExistsError:
        yield
        return
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\nexit 101\n")  # "Not allowed."
        yield
    finally:
        policy.unlink()


@contextmanager
def databases_kept_off(file: Path = NO_CLUSTER) -> Iterator[None]:
    """Keep Debian's package of PostgreSQL from creating a database."""
    made = [each for each in file.parents[:2] if not each.exists()]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("create_main_cluster = false\n")
    try:
        yield
    finally:
        file.unlink()
        for folder in made:
            with suppress(OSError):  # The package has put something into it.
                folder.rmdir()
