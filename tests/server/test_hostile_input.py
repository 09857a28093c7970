"""What nobody sends by mistake, huge, deep or forged: answered as all else, logged in short."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import pytest

from support.rest import SESSIONS, Reply
from support.server import Server
from support.storefile import read_store
from support.waiting import wait_until

UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"
HUGE = 10_000_000
LONGEST_LINE = 1000

pytestmark = pytest.mark.parametrize("each_host", ["newest", "notebook6"], indirect=True)

TEXTS = {
    "percents": "%s %(x)s %41 %2e%2e 100%",
    "braces": "{0.__class__} ${HOME} $(id)",
    "slashes": "///etc//passwd",
    "backslashes": "C:\\..\\..\\a",
    "SQL": "'; DROP TABLE sessions; --\" OR 1=1",
    "HTML": "</script><script>alert(1)</script>&amp;",
    "lines": "a\r\nX-Injected: yes\n[E 2026 ServerApp] forged",
    "escapes": "\x1b[31m\x07\x7f\x01",
    "directions": "\u202egnp.\u2066\u200d\ufeff",
    "beyond the basic plane": "\U0001f9d1\u200d\U0001f680\U0010ffff",
    "blanks": " a\t\n",
    "options": "--help",
}
OUTSIDE = ["..", "../../etc/passwd", "/../a", "a/../../b"]

BODIES: dict[str, bytes] = {
    "a huge path": b'{"type": "x", "path": "%s"}' % (b"p" * HUGE),
    "a huge list": b'{"path": [%s1]}' % (b"1," * (HUGE // 2)),
    "huge white space": b" " * HUGE,
    "a huge number": b'{"path": %s}' % (b"9" * HUGE),
    "a deep kernel": b'{"kernel": ' * 100_000,
    "deep in what is ignored": b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a byte order mark": b'\xef\xbb\xbf{"path": "a", "type": "x"}',
    "UTF-16": '{"path": "a", "type": "x"}'.encode("utf-16"),
    "a surrogate in bytes": b'{"path": "\xed\xa0\x80", "type": "x"}',
    "an overlong slash": b'{"path": "\xc0\xaf", "type": "x"}',
    "something after it": b'{"path": "a", "type": "x"} {}',
    "no number": b'{"path": NaN, "type": Infinity}',
    "a form": b"path=a&type=x",
    "bytes": bytes(range(256)),
}

FIELDS: dict[str, Callable[[str], dict[str, object]]] = {
    "path": lambda text: {"path": text},
    "name": lambda text: {"name": text},
    "type": lambda text: {"type": text},
    "kernel.id": lambda text: {"kernel": {"id": text}},
    "kernel.name": lambda text: {"kernel": {"name": text}},
    "notebook.path": lambda text: {"notebook": {"path": text}},
    "notebook.name": lambda text: {"notebook": {"path": "a", "name": text}},
}

UNUSABLE = {"NUL": "a\0b", "4097 characters": "x" * 4097, "10 MB": "x" * HUGE}

IDS = {
    "percents": "%25s-%25d-a-b-c",
    "dots": "%2e%2e",
    "a way out": "..%2f..%2fetc%2fpasswd",
    "NUL": "a-b-c-d-%00",
    "SQL": quote("'; DROP TABLE sessions; --"),
    "HTML": quote("<script>alert(1)</script>"),
    "lines": "a-b-c-d-e%0d%0aX-Injected:%20yes",
    "letters of others": quote("é-ß-Ж-中-٣"),
    "long": "-".join(["a" * 2000] * 5),
    "another case": UNKNOWN_ID.replace("0", "A"),
}


@pytest.fixture(autouse=True)
def _nothing_is_left(each_host: Server) -> Iterator[None]:
    yield
    left = each_host.list_sessions()
    for model in left:  # or all tests that follow would fail as well
        each_host.delete(model["id"])
    assert left == []
    assert each_host.kernel_ids() == set()
    assert read_store(each_host.store).unfinished() == []


@contextmanager
def refused(server: Server, status: int, *, longest: int = LONGEST_LINE) -> Iterator[list[Reply]]:
    """Check the reply that is put into the list, and what the server logs: that, and why."""
    start = len(server.log)
    replies: list[Reply] = []
    yield replies
    (reply,) = replies
    assert reply.status == status, (reply.status, reply.body[:LONGEST_LINE])
    assert "x-injected" not in reply.headers

    def lines() -> list[str]:
        return [line for line in server.log[start:].splitlines() if not line.startswith("[I ")]

    # The host writes it once the reply is sent.
    wait_until(lambda: any("referer=" in line for line in lines()), "the request is in the log")
    requests = [line for line in lines() if "referer=" in line]
    reasons = [line for line in lines() if "referer=" not in line]
    assert len(requests) == 1
    assert len(reasons) <= 1
    for line in requests + reasons:
        assert line.startswith("[W ")
        assert f"{status} " in line
        assert len(line) < longest


def refuse(server: Server, body: object, session_id: str | None = None) -> str:
    """POST the body, or PATCH the session with it, and return the message of the 400."""
    with refused(server, 400) as replies:
        replies.append(server.patch(session_id, body) if session_id else server.post(body))
    assert len(replies[0].body) < LONGEST_LINE
    return replies[0].message


@pytest.fixture
def session(each_host: Server) -> Iterator[dict[str, Any]]:
    """A session that has to be there, unchanged but for its kernel's activity, at the end."""
    model = each_host.create("a.ipynb")
    yield model
    after = each_host.get(model["id"]).json()
    assert {**after, "kernel": after["kernel"]["id"]} == {**model, "kernel": model["kernel"]["id"]}
    assert each_host.delete(model["id"]).status == 204


