"""What the keeper reads in the messages of kernels. It never changes a message.

A message is the list of frames from the delimiter on, without routing identities: signature,
header, parent header, metadata, content and buffers. See "The wire protocol" in the documentation
of jupyter_client.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

DELIMITER: Final = b"<IDS|MSG>"
SIGNATURE, HEADER, PARENT, METADATA, CONTENT = range(5)
_FRAMES = 5
KEY_SIZE: Final = 32

_COUNTED = {"display_data", "execute_result"}

_TYPE = re.compile(rb'"msg_type"\s*:\s*"([^"\\]*)"')


class NotAMessage(ValueError):
    """The frames are not those of a kernel's message."""


def message_of(frames: Sequence[bytes]) -> list[bytes]:
    """Return the message in the frames of a multipart ZMQ message. Raises NotAMessage."""
    try:
        start = frames.index(DELIMITER) + 1
    except ValueError:
        raise NotAMessage("the frames have no delimiter") from None
    message = list(frames[start:])
    if len(message) < _FRAMES:
        raise NotAMessage(f"the message has {len(message)} frames instead of at least {_FRAMES}")
    return message


def key_of(signature: bytes, header: bytes) -> bytes:
    """Return 32 bytes that identify a message among all of its kernel.

    The signature covers the message id. A kernel without a key does not sign.
    """
    if len(signature) >= KEY_SIZE:
        return bytes(signature[:KEY_SIZE])
    return _digest(header)


def key_of_request(parent_header: bytes) -> bytes:
    """Return 32 bytes that identify the request that a reply with this parent header answers."""
    try:
        message_id = str(json.loads(parent_header)["msg_id"])
    except (ValueError, KeyError, TypeError, RecursionError):
        message_id = ""
    return _digest(message_id.encode())


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=KEY_SIZE // 2).hexdigest().encode()


def type_of(header: bytes | memoryview) -> str:
    """Return the message type in a header, or "" if it has none."""
    found = _TYPE.search(header)
    return found[1].decode(errors="replace") if found else ""


def decoded(frame: bytes) -> dict[str, Any]:
    """Return the object in a frame, or an empty one if the frame has none."""
    try:
        return msgspec.json.decode(frame, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}


def count_lines(message: Sequence[bytes]) -> int:
    """Return how many lines of a cell's output a message is. A plot or a result counts as one.

    What a kernel prints for others than cells, as about an unknown comm, is not shown.
    """
    if type_of(message[PARENT]) != "execute_request":
        return 0
    kind = type_of(message[HEADER])
    if kind == "stream":
        return message[CONTENT].count(b"\\n")
    return int(kind in _COUNTED)
