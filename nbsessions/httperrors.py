"""Maps errors to HTTP status codes and JSON bodies. No other module does."""

from __future__ import annotations

from typing import Any

from tornado.web import HTTPError

from nbsessions import errors

RETRY_AFTER = 5
"""The Retry-After header, in seconds, of replies with status 503."""

_STATUS: dict[type[BaseException], int] = {
    errors.InvalidRequest: 400,
    errors.SessionNotFound: 404,
    errors.KernelNotFound: 400,
    errors.KernelIdRefused: 404,
    errors.KernelspecNotFound: 501,
    errors.KernelConflict: 409,
    errors.KernelStartFailed: 500,
    errors.KernelsUnavailable: 503,
    errors.StartInProgress: 503,
    errors.StartLost: 503,
    errors.ServiceClosed: 503,
    errors.NotSupported: 404,
    errors.StoreError: 503,
}

# Errors of other session managers. They are given by name, because the packages that define them
# may not be installed.
_FOREIGN_STATUS = {
    "jupyter_client.kernelspec.NoSuchKernel": 501,
    "jupyter_client.multikernelmanager.DuplicateKernelError": 409,
}


class SessionHTTPError(HTTPError):
    """A Tornado HTTPError whose message is sent to the client."""

    def __init__(self, status_code: int, message: str, short_message: str | None = None) -> None:
        super().__init__(status_code, message)
        self.message = message
        self.short_message = short_message


def http_error(error: BaseException) -> HTTPError | None:
    """Return the HTTPError that corresponds to an error, or None if the error is unknown."""
    if isinstance(error, HTTPError):
        return error
    for base in type(error).__mro__:
        foreign = _FOREIGN_STATUS.get(f"{base.__module__}.{base.__qualname__}")
        status = foreign or _STATUS.get(base)
        if status is not None:
            short = None
            if status == 501:
                # The attributes of KernelspecNotFound and of jupyter_client's NoSuchKernel.
                name = getattr(error, "kernel_name", None) or getattr(error, "name", None)
                short = f"{name or error} not found"
            return SessionHTTPError(status, str(error), short)
    return None


def error_body(error: BaseException | None, status_code: int, phrase: str) -> dict[str, Any]:
    """Return the JSON body of an error reply.

    ``phrase`` is the standard text of the status code. It is used if the error has no message.
    """
    if isinstance(error, SessionHTTPError):
        if error.short_message is not None:
            return {"message": error.message, "short_message": error.short_message}
        return {"message": error.message, "reason": error.reason}
    if isinstance(error, HTTPError):
        return {"message": _message_of(error) or phrase, "reason": error.reason}
    return {"message": "Unhandled error" if status_code >= 500 else phrase, "reason": None}


def _message_of(error: HTTPError) -> str:
    if hasattr(error, "get_message"):  # Tornado 6.6
        return error.get_message() or ""
    message = error.log_message or ""
    return message % error.args if error.args else message.replace("%%", "%")
