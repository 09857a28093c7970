"""Servers whose kernels a Kernel Gateway or an Enterprise Gateway runs."""

from __future__ import annotations

import json
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path

import pytest
import websocket

from support.channel import Channel
from support.gateway import GATEWAYS, OLDEST_GATEWAYS, TOKEN, Gateway
from support.gateway_proxy import gateway_proxy
from support.gateway_servers import ids, start_behind
from support.server import StartServer
from support.waiting import wait_until


def test_sessions_kernels_and_variables_outlive_a_kill(
    start_server: StartServer, gateway: Gateway, store_url: str
) -> None:
    server = start_behind(start_server, gateway, store_url)
    model = server.create("a.ipynb", "python3")
    assert server.execute(model["kernel"]["id"], "x = 42; x") == "42"
    server.kill()
    server.start(again=True)
    assert ids(server) == [(model["id"], model["kernel"]["id"])]
    assert server.execute(model["kernel"]["id"], "x") == "42"
    assert server.delete(model["id"]).status == 204
    assert server.list_sessions() == []
    gateway.wait_for_kernels(0)


@pytest.mark.parametrize("gateway", ["kernel"], indirect=True)
def test_who_may_not_use_kernels_does_not_let_the_server_ask_for_one(
    start_server: StartServer, gateway: Gateway, sqlite_url: str
) -> None:
    with gateway_proxy(gateway.port) as proxy:
        roles = {"authorizer_class": "support.managers.RoleAuthorizer"}
        server = start_behind(start_server, proxy, sqlite_url, ServerApp=roles)

        def connect(kernel_id: str, *headers: str) -> None:
            websocket.create_connection(
                f"ws://127.0.0.1:{server.port}/api/kernels/{kernel_id}/channels",
                header=[f"Authorization: token {server.token}", *headers],
            ).close()

        def requests() -> list[str]:
            paths = (each.path for each in proxy.requests)
            return [path for path in paths if f"{path}/".startswith("/api/kernels/")]

        # The server knows nothing of either.
        existing = gateway.request("POST", "/api/kernels", {"name": "light"})["id"]
        for kernel_id in (existing, str(uuid.uuid4())):
            with pytest.raises(websocket.WebSocketBadStatusException) as refused:
                connect(kernel_id, "X-Role: reader")
            assert refused.value.status_code == 403
        assert not requests()
        connect(existing)
        assert requests()


def test_a_stop_ends_no_kernel_that_others_can_serve(
    start_server: StartServer, gateway: Gateway, sqlite_url: str
) -> None:
    server = start_behind(start_server, gateway, sqlite_url)
    model = server.create("a.ipynb")
    alone = server.start_kernel("light")
    assert {each["id"] for each in server.request("GET", "/api/kernels").json()} == {
        model["kernel"]["id"],
        alone,
    }
    assert server.stop() == 0
    # The kernel without a session ends, because no server would ever end it.
    gateway.wait_for_kernels(1)
    server.start(again=True)
    assert ids(server) == [(model["id"], model["kernel"]["id"])]
    assert [each["id"] for each in server.request("GET", "/api/kernels").json()] == [
        model["kernel"]["id"]
    ]


def test_any_server_serves_the_sessions_of_every_other(
    start_server: StartServer, gateway: Gateway, store_url: str
) -> None:
    one, other = (start_behind(start_server, gateway, store_url) for _ in range(2))
    model = one.create("a.ipynb", "python3")
    kernel_id = model["kernel"]["id"]
    assert one.execute(kernel_id, "x = 42; x") == "42"
    assert ids(other) == [(model["id"], kernel_id)]
    assert other.execute(kernel_id, "x") == "42"
    kernel = f"/api/kernels/{kernel_id}"
    third = start_behind(start_server, gateway, store_url)
    assert [each["id"] for each in third.request("GET", "/api/kernels").json()] == [kernel_id]
    assert third.request("GET", kernel).json()["name"] == "python3"
    fourth = start_behind(start_server, gateway, store_url)
    assert fourth.request("POST", f"{kernel}/interrupt").status == 204
    assert fourth.request("POST", f"{kernel}/restart").status == 200
    assert one.execute(kernel_id, "'x' in globals()") == "False"
    changed = other.patch(model["id"], {"path": "b.ipynb"})
    assert (changed.status, changed.json()["path"]) == (200, "b.ipynb")
    assert third.create("b.ipynb")["id"] == model["id"]
    assert fourth.delete(model["id"]).status == 204
    for server in (one, other, third, fourth):
        assert server.list_sessions() == []
    wait_until(lambda: one.request("GET", kernel).status == 404, "the kernel is gone for all")
    gateway.wait_for_kernels(0)


