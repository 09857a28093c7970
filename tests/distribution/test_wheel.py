"""The wheel: it installs the page's part of the extension, small and whole."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import pytest

from nbsessions import __version__
from support.distribution import run
from support.environments import REPOSITORY

SOURCES = REPOSITORY / "nbsessions" / "labextension"
SCRIPTS = sorted(path.name for path in (SOURCES / "static").glob("*.js"))
LARGEST = 10_000
"""In bytes, what a page may have to load."""


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the extension, as the wheel installs it."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    (data,) = folder.glob("*.data/data")
    return data / "share" / "jupyter" / "labextensions" / "nbsessions"


def test_it_installs_what_the_page_needs_and_nothing_else(installed: Path) -> None:
    files = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    assert files == {"package.json", "install.json", *(f"static/{name}" for name in SCRIPTS)}


def test_the_package_itself_has_no_second_copy(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert [name for name in archive.namelist() if name.startswith("nbsessions/lab")] == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_without_comments_a_script_is_still_valid(installed: Path, name: str) -> None:
    script = installed / "static" / name
    assert script.stat().st_size < (SOURCES / "static" / name).stat().st_size
    run(Path(sys.executable).with_name("node"), "--check", script, cwd=installed)


def test_a_page_loads_little(installed: Path) -> None:
    assert (installed / "static" / "nbsessions.js").stat().st_size < LARGEST


def test_the_page_and_the_package_have_one_version(installed: Path) -> None:
    description = json.loads((installed / "package.json").read_text())
    assert description["version"] == __version__
    load = description["jupyterlab"]["_build"]["load"]
    assert (installed / load).exists()
