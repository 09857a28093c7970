"""Finds the Python for each kind of server. They cannot all share one environment."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
QUICK_START = {"PYTHONPATH": str(Path(__file__).with_name("quick_start"))}
"""For the environment of programs that are neither servers under test nor kernels."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """A server application, and the interpreter of the environment that it is installed in."""

    python: str
    module: str
    """The module that ``python -m`` runs."""
    application: str
    """The configuration section with its options."""
    config_file: str
    """The name of its configuration file."""
    extensions: str
    """The option that enables and disables extensions."""
    root_dir: str
    """The option for the root directory."""
    keeps_kernel_ids: bool
    """Whether a kernel can be started under an id that a client chose."""


_LABS = ("lab", "oldest lab", "collaboration")
"""Hosts that run JupyterLab itself. The others only have it installed."""


def host(name: str) -> Host:
    """Return the host of a name.

    - ``newest`` and ``oldest`` are jupyter_server; both environments also have Notebook 7.
    - ``lab`` and ``oldest lab`` are JupyterLab in the same environments.
    - ``collaboration`` is JupyterLab with jupyter-collaboration.
    - ``notebook6`` is classic Notebook.

    Fails the test with a hint if its environment is missing.
    """
    if name == "notebook6":
        return Host(
            python=python_of("notebook6"),
            module="notebook",
            application="NotebookApp",
            config_file="jupyter_notebook_config.json",
            extensions="nbserver_extensions",
            root_dir="notebook_dir",
            keeps_kernel_ids=False,
        )
    environment = name.removesuffix(" lab")
    is_newest = environment in ("newest", "lab")
    return Host(
        python=sys.executable if is_newest else python_of(environment),
        module="jupyterlab" if name in _LABS else "jupyter_server",
        application="ServerApp",
        config_file="jupyter_server_config.json",
        extensions="jpserver_extensions",
        root_dir="root_dir",
        keeps_kernel_ids=environment != "oldest",
    )


def python_of(name: str) -> str:
    """Return the interpreter of an environment. Fails the test with a hint if it is missing."""
    variable = f"NBSESSIONS_{name.upper().replace('-', '_')}_PYTHON"
    python = Path(os.environ.get(variable) or REPOSITORY / ".venv" / name / "bin" / "python")
    if not python.exists():
        pytest.fail(
            f"This test needs the environment {name!r}, and {python} is missing: run "
            f"`python3 tests/run.py --environments`, or set {variable}.",
            pytrace=False,
        )
    return str(python)