@pytest.mark.parametrize("gateway", [*GATEWAYS, *OLDEST_GATEWAYS], indirect=True)
def test_servers_of_the_oldest_and_the_newest_release_serve_each_others_sessions(
    start_server: StartServer, gateway: Gateway, sqlite_url: str
) -> None:
    old = start_behind(start_server, gateway, sqlite_url, "oldest")
    new = start_behind(start_server, gateway, sqlite_url)
    first, second = old.create("a.ipynb", "python3"), new.create("b.ipynb", "python3")
    assert old.execute(first["kernel"]["id"], "x = 42; x") == "42"
    assert new.execute(first["kernel"]["id"], "x") == "42"
    assert old.execute(second["kernel"]["id"], "6*7") == "42"
    assert old.create("b.ipynb")["id"] == second["id"]
    changed = old.patch(second["id"], {"kernel": {"name": "light"}}).json()
    assert (
        ids(new)
        == ids(old)
        == [
            (first["id"], first["kernel"]["id"]),
            (second["id"], changed["kernel"]["id"]),
        ]
    )
    old.kill()
    old.start(again=True)
    assert old.delete(second["id"]).status == 204
    assert new.request("DELETE", f"/api/kernels/{first['kernel']['id']}").status == 204
    assert ids(old) == ids(new) == []
    gateway.wait_for_kernels(0)


def test_another_kernel_is_started_before_the_first_one_ends(
    start_server: StartServer, gateway: Gateway, sqlite_url: str
) -> None:
    one, other = (start_behind(start_server, gateway, sqlite_url) for _ in range(2))
    model = one.create("a.ipynb")
    changed = other.patch(model["id"], {"kernel": {"name": "python3"}}).json()
    assert changed["kernel"]["name"] == "python3"
    assert changed["kernel"]["id"] != model["kernel"]["id"]
    assert ids(one) == [(model["id"], changed["kernel"]["id"])]
    gateway.wait_for_kernels(1)
    assert one.execute(changed["kernel"]["id"], "6*7") == "42"


LOG_EVENTS = """
import logging

get_config().EventLogger.handlers = [logging.FileHandler({path!r})]
"""


@pytest.mark.parametrize("gateway", ["kernel"], indirect=True)
@pytest.mark.parametrize("host_name", ["newest", "oldest"])
def test_event_listeners_are_told_about_the_kernels_of_sessions(
    start_server: StartServer, gateway: Gateway, sqlite_url: str, tmp_path: Path, host_name: str
) -> None:
    server = start_behind(start_server, gateway, sqlite_url, host_name, options={"start": False})
    events = tmp_path / "events"
    (server.config_dir / "jupyter_server_config.py").write_text(
        LOG_EVENTS.format(path=str(events))
    )
    server.start()
    model = server.create("a.ipynb")
    assert server.post({"path": "b", "type": "notebook", "kernel": {"name": "none"}}).status == 501
    server.delete(model["id"])
    gateway.wait_for_kernels(0)
    told = [json.loads(line) for line in events.read_text().splitlines()]
    actions = [each for each in told if each["__schema__"].endswith("/kernel_actions/v1")]
    assert [(each["action"], each["status"]) for each in actions] == [
        ("start", "success"),
        ("start", "error"),
        ("shutdown", "success"),
    ]
    assert actions[0]["kernel_id"] == actions[2]["kernel_id"] == model["kernel"]["id"]
    requests = [each for each in told if each["__schema__"].endswith("/gateway_client/v1")]
    assert {each["status"] for each in requests} == {"success", "error"}


