"""Which Python runs which kind of server: they cannot all be installed in one environment."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Host:
    """A server application, and the interpreter whose environment it is installed in."""

    python: str
    module: str
    """What ``python -m`` starts."""
    application: str
    """The section of its configuration."""
    config_file: str
    """Where its configuration is looked for."""
    extensions: str
    """The option that turns extensions on and off."""
    root_dir: str
    """The option that names the root directory."""
    keeps_kernel_ids: bool
    """Whether a kernel can be started under an id that a client chose."""


def host(name: str) -> Host:
    """Return the host ``newest``, ``oldest`` (jupyter_server), ``lab`` or ``notebook6``.

    Fails the test, with a hint, when its environment is missing.
    """
    if name == "notebook6":
        return Host(
            python=_other_python("notebook6"),
            module="notebook",
            application="NotebookApp",
            config_file="jupyter_notebook_config.json",
            extensions="nbserver_extensions",
            root_dir="notebook_dir",
            keeps_kernel_ids=False,
        )
    return Host(
        python=_other_python("oldest") if name == "oldest" else sys.executable,
        module="jupyterlab" if name == "lab" else "jupyter_server",
        application="ServerApp",
        config_file="jupyter_server_config.json",
        extensions="jpserver_extensions",
        root_dir="root_dir",
        keeps_kernel_ids=name != "oldest",
    )


def _other_python(name: str) -> str:
    variable = f"NBSESSIONS_{name.upper()}_PYTHON"
    python = Path(os.environ.get(variable) or REPOSITORY / ".venv" / name / "bin" / "python")
    if not python.exists():
        pytest.fail(
            f"This test needs the environment {name!r}, and {python} is missing: run "
            f"`python3 tests/run.py --environments`, or set {variable}.",
            pytrace=False,
        )
    return str(python)
