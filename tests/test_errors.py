"""The table that maps errors to HTTP responses."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.multikernelmanager import DuplicateKernelError
from tornado.web import HTTPError

from nbsessions import errors
from nbsessions.httperrors import SessionHTTPError, error_body, http_error

EXAMPLES = [
    (errors.InvalidRequest("path", "is missing"), 400),
    (errors.SessionNotFound(session_id="50% of 'x'"), 404),
    (errors.KernelNotFound("%s"), 400),
    (errors.KernelIdRefused("%s"), 404),
    (errors.KernelsUnavailable("away"), 503),
    (errors.KernelStartUncertain("no answer"), 503),
    (errors.KernelspecNotFound("missing"), 501),
    (errors.KernelConflict("x", "is taken"), 409),
    (errors.KernelStartFailed("light", OSError("a secret")), 500),
    (errors.StartInProgress("a.ipynb"), 503),
    (errors.StartLost(None), 503),
    (errors.ServiceClosed(), 503),
    (errors.NotSupported("this"), 404),
    (errors.StoreUnavailable("down"), 503),
    (errors.StoreUncertain("cut short"), 503),
    (errors.StoreDamaged("broken"), 503),
    (errors.StoreTooNew("newer"), 503),
    (errors.StoreUnsupported("no locks"), 503),
    (errors.StoreUnusable("forbidden"), 503),
    (errors.MoveRefused("in use"), 503),
]


def classes_below(root: type[BaseException]) -> Iterator[type[BaseException]]:
    """Yield all subclasses."""
    for each in root.__subclasses__():
        if each.__module__ == errors.__name__:
            yield each
        yield from classes_below(each)


def test_the_examples_are_all_errors_that_there_are() -> None:
    known = {type(error) for error, _ in EXAMPLES} | {errors.StoreError}
    assert set(classes_below(errors.SessionError)) == known


@pytest.mark.parametrize(("error", "status"), EXAMPLES, ids=lambda each: type(each).__name__)
def test_every_error_has_a_status(error: errors.SessionError, status: int) -> None:
    translated = http_error(error)
    assert translated is not None
    assert translated.status_code == status


@pytest.mark.parametrize(("error", "status"), EXAMPLES, ids=lambda each: type(each).__name__)
def test_a_message_is_told_word_for_word_and_not_as_a_reason(
    error: errors.SessionError, status: int
) -> None:
    translated = http_error(error)
    assert translated is not None
    assert translated.reason is None
    assert error_body(translated, status, "phrase")["message"] == str(error)


def test_a_start_that_failed_tells_the_class_of_its_cause_and_no_more() -> None:
    body = error_body(http_error(errors.KernelStartFailed(None, OSError("a secret"))), 500, "")
    assert "OSError" in body["message"]
    assert "secret" not in body["message"]


def test_a_start_that_failed_because_of_a_file_names_that_file() -> None:
    cause = PermissionError(errno.EACCES, "Permission denied", "/usr/bin/kernel")
    body = error_body(http_error(errors.KernelStartFailed("r", cause)), 500, "")
    assert "(Permission denied: '/usr/bin/kernel')" in body["message"]


def test_a_missing_kernelspec_has_the_short_message_that_clients_show() -> None:
    for error in (errors.KernelspecNotFound("missing"), NoSuchKernel("missing")):
        body = error_body(http_error(error), 501, "")
        assert "missing" in body["message"]
        assert body["short_message"] == "missing not found"


def test_what_other_session_managers_raise_is_known() -> None:
    class Special(DuplicateKernelError):
        """An error class of another package."""

    for error, status in ((NoSuchKernel("x"), 501), (Special("x"), 409)):
        translated = http_error(error)
        assert translated is not None
        assert translated.status_code == status


def test_an_http_error_stays_as_it_is() -> None:
    error = HTTPError(418, "%s of tea", "50%")
    assert http_error(error) is error
    body = error_body(error, 418, "I'm a Teapot")
    assert body == {"message": "50% of tea", "reason": None}


def test_an_http_error_without_a_message_tells_the_phrase() -> None:
    assert error_body(HTTPError(404), 404, "Not Found")["message"] == "Not Found"
    assert error_body(HTTPError(404, "50%"), 404, "Not Found")["message"] == "50%"


def test_an_http_errors_reason_is_passed_on() -> None:
    body = error_body(HTTPError(400, "no", reason="Bad Thing"), 400, "Bad Request")
    assert body == {"message": "no", "reason": "Bad Thing"}


def test_an_unknown_error_is_not_told() -> None:
    error = RuntimeError("a secret")
    assert http_error(error) is None
    assert error_body(error, 500, "Internal Server Error") == {
        "message": "Unhandled error",
        "reason": None,
    }
    assert error_body(None, 404, "Not Found")["message"] == "Not Found"


def test_older_tornados_format_their_messages_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(HTTPError, "get_message", raising=False)
    assert error_body(HTTPError(400, "%s", "50%"), 400, "")["message"] == "50%"
    assert error_body(HTTPError(400, "50%"), 400, "")["message"] == "50%"
    assert error_body(HTTPError(400), 400, "phrase")["message"] == "phrase"
    assert error_body(SessionHTTPError(400, "50%"), 400, "")["message"] == "50%"
