"""The source distribution: it is whole, and a wheel built from it passes its own tests."""

from __future__ import annotations

import configparser
import operator
import re
import sys
import sysconfig
from pathlib import Path

from support.distribution import PIP, files_of_the_project, run
from support.environments import REPOSITORY
from support.server import StartServer

_TESTS = (
    "tests/test_sessionmanager.py",
    "tests/test_configuration.py",
    "tests/handlers/test_bodies.py",
    "tests/stores/test_contract.py",
    "tests/server/test_crash.py",
)
"""Some of each kind. All of them run on a wheel that is built from the same files."""


def test_it_has_all_files(sources: Path) -> None:
    packed = (each.relative_to(sources) for each in sources.rglob("*") if each.is_file())
    assert set(files_of_the_project()) - set(map(str, packed)) <= {".gitignore"}


def test_a_wheel_that_is_built_from_it_passes_its_tests(
    sources: Path, wheel: Path, tmp_path: Path
) -> None:
    # A new environment with this package, which finds all others in the environment of the tests.
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    scheme = {"base": str(tmp_path / "venv"), "platbase": str(tmp_path / "venv")}
    packages = Path(sysconfig.get_path("purelib", "posix_prefix", scheme))
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    python = tmp_path / "venv" / "bin" / "python"
    run(*PIP, "--python", python, "install", "--no-deps", wheel, cwd=tmp_path)

    run(python, "-m", "pytest", "-q", *_TESTS, cwd=sources)


def test_the_oldest_packages_that_it_declares_are_tested(start_server: StartServer) -> None:
    declared = configparser.ConfigParser()
    declared.read(REPOSITORY / "setup.cfg")
    server = declared["options.extras_require"]["server"]
    found = re.findall(
        r"^(\w+) >= ([\d.]+)(?:; python_version (<|>=) \"([\d.]+)\")?$",
        declared["options"]["install_requires"] + server,
        re.MULTILINE,
    )
    assert {"msgspec", "tornado", "traitlets", "jupyter_server"} <= {name for name, *_ in found}
    oldest = start_server("oldest", start=False)
    for name, minimum, comparison, python in found:
        applies = not python or {"<": operator.lt, ">=": operator.ge}[comparison](
            sys.version_info[:2], tuple(map(int, python.split(".")))
        )
        if applies:
            code = f"from importlib.metadata import version; print(version({name!r}))"
            version = oldest.run("-c", code).strip()
            assert f"{version}.0.0".startswith(f"{minimum}."), name


def test_the_oldest_pages_are_tested(start_server: StartServer) -> None:
    oldest = start_server("oldest", start=False)
    code = "import jupyterlab, notebook; print(jupyterlab.__version__, notebook.__version__)"
    lab, notebook = oldest.run("-c", code).split()
    assert (lab.startswith("4.0."), notebook.startswith("7.0.")) == (True, True), (lab, notebook)
