"""The OpenAPI description of the routes: served, valid, and true of the handlers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
import schemathesis
from jsonschema import Draft202012Validator
from tornado.httpclient import HTTPResponse
from tornado.web import RequestHandler

from nbsessions import errors, handlers
from nbsessions.handlers import session_handlers
from nbsessions.httperrors import http_error
from support.application import Api, BaseHandler

DESCRIPTION = json.loads(files(handlers).joinpath("openapi.json").read_bytes())
SESSION_ID = "11111111-2222-4333-8444-555555555555"
VERBS = ("get", "head", "post", "put", "patch", "delete")

READ = {errors.InvalidRequest, errors.ServiceClosed, errors.StoreUnavailable}
ONE = READ | {errors.SessionNotFound}
START = ONE | {
    errors.KernelConflict,
    errors.KernelNotFound,
    errors.KernelStartFailed,
    errors.KernelspecNotFound,
    errors.StartInProgress,
    errors.StartLost,
    errors.StoreUncertain,
}
OPERATIONS: dict[tuple[str, str], tuple[int, set[type[errors.SessionError]]]] = {
    ("get", "/sessions"): (200, READ),
    ("post", "/sessions"): (201, START),
    ("get", "/sessions/openapi.json"): (200, {errors.InvalidRequest}),
    ("get", "/sessions/status"): (200, READ | {errors.NotSupported}),
    ("get", "/sessions/{session_id}"): (200, ONE),
    ("patch", "/sessions/{session_id}"): (200, START),
    ("delete", "/sessions/{session_id}"): (204, ONE),
}
"""Each operation: its success, and what a session manager may raise in it."""


class FailingSessionManager:
    """Raises what a test has put into ``error``, whatever it is asked."""

    error: Exception

    async def _fail(self, *args: Any, **kwargs: Any) -> None:
        raise self.error

    list_sessions = create_session = get_session = update_session = delete_session = _fail
    get_status = _fail


@pytest.fixture
def session_manager() -> FailingSessionManager:
    """Take the place of our session manager."""
    return FailingSessionManager()


def described(method: str, path: str) -> dict[str, Any]:
    """Return the replies of an operation, by status, without references."""
    return {
        status: resolved(reply)
        for status, reply in DESCRIPTION["paths"][path][method]["responses"].items()
    }


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    found = node
    for name in node.get("$ref", "#").split("/")[1:]:
        found = DESCRIPTION[name] if found is node else found[name]
    return found


def check_fits(reply: HTTPResponse, description: dict[str, Any]) -> None:
    """Fail unless the reply's headers and body are as described."""
    for header in description.get("headers", {}):
        assert header in reply.headers
    schema = description["content"][reply.headers["Content-Type"]]["schema"]
    Draft202012Validator({**schema, "components": DESCRIPTION["components"]}).validate(
        json.loads(reply.body)
    )


def routes() -> Iterator[tuple[str, type[Any]]]:
    """Yield the path of each route as it is in the description, and its handler."""
    for pattern, handler in session_handlers(BaseHandler):
        path = re.sub(r"\(\?P<(\w+)>[^)]*\)", r"{\1}", pattern).replace("\\.", ".")
        yield path.removeprefix("/api"), handler


def test_it_is_valid_openapi_3_1() -> None:
    assert DESCRIPTION["openapi"].startswith("3.1.")
    schemathesis.openapi.from_dict(DESCRIPTION).validate()


def test_every_route_and_method_is_in_it_and_no_other() -> None:
    served = {
        (verb, path)
        for path, handler in routes()
        for verb in VERBS
        if getattr(handler, verb) is not getattr(RequestHandler, verb)
    }
    in_description = {
        (verb, path)
        for path, item in DESCRIPTION["paths"].items()
        for verb in item
        if verb != "parameters"
    }

    assert in_description == served == set(OPERATIONS)


def test_the_allow_header_names_the_methods_that_are_in_it() -> None:
    for path, handler in routes():
        verbs = {verb.upper() for verb in DESCRIPTION["paths"][path]} - {"PARAMETERS"}
        assert set(handler.allowed_methods) == verbs | {"OPTIONS"}


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_status_is_in_it_and_no_other(method: str, path: str) -> None:
    success, raised = OPERATIONS[method, path]
    failures = {status_of(error) for error in raised}

    assert set(described(method, path)) == {str(each) for each in {success, 403, *failures}}


def test_every_error_of_ours_is_raised_by_some_operation() -> None:
    raised = {
        status_of(error) for _, errors_of_one in OPERATIONS.values() for error in errors_of_one
    }

    # The command line has errors of its own, which no request meets.
    ours = [each for each in all_errors(errors.SessionError) if each.__module__ == errors.__name__]
    assert {status_of(error) for error in ours} == raised


def status_of(error: type[errors.SessionError]) -> int:
    translated = http_error(error.__new__(error))
    assert translated is not None
    return translated.status_code


def all_errors(root: type[errors.SessionError]) -> Iterator[type[errors.SessionError]]:
    for each in root.__subclasses__():
        yield each
        yield from all_errors(each)


@pytest.mark.gen_test
async def test_it_is_served_to_those_who_may_read(api: Api) -> None:
    for user in ("owner", "guest"):
        reply = await api("GET", "/openapi.json", user=user)
        assert (reply.code, reply.headers["Content-Type"]) == (200, "application/json")
        assert json.loads(reply.body) == DESCRIPTION
    assert (await api("GET", "/openapi.json", user=None)).code == 403


@pytest.mark.parametrize(
    ("method", "path", "error"),
    [
        pytest.param(*operation, error, id=f"{' '.join(operation)} {error.__name__}")
        for operation, (_, raised) in OPERATIONS.items()
        for error in sorted(raised, key=lambda each: each.__name__)
        if operation[1] != "/sessions/openapi.json"
    ],
)
@pytest.mark.gen_test
async def test_an_errors_reply_is_as_described(
    api: Api,
    session_manager: FailingSessionManager,
    method: str,
    path: str,
    error: type[errors.SessionError],
) -> None:
    session_manager.error = error.__new__(error)
    body = {"path": "a", "type": "x"} if method in ("post", "patch") else None
    place = path.removeprefix("/sessions").format(session_id=SESSION_ID)

    reply = await api(method.upper(), place, body)

    assert reply.code == status_of(error)
    check_fits(reply, described(method, path)[str(reply.code)])


@pytest.mark.parametrize("path", DESCRIPTION["paths"])
@pytest.mark.gen_test
async def test_the_reply_to_a_wrong_method_is_as_described(api: Api, path: str) -> None:
    reply = await api("PUT", path.removeprefix("/sessions").format(session_id=SESSION_ID), {})

    assert reply.code == 405
    check_fits(reply, DESCRIPTION["components"]["responses"]["MethodNotAllowed"])


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
@pytest.mark.gen_test
async def test_the_reply_to_nobody_is_as_described(api: Api, method: str, path: str) -> None:
    body = {} if method in ("post", "patch") else None
    place = path.removeprefix("/sessions").format(session_id=SESSION_ID)

    reply = await api(method.upper(), place, body, user=None)

    check_fits(reply, described(method, path)[str(reply.code)])
