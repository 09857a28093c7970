"""Servers that listen otherwise: with a certificate of their own, or on a Unix socket."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from jupyter_server.auth import passwd

from nbsessions.cli.errors import ServerUnreachable
from nbsessions.cli.rest import ServerClient
from nbsessions.cli.running_servers import RunningServer
from support.cli import CommandLine
from support.server import Server, StartServer
from support.waiting import wait_until


@contextmanager
def running(server: Server, *arguments: str, level: str = "ok") -> Iterator[CommandLine]:
    """Run the server, which the other tests' client cannot talk to."""
    cli = CommandLine(server)
    with (server.folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [server.host.python, "-m", server.host.module, *arguments],
            cwd=server.folder,
            env=cli.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: list(server.runtime_dir.glob("jpserver-*.json")), "the server runs")
        wait_until(lambda: "server" in kinds(cli, level), "it is asked and answers")
        yield cli
    finally:
        process.terminate()
        process.wait(60)


def kinds(cli: CommandLine, level: str) -> set[str]:
    report = json.loads(cli("doctor", "--json").out)
    return {each["check"] for each in report["checks"] if each["level"] == level}


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate that nobody else has signed, for another name."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.fail("This test needs openssl: apt-get install openssl", pytrace=False)
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=elsewhere"]
    subprocess.run(
        [*command, "-keyout", key, "-out", certificate], check=True, capture_output=True
    )
    return key, certificate


def test_a_server_with_its_own_certificate_is_asked(start_server: StartServer) -> None:
    server = start_server(start=False)
    key, certificate = make_certificate(server.folder)
    arguments = ["--port=0", f"--keyfile={key}", f"--certfile={certificate}"]
    with running(server, *arguments) as cli:
        assert cli("list").err == "There are no sessions\n"


def test_a_server_on_a_unix_socket_is_asked(start_server: StartServer) -> None:
    server = start_server(start=False)
    # The length of such a path is limited.
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--ServerApp.ip=localhost", f"--sock={folder}/socket", "--sock-mode=0600"]
        with running(server, *arguments) as cli:
            assert cli("list").err == "There are no sessions\n"


def test_the_certificate_of_another_machine_has_to_be_signed(start_server: StartServer) -> None:
    server = start_server(start=False)
    key, certificate = make_certificate(server.folder)
    with running(
        server, "--port=0", f"--keyfile={key}", f"--certfile={certificate}", "--ip=0.0.0.0"
    ):
        (path,) = server.runtime_dir.glob("jpserver-*.json")
        port = json.loads(path.read_text())["port"]
        elsewhere = RunningServer(
            url=f"https://127.0.0.2:{port}/",
            pid=1,
            root_dir=None,
            host="127.0.0.2",
            port=port,
            base_url="/",
            secure=True,
            socket=None,
            token=server.token,
        )
        with pytest.raises(ServerUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
            ServerClient(elsewhere).list_sessions()


@pytest.mark.parametrize("token", ["", "a-token-of-mine"])
def test_a_server_behind_a_password_is_asked_if_it_has_a_token(
    start_server: StartServer, token: str
) -> None:
    server = start_server(start=False, environment={"JUPYTER_TOKEN": token})
    hashed = passwd("a password", "sha1")  # type: ignore[no-untyped-call]
    arguments = ["--port=0", f"--PasswordIdentityProvider.hashed_password={hashed}"]
    with running(server, *arguments, level="ok" if token else "warning") as cli:
        listed = cli("list")
    assert ("password" in listed.err) == (not token)
    assert ("JUPYTER_TOKEN" in listed.err) == (not token)


def test_a_token_is_not_shown_by_accident() -> None:
    server = RunningServer(
        url="http://localhost:1/",
        pid=1,
        root_dir=None,
        host="localhost",
        port=1,
        base_url="/",
        secure=False,
        socket=None,
        token="a secret",
    )
    assert "a secret" not in repr(server)
