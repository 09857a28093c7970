"""Who may use the REST API, by which verbs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from support.rest import SESSIONS, Reply, cookie_header
from support.server import Server, StartServer
from support.storefile import read_store

SOME_ID = "00000000-0000-4000-8000-000000000000"
BODY: dict[str, object] = {"path": "a.ipynb", "type": "notebook", "kernel": {"name": "light"}}

OPERATIONS = {
    "list": ("GET", SESSIONS, 200),
    "create": ("POST", SESSIONS, 201),
    "get": ("GET", f"{SESSIONS}/{{session_id}}", 200),
    "update": ("PATCH", f"{SESSIONS}/{{session_id}}", 200),
    "delete": ("DELETE", f"{SESSIONS}/{{session_id}}", 204),
    "describe": ("GET", f"{SESSIONS}/openapi.json", 200),
}
"""Each operation: its method, its path and its success."""
READS = {"list", "get", "describe"}

WHO: dict[str, tuple[set[str], Callable[[Server], Mapping[str, str]]]] = {
    "nobody": (set(), lambda server: {}),
    "a wrong token": (set(), lambda server: {"Authorization": "token guessed"}),
    "no token's form": (set(), lambda server: {"Authorization": f"Basic {server.token}"}),
    "the token": (set(OPERATIONS), lambda server: token(server)),
    "a browser without XSRF token": (READS, lambda server: browser(server)),
    "a reader": (READS, lambda server: {**token(server), "X-Role": "reader"}),
    "a stranger": (set(), lambda server: {**token(server), "X-Role": "stranger"}),
}
"""Who asks: what they may do, and their headers. Classic Notebook knows no roles."""
ROLES = {"a reader", "a stranger"}

CASES = [
    pytest.param(host, who, operation, id=f"{host}: {who}: {operation}")
    for host in ("newest", "notebook6")
    for who in WHO
    for operation in OPERATIONS
    if not (host == "notebook6" and who in ROLES)
]


def token(server: Server) -> dict[str, str]:
    return {"Authorization": f"token {server.token}"}


def browser(server: Server) -> dict[str, str]:
    """Return what a browser sends of itself; to read, its page is enough."""
    return {
        "Cookie": cookie_header(server.log_in()),
        "Referer": f"http://127.0.0.1:{server.port}{server.base_url}",
    }


@pytest.fixture(scope="module")
def guarded(start_shared_server: StartServer) -> Callable[[str], Server]:
    """Return the server of a host, which goes by roles where it can."""
    roles = {"ServerApp": {"authorizer_class": "support.managers.RoleAuthorizer"}}
    servers = {
        host: start_shared_server(host, base_url="/user/x/", config=roles)
        for host in ("newest", "notebook6")
    }
    return servers.__getitem__


@pytest.mark.parametrize(("host", "who", "operation"), CASES)
def test_everybody_may_do_what_is_theirs_and_sees_nothing_else(
    guarded: Callable[[str], Server], host: str, who: str, operation: str
) -> None:
    server = guarded(host)
    allowed, headers_of = WHO[who]
    method, path, success = OPERATIONS[operation]
    session = server.create("secret.ipynb")
    headers = headers_of(server)

    def ask(session_id: str) -> Reply:
        body = {"POST": BODY, "PATCH": {"name": "changed"}}.get(method)
        place = path.format(session_id=session_id)
        return server.request(method, place, body, headers=headers, with_token=False)

    reply = ask(session["id"])

    if operation in allowed:
        assert reply.status == success
    else:
        assert reply.status == 403
        assert reply.headers["content-type"] == "application/json"
        # Whether it is there is not to be seen either.
        assert ask(SOME_ID).body == reply.body
        for secret in (session["id"], session["kernel"]["id"], "secret.ipynb", server.token):
            assert secret not in f"{reply.headers} {reply.body!r}"
        assert server.kernel_ids() == {session["kernel"]["id"]}
        assert server.get(session["id"]).json()["name"] == session["name"]
    for model in server.list_sessions():
        server.delete(model["id"])


@pytest.fixture(params=["newest", "notebook6"])
def neighbours(request: pytest.FixtureRequest, start_server: StartServer) -> list[Server]:
    """Two servers with root directories of their own, on one store."""
    first = start_server(request.param)
    other = first.folder / "other"
    return [first, start_server(request.param, data_dir=first.data_dir, root_dir=other)]


def test_what_is_of_another_namespace_is_not_there(neighbours: list[Server]) -> None:
    neighbour, server = neighbours
    theirs, ours = neighbour.create("a.ipynb"), server.create("b.ipynb")
    kernel_id = theirs["kernel"]["id"]

    for reply in (
        server.get(theirs["id"]),
        server.patch(theirs["id"], {"name": "changed"}),
        server.patch(theirs["id"], {"kernel": {"name": "light"}}),
        server.delete(theirs["id"], "?force_kernel_shutdown=true"),
        server.request("GET", f"/api/kernels/{kernel_id}"),
    ):
        assert reply.status == 404
        assert "a.ipynb" not in reply.body.decode()
    assert server.patch(ours["id"], {"kernel": {"id": kernel_id}}).status == 400
    assert server.list_sessions(f"?kernel_id={kernel_id}") == []
    assert server.post({**BODY, "kernel": {"name": "light", "id": kernel_id}}).status == 409

    assert neighbour.get(theirs["id"]).json()["name"] == theirs["name"]
    assert neighbour.kernel_ids() == {kernel_id}
    assert read_store(server.store).session_ids() == {theirs["id"], ours["id"]}


def test_with_a_token_in_the_query_it_works(each_host: Server) -> None:
    path = f"{SESSIONS}?token={each_host.token}"

    assert each_host.request("GET", path, with_token=False).status == 200


def test_with_a_cookie_and_the_xsrf_token_a_browser_can_write(each_host: Server) -> None:
    cookies = each_host.log_in()
    headers = {"Cookie": cookie_header(cookies), "X-XSRFToken": cookies["_xsrf"]}

    reply = each_host.post(BODY, headers=headers, with_token=False)
    assert reply.status == 201

    path = f"{SESSIONS}/{reply.json()['id']}"
    renamed = each_host.request("PATCH", path, {"name": "b"}, headers=headers, with_token=False)
    assert (renamed.status, renamed.json()["name"]) == (200, "b")
    assert each_host.request("DELETE", path, headers=headers, with_token=False).status == 204


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", SESSIONS, {"GET", "POST", "OPTIONS"}),
        ("DELETE", SESSIONS, {"GET", "POST", "OPTIONS"}),
        ("PUT", f"{SESSIONS}/{SOME_ID}", {"GET", "PATCH", "DELETE", "OPTIONS"}),
        ("POST", f"{SESSIONS}/{SOME_ID}", {"GET", "PATCH", "DELETE", "OPTIONS"}),
    ],
)
def test_a_wrong_method_is_a_405_that_says_what_is_allowed(
    each_host: Server, method: str, path: str, allowed: set[str]
) -> None:
    reply = each_host.request(method, path, BODY)

    assert reply.status == 405
    assert allowed == set(reply.headers["allow"].split(", "))
    assert reply.message