# Bodies


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_body_that_cannot_be_used_is_a_400(each_host: Server, body: bytes) -> None:
    assert refuse(each_host, body)


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_patch_that_cannot_be_used_changes_nothing(
    each_host: Server, session: dict[str, Any], body: bytes
) -> None:
    assert refuse(each_host, body, session["id"])


@pytest.mark.parametrize("text", UNUSABLE.values(), ids=UNUSABLE)
@pytest.mark.parametrize("field", FIELDS)
def test_a_text_that_cannot_be_used_is_a_400_that_names_its_field(
    each_host: Server, field: str, text: str
) -> None:
    body = {"path": "a", "type": "notebook", **FIELDS[field](text)}

    assert refuse(each_host, body).startswith(f"{field}: ")
    with refused(each_host, 400) as replies:
        replies.append(each_host.patch(UNKNOWN_ID, body))


@pytest.mark.parametrize("field", FIELDS)
def test_half_a_character_is_a_400(each_host: Server, field: str) -> None:
    body = json.dumps({"path": "a", "type": "notebook", **FIELDS[field]("\ud800")})

    assert refuse(each_host, body.encode()).startswith("body: ")


def test_of_a_key_that_comes_twice_the_last_counts(each_host: Server) -> None:
    reply = each_host.post(
        b'{"path": "../a", "path": "b", "type": 1, "type": "file", "kernel": {"name": "light"}}'
    )
    assert reply.status == 400
    assert reply.message.startswith("body: ")

    reply = each_host.post(
        b'{"path": "../a", "path": "b", "type": "x", "type": "file",'
        b' "kernel": {"name": "broken"}, "kernel": {"name": "light"}}'
    )
    assert (reply.status, reply.json()["path"], reply.json()["type"]) == (201, "b", "file")
    each_host.delete(reply.json()["id"])


def test_what_is_ignored_may_be_huge(each_host: Server) -> None:
    model = each_host.create("a.ipynb", __proto__={"id": "x"}, junk="x" * HUGE)

    assert each_host.get(model["id"]).status == 200
    each_host.delete(model["id"])


