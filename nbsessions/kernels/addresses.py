"""Which kernel ids the routes of ``/api/kernels`` can address."""

from __future__ import annotations

import re

_ADDRESSABLE = re.compile(r"\w+-\w+-\w+-\w+-\w+")
_LONGEST_ID = 64


def is_addressable(kernel_id: str) -> bool:
    """Return whether the REST API could address a kernel with this id."""
    return len(kernel_id) <= _LONGEST_ID and _ADDRESSABLE.fullmatch(kernel_id) is not None
