"""A real JupyterHub with its proxy, whose users' servers are processes that tests can kill."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import psutil
import pytest
import requests
from playwright.sync_api import Page

from support.environments import QUICK_START
from support.hub_settings import SERVICE_TOKEN, write_settings
from support.ports import reserve_server_port
from support.rest import RestClient
from support.waiting import wait_until

_PASSWORD = "any"  # The hub asks for one, and takes every one.
_TIMEOUT = 90.0
# What the users' servers log while there is no hub.
_HUB_IS_GONE = "Error notifying Hub of activity"
# JupyterLab empties the file of a page's layout before it writes it. A server that is killed in
# between leaves a file that the next one cannot read, until a page saves its layout again. The
# server logs the headers of each such request first.
_LAYOUT_IS_HALF_SAVED = r"500 GET \S+/lab/api/workspaces\b|App\] \{$"


class Hub(RestClient):
    """One hub. Its folder outlives its process, so it can be started again.

    Its own requests go to the hub, as a service that may do everything: ``/api/users`` and so on.
    """

    def __init__(
        self,
        folder: Path,
        *,
        users: tuple[str, ...] = ("ada",),
        cleanup_servers: bool = True,
        poll_interval: float = 1.0,
        activity_interval: int = 5,
        config: Mapping[str, Mapping[str, Any]] | None = None,
        environment: Mapping[str, str] | None = None,
        deployed: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """``config`` is added to the hub's, ``environment`` to that of the users' servers.

        ``deployed`` is a configuration to be tested as it is, which finds its ``variables`` in the
        environment of the hub, besides those that say where the hub is.

        Every ``poll_interval`` seconds, the hub looks whether servers are still running. Every
        ``activity_interval`` seconds, the servers report when they were last used.
        """
        super().__init__(base_url="/hub/", token=SERVICE_TOKEN)
        self.folder = folder
        self._log_file = folder / "hub.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._allowed_errors: list[str] = []
        self._holders = [reserve_server_port() for _ in range(3 + len(users))]
        self.port, hub_port, proxy_port, *user_ports = (
            holder.getsockname()[1] for holder in self._holders
        )
        for user in users:
            self.home(user).mkdir(parents=True)
        self._variables = {
            "HUB_URL": self.url,
            "HUB_API_PORT": str(hub_port),
            "HUB_PROXY_API_PORT": str(proxy_port),
            "HUB_FOLDER": str(folder),
            **(variables or {}),
        }
        self._config_file = write_settings(
            folder,
            {
                "JupyterHub": {
                    "bind_url": self.url,
                    "cleanup_servers": cleanup_servers,
                    "hub_port": hub_port,
                    "last_activity_interval": activity_interval,
                },
                "ConfigurableHTTPProxy": {"api_url": f"http://127.0.0.1:{proxy_port}"},
                "Spawner": {"poll_interval": poll_interval},
            },
            config or {},
            environment={
                "JUPYTERHUB_ACTIVITY_INTERVAL": str(activity_interval),
                **(environment or {}),
            },
            user_ports=dict(zip(users, user_ports, strict=True)),
            deployed=deployed,
        )

    @property
    def url(self) -> str:
        """The address of the proxy, through which all requests go."""
        return f"http://127.0.0.1:{self.port}"

    def home(self, user: str) -> Path:
        """Return the home folder of a user, which is also the server's root directory."""
        return self.folder / "home" / user

    # Life

    def start(self) -> Hub:
        """Start the hub and its proxy, and wait until they answer."""
        assert not self.is_running, "runs already"
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jupyterhub", "-f", self._config_file],
                cwd=self.folder,
                env={**_own_environment(), **self._variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._answers, "the hub answers", timeout=_TIMEOUT)
        return self

    def stop(self) -> int:
        """End the hub with SIGTERM and return its exit code.

        The users' servers end with it if ``cleanup_servers`` is true.
        """
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the hub with SIGKILL. Its proxy and the users' servers go on."""
        self._end(signal.SIGKILL)

    @property
    def is_running(self) -> bool:
        """Whether the hub's process is running."""
        return self._process is not None and self._process.poll() is None

    def _end(self, signum: int) -> int:
        assert self._process is not None
        self.allow_errors(_HUB_IS_GONE)
        self._process.send_signal(signum)
        try:
            return self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the hub did not end:\n{self.log}")

    def _answers(self) -> bool:
        if not self.is_running:
            pytest.fail(f"the hub ended:\n{self.log}")
        try:
            return self.request("GET", "/api/info").status == 200
        except OSError:
            return False

    # Users and their servers

    def log_in(self, user: str) -> requests.Session:
        """Log in as a browser does, and return a session with the cookies, to be closed."""
        session = requests.Session()
        login = f"{self.url}/hub/login"
        session.get(login, timeout=_TIMEOUT).raise_for_status()
        form = {"username": user, "password": _PASSWORD, "_xsrf": session.cookies["_xsrf"]}
        # Not followed: the next page would start the server.
        reply = session.post(login, data=form, timeout=_TIMEOUT, allow_redirects=False)
        assert reply.status_code == 302, (reply.status_code, reply.text)
        return session

    def log_in_page(self, page: Page, user: str, path: str = "/lab") -> None:
        """Log in with a browser's page, and go on to a path of the user's server.

        If the server is not running, the page then offers to start it.
        """
        page.goto(f"{self.url}/hub/login?next=/user/{user}{path}")
        self.fill_in_form(page, user)

    def fill_in_form(self, page: Page, user: str) -> None:
        """Log in with a page that shows the form."""
        page.locator("#username_input").fill(user)
        page.locator("#password_input").fill(_PASSWORD)
        page.locator("#login_submit").click()

    def start_user_server(self, user: str) -> RestClient:
        """Start the server of a user, and return a client for it."""
        known = self.request("POST", f"/api/users/{user}")
        assert known.status in (201, 409), (known.status, known.body)
        reply = self.request("POST", f"/api/users/{user}/server")
        assert reply.status in (201, 202), (reply.status, reply.body)
        wait_until(lambda: self._is_ready(user), f"{user}'s server is ready", timeout=_TIMEOUT)
        client = RestClient(base_url=f"/user/{user}/", token=SERVICE_TOKEN)
        client.port = self.port
        return client

    def stop_user_server(self, user: str) -> None:
        """Have the hub stop the server of a user, and wait until it has ended."""
        reply = self.request("DELETE", f"/api/users/{user}/server")
        assert reply.status in (202, 204), (reply.status, reply.body)
        self.wait_for_end(user)

    def server_pid(self, user: str) -> int:
        """Return the process id of the user's server, as the hub knows it."""
        model = self._server_model(user)
        assert model is not None, f"{user} has no server"
        pid: int = model["state"]["pid"]
        return pid

    def kill_user_server(self, user: str) -> None:
        """End the server of a user with SIGKILL, without waiting for the hub to notice."""
        self.allow_errors(_LAYOUT_IS_HALF_SAVED)
        os.kill(self.server_pid(user), signal.SIGKILL)

    def wait_for_end(self, user: str) -> None:
        """Wait until the hub knows that the user has no server."""
        wait_until(lambda: self._server_model(user) is None, f"{user}'s server is gone")

    def _is_ready(self, user: str) -> bool:
        model = self._server_model(user)
        return model is not None and bool(model["ready"])

    def _server_model(self, user: str) -> Mapping[str, Any] | None:
        reply = self.request("GET", f"/api/users/{user}")
        assert reply.status == 200, (reply.status, reply.body)
        model: Mapping[str, Any] | None = reply.json()["servers"].get("")
        return model

    # The log, and the end

    @property
    def log(self) -> str:
        """What the hub, its proxy and the users' servers have logged."""
        return self._log_file.read_text(errors="replace") if self._log_file.exists() else ""

    def allow_errors(self, pattern: str) -> None:
        """Allow ERROR lines that match the pattern, because the test provokes them."""
        self._allowed_errors.append(pattern)

    def unexpected_errors(self) -> list[str]:
        """Return ERROR lines of the hub and of the users' servers that no test expects."""
        return [
            line
            for line in self.log.splitlines()
            if line.startswith("[E ")
            and not any(re.search(each, line) for each in self._allowed_errors)
        ]

    def clean_up(self) -> None:
        """Kill everything that is still running: all that works in the hub's folder."""
        if self._process is not None and self.is_running:
            self.kill()
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if Path(process.cwd()).is_relative_to(self.folder):
                    process.kill()
        for holder in self._holders:
            holder.close()


class StartHub(Protocol):
    """Starts a hub that ends with the fixture. Takes the options of Hub."""

    def __call__(self, *, start: bool = True, **options: Any) -> Hub:
        """Return the hub. It is running unless ``start`` is false."""


@contextmanager
def hubs_in(folder: Path) -> Iterator[StartHub]:
    """Yield a function that starts hubs. Then check their logs for errors and end them."""
    hubs: list[Hub] = []

    def start_hub(*, start: bool = True, **options: Any) -> Hub:
        hub = Hub(folder / f"hub{len(hubs)}", **options)
        hubs.append(hub)
        return hub.start() if start else hub

    try:
        yield start_hub
        unexpected = [line for hub in hubs for line in hub.unexpected_errors()]
        if unexpected:
            pytest.fail("\n".join(["Unexpected errors in the log:", *unexpected]))
    finally:
        for hub in hubs:
            hub.clean_up()


def _own_environment() -> dict[str, str]:
    """Return the hub's environment, without what would reach into its settings."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("COVERAGE_", "JUPYTER", "JPY_", "PYTEST", "PYTHON"))
    }
    return {**inherited, **QUICK_START}
