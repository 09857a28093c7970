"""The wheel of the package."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from preparation.commands import HOME, ROOT, digest, pip, program, run_quietly, say

PACKAGED = (
    "nbsessions",
    "etc",
    "setup.cfg",
    "setup.py",
    "pyproject.toml",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
)
"""The files and folders that the package is built from."""


def build_wheel(environment: str) -> Path:
    """Build the package from the tree unless it is up to date, and return its wheel.

    The wheel is built from the source distribution, as for users. Installing a wheel also installs
    the files that enable the extension, and the page's part of it.
    """
    folder = HOME / "wheel" / digest(sorted(_packaged_files()))
    wheels = list(folder.glob("*.whl"))
    if not wheels:
        say("- building the package")
        shutil.rmtree(HOME / "wheel", ignore_errors=True)
        # Leftovers of an earlier build would be packaged again.
        shutil.rmtree(ROOT / "build", ignore_errors=True)
        pip(environment, "install", "build")
        build = [program(environment, "python"), "-m", "build", "--outdir", str(folder)]
        run_quietly(environment, build)
        shutil.rmtree(ROOT / "build", ignore_errors=True)
        wheels = list(folder.glob("*.whl"))
    return wheels[0]


def _packaged_files() -> Iterator[Path]:
    for name in PACKAGED:
        path = ROOT / name
        files = path.rglob("*") if path.is_dir() else [path]
        yield from (each for each in files if each.is_file() and each.suffix != ".pyc")