def test_while_the_gateway_is_away_lists_stay_right_and_nothing_ends(
    start_server: StartServer, gateway: Gateway, sqlite_url: str
) -> None:
    one, other = (start_behind(start_server, gateway, sqlite_url) for _ in range(2))
    models = [one.create(f"{number}.ipynb") for number in range(3)]
    before = ids(one)
    assert ids(other) == before
    gateway.pause()
    time.sleep(1.1)  # Until what the servers know of the kernels is too old.
    for server in (one, other, one, other):
        began = time.monotonic()
        found = server.list_sessions()
        assert time.monotonic() - began < 2
        assert [(each["id"], each["kernel"]["id"]) for each in found] == before
        assert {each["kernel"]["execution_state"] for each in found} == {"unknown"}
    deleted = models.pop(0)
    with ThreadPoolExecutor(1) as pool:
        delete = pool.submit(other.delete, deleted["id"])
        wait_until(lambda: ids(one) == before[1:], "the deletion is written")
        gateway.go_on()
        assert delete.result().status == 204

    def are_known() -> bool:
        return all(
            each["kernel"]["execution_state"] != "unknown"
            for server in (one, other)
            for each in server.list_sessions()
        )

    wait_until(are_known, "the kernels are known again", timeout=5)
    assert ids(one) == ids(other) == before[1:]
    gateway.wait_for_kernels(2)
    assert len(one.log_lines("W", "state of kernels is unknown")) == 1


def test_a_server_waits_for_a_slow_gateway_if_it_has_not_seen_the_kernel_before(
    start_server: StartServer, gateway: Gateway, sqlite_url: str
) -> None:
    one, other = (start_behind(start_server, gateway, sqlite_url) for _ in range(2))
    kernel_id = one.create("a.ipynb")["kernel"]["id"]
    gateway.pause()
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(other.request, "GET", f"/api/kernels/{kernel_id}")
        wait_until(gateway.has_unread, "the gateway is asked")
        time.sleep(2)  # Longer than for a kernel that the server knows.
        gateway.go_on()
        assert reply.result().status == 200


def test_sessions_end_when_the_gateway_has_lost_their_kernels(
    start_server: StartServer, gateway: Gateway, sqlite_url: str
) -> None:
    server = start_behind(start_server, gateway, sqlite_url)
    models = [server.create(f"{number}.ipynb") for number in range(2)]
    gateway.kill(kernels=True)
    time.sleep(1.1)  # Until what the server knows of the kernels is too old.
    assert len(ids(server)) == 2
    assert server.post({"path": "new.ipynb", "type": "notebook"}).status == 503
    deleted = server.delete(models[0]["id"])
    assert deleted.status == 204
    gateway.start()
    wait_until(lambda: ids(server) == [], "the sessions end", timeout=5)
    again = server.create("1.ipynb")
    assert again["id"] != models[1]["id"]
    gateway.wait_for_kernels(1)


def test_a_kernel_that_ends_at_the_gateway_ends_its_session_at_every_server(
    start_server: StartServer, gateway: Gateway, sqlite_url: str
) -> None:
    servers = [start_behind(start_server, gateway, sqlite_url) for _ in range(2)]
    model = servers[0].create("a.ipynb")
    assert ids(servers[1]) == ids(servers[0])
    assert gateway.request("DELETE", f"/api/kernels/{model['kernel']['id']}") == 204
    for server in servers:
        wait_until(lambda server=server: ids(server) == [], "the session ends", timeout=3)


def test_a_gateway_that_does_not_list_its_kernels_is_asked_for_each(
    start_server: StartServer, silent_gateway: Gateway, sqlite_url: str
) -> None:
    one, other = (start_behind(start_server, silent_gateway, sqlite_url) for _ in range(2))
    models = [one.create(f"{number}.ipynb") for number in range(3)]
    assert ids(other) == ids(one) == [(each["id"], each["kernel"]["id"]) for each in models]
    assert len(other.request("GET", "/api/kernels").json()) == 3
    silent_gateway.request("DELETE", f"/api/kernels/{models[0]['kernel']['id']}")
    wait_until(lambda: len(ids(other)) == 2, "the session ends", timeout=3)


