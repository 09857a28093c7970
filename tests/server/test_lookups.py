"""What is found by what: lists, their filters, and a path that is asked for again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.server import Server

Models = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def models(each_host: Server) -> Iterator[Models]:
    """Three sessions: two notebooks and a console that has a notebook's kernel."""
    first = each_host.create("a.ipynb")
    second = each_host.create("folder/b.ipynb")
    console = each_host.create("c", kernel={"id": first["kernel"]["id"]}, type="console")
    yield {"first": first, "second": second, "console": console}
    for model in (first, second, console):
        each_host.delete(model["id"])


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["first", "second", "console"]),
        ("?path=a.ipynb", ["first"]),
        ("?path=/folder/b.ipynb", ["second"]),
        ("?path=nowhere", []),
        ("?type=notebook", ["first", "second"]),
        ("?type=console", ["console"]),
        ("?type=notebook&path=c", []),
        ("?kernel_id={first}", ["first", "console"]),
        ("?kernel_id=unknown", []),
    ],
)
def test_a_list_is_filtered_and_oldest_first(
    each_host: Server, models: Models, query: str, expected: list[str]
) -> None:
    found = each_host.list_sessions(query.format(first=models["first"]["kernel"]["id"]))

    assert [model["id"] for model in found] == [models[name]["id"] for name in expected]


@pytest.mark.parametrize("path", ["a.ipynb", "/a.ipynb", "a.ipynb/"])
def test_a_path_that_is_posted_again_is_answered_with_its_session(
    each_host: Server, models: Models, path: str
) -> None:
    again = each_host.create(path)

    assert again["id"] == models["first"]["id"]
    assert again["path"] == "a.ipynb"
    assert again["kernel"]["id"] == models["first"]["kernel"]["id"]


def test_a_session_is_posted_in_the_form_of_old_notebooks(each_host: Server) -> None:
    reply = each_host.post(
        {"notebook": {"path": "old.ipynb", "name": "old"}, "kernel": {"name": "light"}}
    )

    model = reply.json()
    assert reply.status == 201
    assert (model["path"], model["type"]) == ("old.ipynb", "notebook")
    assert model["notebook"] == {"path": "old.ipynb", "name": "old"}
    assert each_host.get(model["id"]).json()["path"] == "old.ipynb"
    each_host.delete(model["id"])


def test_only_notebooks_carry_the_old_field(each_host: Server, models: Models) -> None:
    assert "notebook" not in models["console"]
    assert "notebook" in models["first"]


def test_a_session_without_a_kernel_gets_the_default_one(each_host: Server) -> None:
    reply = each_host.post({"path": "d.py", "type": "file"})

    assert (reply.status, reply.json()["kernel"]["name"]) == (201, "python3")
    each_host.delete(reply.json()["id"])