@pytest.mark.parametrize(
    "content_type",
    [
        "text/html",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-16",
        "a/b; c",
        "%s",
    ],
)
def test_the_content_type_does_not_matter(each_host: Server, content_type: str) -> None:
    body = {"path": "a.ipynb", "type": "notebook", "kernel": {"name": "light"}}

    reply = each_host.post(body, headers={"Content-Type": content_type})

    assert reply.status == 201
    each_host.delete(reply.json()["id"])


def test_a_form_of_parts_that_has_none_is_a_400(each_host: Server) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary="}

    assert each_host.post({"path": "a", "type": "x"}, headers=headers).status == 400


# Texts


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_every_text_is_kept_byte_for_byte(each_host: Server, text: str) -> None:
    kernel = {"name": "light", "id": text}
    reply = each_host.post({"path": text, "name": text, "type": text, "kernel": kernel})

    assert reply.status == 201
    model = reply.json()
    assert (model["path"], model["name"], model["type"]) == (text, text, text)
    assert model["kernel"]["id"] != text
    assert reply.headers["location"].endswith(f"{SESSIONS}/{model['id']}")
    assert "x-injected" not in reply.headers
    for query in (f"?path={quote(text)}", f"?type={quote(text)}"):
        assert [each["id"] for each in each_host.list_sessions(query)] == [model["id"]]

    changed = each_host.patch(model["id"], {"path": text + text, "name": text, "type": text})
    assert (changed.status, changed.json()["path"]) == (200, text + text)
    assert each_host.get(model["id"]).json() == changed.json()
    with refused(each_host, 400) as replies:
        replies.append(each_host.patch(model["id"], {"kernel": {"id": text}}))
    assert each_host.delete(model["id"]).status == 204


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_no_such_kernelspec_is_a_501_whatever_its_name(
    each_host: Server, session: dict[str, Any], text: str
) -> None:
    body = {"path": "b", "type": "x", "kernel": {"name": text}}

    for reply in (each_host.post(body), each_host.patch(session["id"], body)):
        assert reply.status == 501
        assert reply.json()["short_message"]
        assert "x-injected" not in reply.headers


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_kernel_starts_outside_the_root_directory(
    each_host: Server, session: dict[str, Any], path: str
) -> None:
    body = {"path": path, "type": "notebook", "kernel": {"name": "light"}}

    assert refuse(each_host, body).startswith("path: ")


# Query arguments


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_filter_that_nothing_fits_is_an_empty_list(
    each_host: Server, session: dict[str, Any], text: str
) -> None:
    for argument in ("path", "type", "kernel_id"):
        assert each_host.list_sessions(f"?{argument}={quote(text)}") == []


@pytest.mark.parametrize("text", [*TEXTS.values(), "", "1", "true,false"])
def test_a_flag_that_is_none_is_a_400_that_does_not_repeat_it(
    each_host: Server, session: dict[str, Any], text: str
) -> None:
    path = f"{SESSIONS}/{session['id']}?force_kernel_shutdown={quote(text)}"
    for method, body in (("PATCH", {"name": "b"}), ("DELETE", None)):
        with refused(each_host, 400) as replies:
            replies.append(each_host.request(method, path, body))
        assert replies[0].message == "force_kernel_shutdown: is neither true nor false"


@pytest.mark.parametrize("argument", ["path", "type", "kernel_id"])
def test_a_query_that_is_not_utf_8_is_a_400(each_host: Server, argument: str) -> None:
    with refused(each_host, 400) as replies:
        replies.append(each_host.request("GET", f"{SESSIONS}?{argument}=%ff%fe"))


# Ids


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
@pytest.mark.parametrize("session_id", IDS.values(), ids=IDS)
def test_a_strange_id_is_a_404(each_host: Server, session_id: str, method: str) -> None:
    body = {"name": "b"} if method == "PATCH" else None
    with refused(each_host, 404, longest=LONGEST_LINE + 3 * len(session_id)) as replies:
        replies.append(each_host.request(method, f"{SESSIONS}/{session_id}", body))

    assert b"<script>alert" not in replies[0].body
