"""The source distribution and the wheel, built once for all tests of them."""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path

import pytest

from support.distribution import PIP, copy_project, run


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source distribution."""
    project = tmp_path_factory.mktemp("project")
    copy_project(project)
    folder = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "build", "--sdist", "--outdir", folder, project, cwd=folder)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        options = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        opened.extractall(folder, **options)
    (unpacked,) = (each for each in folder.iterdir() if each.is_dir())
    return unpacked


@pytest.fixture(scope="session")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built from the source distribution."""
    folder = tmp_path_factory.mktemp("wheel")
    run(*PIP, "wheel", "--no-deps", "--wheel-dir", folder, sources, cwd=folder)
    (built,) = folder.iterdir()
    return built
