"""Measures how long servers take to initialize, which includes loading their extensions.

Each one runs in a process that has imported jupyter_server before. To import it takes forty times
as long, and differs more from one start to the next than what an extension adds.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from jupyter_server.serverapp import ServerApp

_DIRECTORIES = ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR")


def initialize_in_new_process(folder: Path, extensions: dict[str, bool]) -> float:
    """Return the milliseconds that a server with these extensions takes in a forked process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_initialize, folder, extensions).result()


def _initialize(folder: Path, extensions: dict[str, bool]) -> float:
    os.environ.update({name: str(folder / name) for name in _DIRECTORIES})
    options = ["--no-browser", "--allow-root", "--log-level=CRITICAL"]
    enable = f"--ServerApp.jpserver_extensions={extensions}"
    server = ServerApp()
    begun = time.perf_counter()
    server.initialize([*options, enable, f"--ServerApp.root_dir={folder}"])
    return (time.perf_counter() - begun) * 1000
