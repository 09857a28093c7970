"""The test command: creates the environments, checks the source tree and runs the tests.

    python3 tests/run.py [--environments] [arguments of pytest]

Needs only Python 3.10 or newer. The environments are created in .venv/ and reused by the next
run. With --environments, no checks or tests are run. With arguments for pytest, low coverage does
not fail the run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from preparation.commands import (
    HOME,
    ROOT,
    StepFailed,
    clean_environment,
    pip,
    program,
    say,
)
from preparation.environments import TEST, UPSTREAM, make_environments
from preparation.npm_packages import COMPILER, EXTENSION
from preparation.programs import ensure_programs

WORKERS = max(4, 2 * (os.cpu_count() or 1))
"""How many tests run at a time. Most of them wait for other processes most of the time."""

UPSTREAM_TESTS = "tests/services/sessions"
"""The part of jupyter_server's own tests that is run."""


def check(name: str, *arguments: str, env: dict[str, str] | None = None) -> None:
    """Run a program of the test environment in the source tree."""
    environment = {**clean_environment(), **(env or {})}
    done = subprocess.run([program(TEST, name), *arguments], cwd=ROOT, env=environment)
    if done.returncode != 0:
        raise StepFailed(f"exit code {done.returncode}")


def stop_ignoring_signals() -> None:
    """Make sure that SIGINT and SIGHUP are not ignored in the programs that tests start.

    A shell makes background processes ignore some signals, and their children inherit that. A
    handler is not inherited, so children start with the default action.
    """
    for name in ("SIGINT", "SIGHUP"):
        signum = getattr(signal, name, None)
        if signum is not None and signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, lambda *_: None)


def run_tests(arguments: Sequence[str]) -> None:
    """Run the tests and measure coverage, including that of the servers they start."""
    stop_ignoring_signals()
    check("coverage", "erase")
    # Run as a script: with -m, the package would be imported from the source tree.
    pytest = ["run", program(TEST, "pytest")]
    if arguments:
        check("coverage", *pytest, *arguments)
    else:
        # First, because it compiles all tests for the processes that then run in parallel.
        check("coverage", *pytest, "-m", "alone")
        # Tests of one file stay together, because they may share a server. The files keep their
        # order: those with browsers, which take the longest, come first.
        parallel = [f"--numprocesses={WORKERS}", "--dist=loadfile", "--no-loadscope-reorder"]
        check("coverage", *pytest, *parallel, "-m", "not alone")


def run_upstream_tests() -> None:
    """Run the session tests of the installed jupyter_server with our extension."""
    tests = fetch_upstream_tests()
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT / "tests" / "upstream")}
    arguments = ["-p", "nbsessions_in_their_tests", "--quiet", UPSTREAM_TESTS]
    command = [program(UPSTREAM, "python"), "-m", "pytest", *arguments]
    # One process for each kind of kernel manager. In one for all, kernels of the synchronous kind
    # fail at random, without our extension as well: sockets of earlier tests are collected late.
    kinds = [f"jp_server_config{number}" for number in range(4)]
    # One after the other: some of these tests expect a kernel not to be ready yet.
    for selection in (*kinds, f"not ({' or '.join(kinds)})"):
        done = subprocess.run([*command, "-k", selection], cwd=tests, env=environment)
        if done.returncode != 0:
            raise StepFailed(f"exit code {done.returncode}")


def fetch_upstream_tests() -> Path:
    """Return the folder with jupyter_server's tests, fetching them first: wheels lack them."""
    show = "from importlib.metadata import version; print(version('jupyter_server'))"
    command = [program(UPSTREAM, "python"), "-c", show]
    shown = subprocess.run(command, capture_output=True, text=True, env=clean_environment())
    release = f"jupyter_server-{shown.stdout.strip()}"
    folder = HOME / UPSTREAM / "sources"
    if not (folder / release / UPSTREAM_TESTS).exists():
        say(f"- {UPSTREAM}: fetching the tests of {release}")
        sources = ["--no-deps", "--no-binary", "jupyter_server", "--dest", str(folder)]
        pip(UPSTREAM, "download", *sources, release.replace("-", "=="))
        with tarfile.open(folder / f"{release}.tar.gz") as archive:
            # Leave out the package itself: it would be imported instead of the installed one.
            wanted = (f"{release}/tests/", f"{release}/pyproject.toml")
            members = [each for each in archive if each.name.startswith(wanted)]
            # Older Python releases have no extraction filters.
            options = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            archive.extractall(folder, members, **options)
    return folder / release


def report_coverage(arguments: Sequence[str]) -> None:
    check("coverage", "combine", "--quiet")
    check("coverage", "report", *(["--fail-under=0"] if arguments else []))


def main(arguments: list[str]) -> int:
    only_environments = "--environments" in arguments
    if only_environments:
        arguments.remove("--environments")
    steps = [("environments", make_environments), ("programs", ensure_programs)]
    if not only_environments:
        steps += [
            ("ruff check", lambda: check("ruff", "check", ".")),
            ("ruff format", lambda: check("ruff", "format", "--check", ".")),
            ("mypy", lambda: check("mypy")),
            ("tsc", lambda: check("node", str(COMPILER), "--project", str(EXTENSION))),
            ("lint-imports", lambda: check("lint-imports")),
            ("pytest", lambda: run_tests(arguments)),
            ("coverage", lambda: report_coverage(arguments)),
        ]
        if not arguments:
            steps.append(("jupyter_server's own tests", run_upstream_tests))
    for name, step in steps:
        say(f"== {name}")
        try:
            step()
        except StepFailed as error:
            say(f"{error}\n== failed: {name}")
            return 1
    say("== all is well")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