@pytest.mark.parametrize("host_name", ["newest", "oldest"])
def test_an_unknown_kernelspec_and_an_unknown_kernel_are_reported(
    start_server: StartServer, gateway: Gateway, sqlite_url: str, host_name: str
) -> None:
    server = start_behind(start_server, gateway, sqlite_url, host_name)
    unknown = "11111111-2222-4333-8444-555555555555"
    body = {"path": "a.ipynb", "type": "notebook"}
    assert server.post({**body, "kernel": {"name": "missing"}}).status == 501
    assert server.post({**body, "kernel": {"id": unknown}}).status == 404
    for method in ("GET", "DELETE"):
        missing = server.request(method, f"/api/kernels/{unknown}")
        assert (missing.status, unknown in missing.message) == (404, True)
    with pytest.raises(websocket.WebSocketBadStatusException, match="404"):
        Channel(server, unknown)
    model = server.create("a.ipynb")
    assert server.patch(model["id"], {"kernel": {"id": unknown}}).status == 400
    assert ids(server) == [(model["id"], model["kernel"]["id"])]
    gateway.wait_for_kernels(1)


def test_while_the_gateway_has_all_kernels_that_it_may_run_another_has_to_wait(
    start_server: StartServer, small_gateway: Gateway, sqlite_url: str
) -> None:
    server = start_behind(start_server, small_gateway, sqlite_url)
    model = server.create("a.ipynb")
    refused = server.post({"path": "b.ipynb", "type": "notebook", "kernel": {"name": "light"}})
    assert refused.status == 503
    assert "retry-after" in refused.headers
    assert "gateway refused" in refused.message
    assert ids(server) == [(model["id"], model["kernel"]["id"])]
    assert server.delete(model["id"]).status == 204
    server.create("b.ipynb")
    small_gateway.wait_for_kernels(1)


def test_a_start_that_a_killed_server_left_is_undone_by_another(
    start_server: StartServer, gateway: Gateway, sqlite_url: str
) -> None:
    one, other = (start_behind(start_server, gateway, sqlite_url) for _ in range(2))
    gateway.pause()
    with ThreadPoolExecutor(1) as pool:
        create = pool.submit(one.create, "a.ipynb")
        wait_until(lambda: gateway.has_unread(), "the start has reached the gateway")
        one.kill()
        assert isinstance(create.exception(), (OSError, HTTPException))
    gateway.go_on()
    # The gateway does not notice that nobody waits for the kernel any more.
    gateway.wait_for_kernels(1)
    gateway.wait_for_kernels(0, timeout=40)
    model = other.create("a.ipynb")
    assert ids(other) == [(model["id"], model["kernel"]["id"])]
    gateway.wait_for_kernels(1)


STOCK = "jupyter_server.gateway.managers"


@pytest.mark.parametrize("gateway", ["kernel"], indirect=True)
@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("session_manager_class", "GatewaySessionManager"),
        ("kernel_manager_class", "GatewayMappingKernelManager"),
    ],
)
def test_the_hosts_own_classes_for_a_gateway_are_respected_if_one_is_chosen(
    start_server: StartServer, gateway: Gateway, option: str, name: str
) -> None:
    chosen = {"ServerApp": {option: f"{STOCK}.{name}"}}
    client = {"GatewayClient": {"url": gateway.url, "auth_token": TOKEN}}
    server = start_server(config={**chosen, **client})
    model = server.create("a.ipynb")
    assert server.request("GET", "/api/sessions/status").status == 404
    (warning,) = server.log_lines("W", "nbsessions stands aside")
    assert f"{STOCK}.{name}" in warning
    assert not server.store.parent.exists()
    assert server.delete(model["id"]).status == 204
