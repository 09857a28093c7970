"""The test command: creates the environments, checks the source tree and runs the tests.

    python3 tests/run.py [--environments] [arguments of pytest]

Needs only Python 3.10 or newer. The environments are created in .venv/ and reused by the next
run. With --environments, no checks or tests are run. With arguments for pytest, low coverage does
not fail the run.
"""

from __future__ import annotations

import configparser
import functools
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".venv"
WINDOWS = sys.platform == "win32"
OLDEST_PYTHON = (3, 10)

TEST = "test"
UPSTREAM = "upstream"
ENVIRONMENTS = {
    TEST: ["{wheel}[dev,lab]"],
    "oldest": ["{wheel}", "{minimums}", "coverage>=7.10"],
    "notebook6": ["{wheel}[notebook6]", "coverage>=7.10"],
    UPSTREAM: ["{wheel}[server]", "jupyter_server[test]"],
}
"""The packages of each environment. Coverage is in those whose servers are measured.

``{minimums}`` stands for the oldest releases that setup.cfg allows for a server.
"""

STORES = "tests/stores"

UPSTREAM_TESTS = "tests/services/sessions"
"""The part of jupyter_server's own tests that is run."""

PROGRAMS = ("strace", "chromium", "openssl", "gcc")
"""Programs that tests run on Linux. Their Debian packages have the same names."""

PACKAGED = ("nbsessions", "etc", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
"""The files and folders that the package is built from."""


class StepFailed(Exception):
    """A step failed. The message says why, unless the output already does."""


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@functools.cache
def clean_environment() -> dict[str, str]:
    """Return the environment without variables that make Python find other packages."""
    return {
        **{
            name: value
            for name, value in os.environ.items()
            if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
        },
        "PYTHONNOUSERSITE": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def program(environment: str, name: str) -> str:
    """Return the path of a program in one of the environments."""
    folder, suffix = ("Scripts", ".exe") if WINDOWS else ("bin", "")
    return str(HOME / environment / folder / f"{name}{suffix}")


# The environments


def check_python() -> None:
    """Raise StepFailed if this Python cannot create virtual environments."""
    if sys.version_info < OLDEST_PYTHON:
        raise StepFailed(f"Python 3.10 or newer is needed, but this is {sys.version.split()[0]}.")
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
        raise StepFailed(
            "This Python cannot create virtual environments. On Debian and Ubuntu: "
            f"apt-get install {package} (or python3-venv)"
        )


def ensure_programs() -> None:
    """On Linux, install the programs that the tests run."""
    if not sys.platform.startswith("linux"):
        return
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if not missing:
        return
    names = " ".join(missing)
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise StepFailed(f"{names} missing; on Debian and Ubuntu: apt-get install {names}")
    say(f"- installing {names}")
    environment = {**clean_environment(), "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], ["apt-get", "install", "--yes", *missing]):
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
    missing = [name for name in missing if shutil.which(name) is None]
    if missing:
        raise StepFailed(f"apt-get could not install {' '.join(missing)}")


def make_environments() -> None:
    """Create or update all environments, in parallel."""
    check_python()
    HOME.mkdir(exist_ok=True)
    ensure_venv(TEST)
    wheel = build_wheel()
    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(make_environment, name, wheel) for name in ENVIRONMENTS]
    for job in jobs:
        job.result()


def make_environment(name: str, wheel: Path) -> None:
    """Install the packages that the environment needs, if they have changed."""
    ensure_venv(name)
    requirements = [
        requirement
        for each in ENVIRONMENTS[name]
        for requirement in (minimums() if each == "{minimums}" else [each.format(wheel=wheel)])
    ]
    needed = digest([ROOT / "setup.cfg"], *ENVIRONMENTS[name])
    stamp = HOME / name / "requirements.stamp"
    if not stamp.exists() or stamp.read_text() != needed:
        say(f"- {name}: installing its packages")
        pip(name, "install", "--upgrade", *requirements)
    package_stamp = HOME / name / "package.stamp"
    if not package_stamp.exists() or package_stamp.read_text() != wheel.parent.name:
        pip(name, "install", "--force-reinstall", "--no-deps", str(wheel))
    stamp.write_text(needed)
    package_stamp.write_text(wheel.parent.name)


def minimums() -> list[str]:
    """Return the packages that a server needs, each pinned to the oldest release allowed."""
    declared = configparser.ConfigParser()
    declared.read(ROOT / "setup.cfg")
    names = (
        *declared["options"]["install_requires"].split("\n"),
        *declared["options.extras_require"]["server"].split("\n"),
    )
    # Only the first comparison is about the version. The second one may be that of a marker.
    return [name.replace(">=", "==", 1) for name in names if name]


def ensure_venv(name: str) -> None:
    """Create the virtual environment, unless a working one with this Python version exists."""
    folder = HOME / name
    check = "import sys, pip; print(*sys.version_info[:2])"
    expected = f"{sys.version_info.major} {sys.version_info.minor}"
    python = program(name, "python")
    if Path(python).exists():
        found = subprocess.run(
            [python, "-c", check], capture_output=True, text=True, env=clean_environment()
        )
        if found.stdout.strip() == expected:
            return
    say(f"- {name}: creating {folder.relative_to(ROOT)}")
    run_quietly(name, [sys.executable, "-m", "venv", "--clear", str(folder)])


def build_wheel() -> Path:
    """Build the package from the tree unless it is up to date, and return its wheel.

    The wheel is built from the source distribution, as for users. Installing a wheel also installs
    the configuration files that enable the extension.
    """
    folder = HOME / "wheel" / digest(sorted(packaged_files()))
    wheels = list(folder.glob("*.whl"))
    if not wheels:
        say("- building the package")
        shutil.rmtree(HOME / "wheel", ignore_errors=True)
        # Leftovers of an earlier build would be packaged again.
        shutil.rmtree(ROOT / "build", ignore_errors=True)
        pip(TEST, "install", "build")
        run_quietly(TEST, [program(TEST, "python"), "-m", "build", "--outdir", str(folder)])
        shutil.rmtree(ROOT / "build", ignore_errors=True)
        wheels = list(folder.glob("*.whl"))
    return wheels[0]


def packaged_files() -> Iterator[Path]:
    for name in PACKAGED:
        path = ROOT / name
        files = path.rglob("*") if path.is_dir() else [path]
        yield from (each for each in files if each.is_file() and each.suffix != ".pyc")


def digest(files: Sequence[Path], *more: str) -> str:
    """Return a hash of the names and contents of the files, and of the strings in ``more``."""
    found = hashlib.sha256(repr(more).encode())
    for file in files:
        found.update(f"{file.relative_to(ROOT)}\0".encode())
        found.update(file.read_bytes())
    return found.hexdigest()[:16]


def pip(environment: str, *arguments: str) -> None:
    run_quietly(environment, [program(environment, "python"), "-m", "pip", *arguments])


def run_quietly(name: str, command: Sequence[str]) -> None:
    """Run a setup command. Its output is shown only if it fails."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        raise StepFailed(f"{done.stdout}\nin the environment {name!r}: {' '.join(command)}")


# The checks


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
        # The store tests race processes of their own, so they do not run in parallel. All other
        # tests do. Those of one file stay together, because they may share a server. The files
        # keep their order: the browser tests, which take the longest, come first.
        check("coverage", *pytest, STORES)
        parallel = ["--numprocesses=4", "--dist=loadfile", "--no-loadscope-reorder"]
        check("coverage", *pytest, *parallel, f"--ignore={STORES}")


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
