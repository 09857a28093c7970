"""What is left of texts in which passwords may be quoted."""

from __future__ import annotations

import pytest

from nbsessions.cli.masking import mask


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://ada:secret@host/db", "postgresql://ada:***@host/db"),
        ("postgresql://ada:se@cret@host/db", "postgresql://ada:***@host/db"),
        ("postgresql://ada:se'cret@host/db", "postgresql://ada:***@host/db"),
        ('postgresql://ada:se"cret@host/db', "postgresql://ada:***@host/db"),
        ("postgresql://ada:my se@cret@host/db", "postgresql://ada:***@host/db"),
        ("postgresql://ada:my sec@r/et@host/db", "postgresql://ada:***@host/db"),
        ("postgresql://o'ada:secret@host/db", "postgresql://o'ada:***@host/db"),
        (
            "url='postgresql://ada:s@host/db', a='b@c'",
            "url='postgresql://ada:***@host/db', a='b@c'",
        ),
        (
            "postgresql://a:s@b/d postgresql://c:t@e/f",
            "postgresql://a:***@b/d postgresql://c:***@e/f",
        ),
        (
            "postgresql://host:5432/db?password=secret&a=b",
            "postgresql://host:5432/db?password=***&a=b",
        ),
        ("host=h password=secret user=ada", "host=h password=*** user=ada"),
        ("host=h password = secret user=ada", "host=h password = *** user=ada"),
        ("host=h password='my secret' user=ada", "host=h password=*** user=ada"),
        (r"host=h password='it\'s secret' user=ada", "host=h password=*** user=ada"),
        (
            "postgresql://host:5432/db of ada@example.org",
            "postgresql://host:5432/db of ada@example.org",
        ),
    ],
)
def test_passwords_are_hidden_and_nothing_else(text: str, masked: str) -> None:
    assert mask(text) == masked
