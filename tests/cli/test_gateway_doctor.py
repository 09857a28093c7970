"""``doctor`` beside real gateways, beside what is none, and beside what does not answer."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from support.cli import CommandLine, Ran
from support.gateway import TOKEN, USER, Gateway
from support.server import StartServer


@pytest.fixture
def cli(start_server: StartServer) -> CommandLine:
    server = start_server(start=False)
    server.environment["KERNEL_USERNAME"] = USER
    return CommandLine(server)


def examine(cli: CommandLine, url: str, *arguments: str, token: str = TOKEN) -> Ran:
    """Run ``doctor`` with this gateway, and check that it shows no traceback and no token."""
    environment = {"JUPYTER_GATEWAY_URL": url, "JUPYTER_GATEWAY_AUTH_TOKEN": token}
    ran = cli("doctor", "--json", *arguments, environment=environment)
    assert "Traceback" not in ran.err
    assert token not in ran.out + ran.err
    return ran


def findings(ran: Ran, level: str) -> dict[str, str]:
    """Return the messages of a level about the gateway, by check."""
    return {
        each["check"]: each["message"]
        for each in json.loads(ran.out)["checks"]
        if each["level"] == level and each["check"].startswith("gateway-")
    }


def hint_of(ran: Ran, check: str) -> str:
    (hint,) = (each["hint"] for each in json.loads(ran.out)["checks"] if each["check"] == check)
    return str(hint)


def test_all_is_well_with_a_gateway_that_answers(cli: CommandLine, gateway: Gateway) -> None:
    ran = examine(cli, gateway.url)
    assert not findings(ran, "warning")
    assert not findings(ran, "error")
    fine = findings(ran, "ok")
    assert fine["gateway-reachable"] == f"the gateway {gateway.url} answers"
    kind = {"kernel": "it is a Kernel Gateway", "enterprise": "it is Enterprise Gateway 3"}
    assert fine["gateway-version"].startswith(kind[gateway.kind])
    assert fine["gateway-listing"] == "it tells all its kernels in one reply"
    assert fine["gateway-clock"] == "its clock and ours agree"
    assert fine["gateway-latency"].endswith(" ms")
    assert "was not checked" in fine["gateway-kernel-ids"]
    assert gateway.kernel_processes() == []


def test_a_kernel_shows_whether_ids_are_kept_and_is_ended(
    cli: CommandLine, gateway: Gateway
) -> None:
    ran = examine(cli, gateway.url, "--start-kernel")
    assert "under the ids that servers choose" in findings(ran, "ok")["gateway-kernel-ids"]
    gateway.wait_for_kernels(0)


def test_a_gateway_that_does_not_list_its_kernels_is_a_warning(
    cli: CommandLine, silent_gateway: Gateway
) -> None:
    ran = examine(cli, silent_gateway.url)
    assert "a request for each kernel" in findings(ran, "warning")["gateway-listing"]
    assert "c.JupyterWebsocketPersonality.list_kernels = True" in hint_of(ran, "gateway-listing")


def test_a_wrong_token_and_a_wrong_path_are_errors(
    cli: CommandLine, silent_gateway: Gateway
) -> None:
    refused = examine(cli, silent_gateway.url, token="wrong-token")
    assert refused.status == 1
    assert "the answer is 401" in findings(refused, "error")["gateway-reachable"]
    assert "auth_token" in hint_of(refused, "gateway-reachable")
    lost = examine(cli, f"{silent_gateway.url}/base")
    assert "the answer is 404" in findings(lost, "error")["gateway-reachable"]
    assert "check the path" in hint_of(lost, "gateway-reachable")


def test_a_gateway_that_is_not_there_is_an_error(cli: CommandLine) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        ran = examine(cli, f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert ran.status == 1
    assert "no answer" in findings(ran, "error")["gateway-reachable"]
    assert "check that the gateway runs" in hint_of(ran, "gateway-reachable")


def test_a_gateway_that_does_not_answer_delays_the_doctor_only_for_seconds(
    cli: CommandLine,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        began = time.monotonic()
        ran = examine(cli, f"http://127.0.0.1:{mute.getsockname()[1]}")
        assert time.monotonic() - began < 25
    assert "no answer in 10 s" in findings(ran, "error")["gateway-reachable"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--GatewayClient.url=ftp://gateway"], "must start with 'http'"),
        (["--GatewayClient.headers={"], "the settings of the gateway client are wrong"),
        (["--GatewayClient.url=http://"], "cannot be used"),
        (
            ["--GatewayClient.url=https://127.0.0.1:1", "--GatewayClient.ca_certs=/missing"],
            "cannot be used",
        ),
    ],
)
def test_settings_that_cannot_be_used_are_errors(
    cli: CommandLine, arguments: list[str], message: str
) -> None:
    ran = examine(cli, "http://127.0.0.1:1", *arguments)
    assert ran.status == 1
    assert message in findings(ran, "error")["gateway-reachable"]


class OddHandler(BaseHTTPRequestHandler):
    """Answers as a gateway, except that its clock is wrong, and kernels have other ids."""

    about = '{"version": "2.0"}'

    def do_GET(self) -> None:
        self._tell(200, "[]" if self.path.endswith("kernels") else self.about)

    def do_POST(self) -> None:
        self._tell(201, '{"id": "another-id"}')

    def do_DELETE(self) -> None:
        self._tell(500, "{}")

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(time.time() - 3600)

    def log_message(self, *arguments: object) -> None:
        """Write no log."""

    def _tell(self, status: int, answer: str) -> None:
        content = answer.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def odd_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), OddHandler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_clock_that_is_wrong_is_a_warning(cli: CommandLine, odd_url: str) -> None:
    ran = examine(cli, odd_url)
    assert "3600 s behind ours" in findings(ran, "warning")["gateway-clock"]


def test_a_kernel_that_could_not_be_ended_is_named(cli: CommandLine, odd_url: str) -> None:
    ran = examine(cli, odd_url, "--start-kernel")
    assert "kernel another-id was started" in findings(ran, "error")["gateway-kernel-ids"]


def test_ids_that_are_not_kept_are_a_warning(
    cli: CommandLine, odd_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OddHandler, "do_DELETE", lambda handler: handler._tell(200, "{}"))
    ran = examine(cli, odd_url, "--start-kernel")
    assert "do not start under the ids" in findings(ran, "warning")["gateway-kernel-ids"]


def test_a_server_that_is_no_gateway_is_an_error(
    cli: CommandLine, odd_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OddHandler, "about", '["no gateway"]')
    ran = examine(cli, odd_url)
    assert "not that of a gateway" in findings(ran, "error")["gateway-reachable"]
