"""Who may use the REST API, by which verbs."""

from __future__ import annotations

import pytest

from support.rest import SESSIONS, cookie_header
from support.server import Server, StartServer

SOME_ID = "00000000-0000-4000-8000-000000000000"
REQUESTS = [
    ("GET", SESSIONS),
    ("POST", SESSIONS),
    ("GET", f"{SESSIONS}/{SOME_ID}"),
    ("PATCH", f"{SESSIONS}/{SOME_ID}"),
    ("DELETE", f"{SESSIONS}/{SOME_ID}"),
]
BODY = {"path": "a.ipynb", "type": "notebook", "kernel": {"name": "light"}}


@pytest.mark.parametrize(("method", "path"), REQUESTS)
def test_without_a_token_it_is_a_403(each_host: Server, method: str, path: str) -> None:
    body = BODY if method in ("POST", "PATCH") else None

    reply = each_host.request(method, path, body, with_token=False)

    assert reply.status == 403
    assert each_host.list_sessions() == []
    assert each_host.kernel_ids() == set()


def test_with_a_wrong_token_it_is_a_403_in_json(each_host: Server) -> None:
    headers = {"Authorization": "token guessed"}

    reply = each_host.request("GET", SESSIONS, headers=headers, with_token=False)

    assert reply.status == 403
    assert reply.headers["content-type"].startswith("application/json")
    assert reply.message


def test_with_a_token_in_the_query_it_works(each_host: Server) -> None:
    path = f"{SESSIONS}?token={each_host.token}"

    assert each_host.request("GET", path, with_token=False).status == 200


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE"])
def test_with_a_cookie_but_no_xsrf_token_a_write_is_a_403(each_host: Server, method: str) -> None:
    headers = {"Cookie": cookie_header(each_host.log_in())}
    path = SESSIONS if method == "POST" else f"{SESSIONS}/{SOME_ID}"

    reply = each_host.request(method, path, BODY, headers=headers, with_token=False)

    assert reply.status == 403
    assert each_host.kernel_ids() == set()


def test_with_a_cookie_and_the_xsrf_token_a_browser_can_write(each_host: Server) -> None:
    cookies = each_host.log_in()
    headers = {"Cookie": cookie_header(cookies), "X-XSRFToken": cookies["_xsrf"]}

    reply = each_host.post(BODY, headers=headers, with_token=False)
    assert reply.status == 201

    path = f"{SESSIONS}/{reply.json()['id']}"
    renamed = each_host.request("PATCH", path, {"name": "b"}, headers=headers, with_token=False)
    assert (renamed.status, renamed.json()["name"]) == (200, "b")
    assert each_host.request("DELETE", path, headers=headers, with_token=False).status == 204


def test_a_cookie_of_a_browser_is_enough_to_read(each_host: Server) -> None:
    headers = {
        "Cookie": cookie_header(each_host.log_in()),
        "Referer": f"http://127.0.0.1:{each_host.port}{each_host.base_url}",
        "Host": f"127.0.0.1:{each_host.port}",
    }

    reply = each_host.request("GET", SESSIONS, headers=headers, with_token=False)

    assert (reply.status, reply.json()) == (200, [])


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


def test_a_user_who_may_only_read_gets_a_403_for_writes(start_server: StartServer) -> None:
    name = "support.managers.ReadOnlyAuthorizer"
    server = start_server(config={"ServerApp": {"authorizer_class": name}})

    assert server.list_sessions() == []
    assert server.get(SOME_ID).status == 404
    for reply in (server.post(BODY), server.patch(SOME_ID, BODY), server.delete(SOME_ID)):
        assert reply.status == 403
        assert "not authorized" in reply.message
    assert server.kernel_ids() == set()
