"""Sessions and their kernels: shared ones, given ones, exchanged ones."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from support.server import Server


@pytest.fixture(autouse=True)
def _all_is_ended(each_host: Server) -> Iterator[None]:
    yield
    for model in each_host.list_sessions():
        each_host.delete(model["id"])
    for kernel_id in each_host.kernel_ids():
        each_host.request("DELETE", f"/api/kernels/{kernel_id}")


# Several sessions of one kernel


@pytest.fixture
def sharers(each_host: Server) -> tuple[dict[str, object], dict[str, object]]:
    """Two sessions of one kernel."""
    first = each_host.create("a.ipynb")
    second = each_host.create("b.ipynb", kernel={"id": first["kernel"]["id"]})
    assert second["kernel"]["id"] == first["kernel"]["id"]
    return first, second


def test_deleting_one_of_two_sharers_keeps_the_kernel(
    each_host: Server, sharers: tuple[dict[str, object], ...]
) -> None:
    first, second = sharers

    assert each_host.delete(str(first["id"])).status == 204

    assert [model["id"] for model in each_host.list_sessions()] == [second["id"]]
    assert len(each_host.kernel_ids()) == 1
    assert len(each_host.kernel_processes()) == 1


def test_deleting_the_last_sharer_ends_the_kernel(
    each_host: Server, sharers: tuple[dict[str, object], ...]
) -> None:
    for sharer in sharers:
        each_host.delete(str(sharer["id"]))

    assert each_host.kernel_ids() == set()
    each_host.wait_for_kernels(0)


def test_a_forced_delete_ends_the_kernel_of_all_sharers(
    each_host: Server, sharers: tuple[dict[str, object], ...]
) -> None:
    first, _ = sharers

    assert each_host.delete(str(first["id"]), "?force_kernel_shutdown=true").status == 204

    assert each_host.list_sessions() == []
    assert each_host.kernel_ids() == set()
    each_host.wait_for_kernels(0)


def test_a_sharer_that_gets_another_kernel_leaves_the_old_one_to_the_other(
    each_host: Server, sharers: tuple[dict[str, object], ...]
) -> None:
    first, second = sharers

    after = each_host.patch(str(first["id"]), {"kernel": {"name": "light"}}).json()

    left = each_host.get(str(second["id"])).json()["kernel"]["id"]
    assert each_host.kernel_ids() == {after["kernel"]["id"], left}
    assert after["kernel"]["id"] != left


def test_a_forced_patch_ends_the_old_kernel_of_all_sharers(
    each_host: Server, sharers: tuple[dict[str, object], ...]
) -> None:
    first, _ = sharers
    query = "?force_kernel_shutdown=true"

    after = each_host.patch(str(first["id"]), {"kernel": {"name": "light"}}, query).json()

    assert [model["id"] for model in each_host.list_sessions()] == [first["id"]]
    assert each_host.kernel_ids() == {after["kernel"]["id"]}


def test_a_flag_that_is_neither_true_nor_false_is_a_400(each_host: Server) -> None:
    model = each_host.create("a.ipynb")

    assert each_host.delete(model["id"], "?force_kernel_shutdown=maybe").status == 400
    assert each_host.get(model["id"]).status == 200


# Kernels that a POST asks for


def test_a_session_is_attached_to_a_kernel_that_runs(each_host: Server) -> None:
    kernel_id = each_host.start_kernel()

    model = each_host.create("a.ipynb", kernel={"id": kernel_id})

    assert model["kernel"]["id"] == kernel_id
    assert each_host.kernel_ids() == {kernel_id}


def test_a_kernel_id_goes_before_a_kernel_name(each_host: Server) -> None:
    kernel_id = each_host.start_kernel()

    model = each_host.create("a.ipynb", kernel={"id": kernel_id, "name": "python3"})

    assert model["kernel"]["id"] == kernel_id
    assert model["kernel"]["name"] == "light"


def test_a_kernel_id_that_nobody_knows_is_started(each_host: Server) -> None:
    kernel_id = str(uuid.uuid4())

    model = each_host.create("a.ipynb", kernel={"id": kernel_id, "name": "light"})

    assert (model["kernel"]["id"] == kernel_id) is each_host.host.keeps_kernel_ids
    assert each_host.kernel_ids() == {model["kernel"]["id"]}


@pytest.mark.parametrize("kernel_id", ["abc", "../../a-b-c-d-e", "a-b-c-d-" + "e" * 64])
def test_a_kernel_id_that_cannot_be_addressed_is_replaced(
    each_host: Server, kernel_id: str
) -> None:
    model = each_host.create("a.ipynb", kernel={"id": kernel_id, "name": "light"})

    started = model["kernel"]["id"]
    assert started != kernel_id
    assert each_host.request("GET", f"/api/kernels/{started}").status == 200


def test_a_kernel_id_with_a_connection_file_of_another_server_is_left_to_it(
    each_host: Server,
) -> None:
    kernel_id = str(uuid.uuid4())
    connection_file = each_host.runtime_dir / f"kernel-{kernel_id}.json"
    connection_file.write_text("another server's")
    body = {
        "path": "a.ipynb",
        "type": "notebook",
        "kernel": {"id": kernel_id, "name": "light"},
    }

    reply = each_host.post(body)

    if each_host.host.keeps_kernel_ids:
        assert reply.status == 409
        assert kernel_id in reply.message
        assert each_host.list_sessions() == []
        assert each_host.kernel_ids() == set()
    else:
        assert reply.json()["kernel"]["id"] != kernel_id
    assert connection_file.read_text() == "another server's"
    connection_file.unlink()


# Kernels that a PATCH asks for


@pytest.mark.parametrize("kernel_id", ["00000000-0000-4000-8000-000000000000", "abc", "../a"])
def test_a_patch_to_a_kernel_that_is_not_there_is_a_400(each_host: Server, kernel_id: str) -> None:
    model = each_host.create("a.ipynb")

    reply = each_host.patch(model["id"], {"kernel": {"id": kernel_id}})

    assert reply.status == 400
    assert kernel_id in reply.message
    assert each_host.get(model["id"]).json()["kernel"]["id"] == model["kernel"]["id"]


def test_a_patch_to_a_kernel_that_runs_ends_the_old_one(each_host: Server) -> None:
    model = each_host.create("a.ipynb")
    kernel_id = each_host.start_kernel()

    after = each_host.patch(model["id"], {"kernel": {"id": kernel_id}}).json()

    assert after["kernel"]["id"] == kernel_id
    assert each_host.kernel_ids() == {kernel_id}


@pytest.mark.parametrize("name", [None, "python3"])
def test_a_patch_with_the_sessions_own_kernel_id_changes_nothing(
    each_host: Server, name: str | None
) -> None:
    model = each_host.create("a.ipynb")
    kernel_id = model["kernel"]["id"]
    (process,) = each_host.kernel_processes()

    after = each_host.patch(model["id"], {"kernel": {"id": kernel_id, "name": name}}).json()

    assert after["kernel"]["id"] == kernel_id
    assert each_host.kernel_processes() == [process]


def test_a_patch_with_a_whole_model_renames_and_keeps_the_kernel(each_host: Server) -> None:
    model = each_host.create("a.ipynb")

    reply = each_host.patch(model["id"], {**model, "path": "b.ipynb", "notebook": None})

    assert (reply.status, reply.json()["path"]) == (200, "b.ipynb")
    assert each_host.kernel_ids() == {model["kernel"]["id"]}


def test_a_kernel_id_of_null_in_a_patch_is_ignored(each_host: Server) -> None:
    model = each_host.create("a.ipynb")

    after = each_host.patch(model["id"], {"kernel": {"id": None}, "name": "b"}).json()

    assert after["name"] == "b"
    assert after["kernel"]["id"] == model["kernel"]["id"]


# Kernels that end by other ways


def test_a_session_ends_with_its_kernel(each_host: Server) -> None:
    model = each_host.create("a.ipynb")

    each_host.request("DELETE", f"/api/kernels/{model['kernel']['id']}")

    assert each_host.list_sessions() == []
    assert each_host.get(model["id"]).status == 404


def test_a_path_whose_kernel_was_ended_gets_a_new_one(each_host: Server) -> None:
    before = each_host.create("a.ipynb")
    each_host.request("DELETE", f"/api/kernels/{before['kernel']['id']}")

    after = each_host.create("a.ipynb")

    assert after["kernel"]["id"] != before["kernel"]["id"]
    assert each_host.kernel_ids() == {after["kernel"]["id"]}


# Kernelspecs


def test_the_name_python_means_the_native_kernelspec(each_host: Server) -> None:
    created = each_host.create("a.ipynb", "python")
    assert created["kernel"]["name"] == "python3"

    patched = each_host.patch(str(created["id"]), {"kernel": {"name": "python"}})

    assert patched.status == 200
    assert patched.json()["kernel"]["name"] == "python3"
