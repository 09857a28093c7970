"""The list of sessions that is kept is always as one that is made anew."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from nbsessions.errors import SessionNotFound, StoreUnavailable
from nbsessions.models import KernelModels, Session
from nbsessions.replies import Encoded
from nbsessions.service import encoded as encoded_module
from nbsessions.stores.base import SessionStore
from support.faults import Fault
from support.provider import FakeKernelProvider, Gate
from support.services import (
    STORES,
    Bench,
    eventually,
    make_owner,
    make_store,
    running_service,
)

TELLING = pytest.mark.parametrize("tells", [True, False], ids=["tells", "is-asked"])


@asynccontextmanager
async def bench_of(
    folder: Path, *, tells: bool = True, kind: str = "memory"
) -> AsyncIterator[Bench]:
    """Yield a service whose kernel provider tells which kernels have changed, or is asked."""
    async with running_service(kind, folder, provider=FakeKernelProvider(tells=tells)) as bench:
        yield bench


class Listed:
    """Looks at the list again and again, and checks that it has changed if it should have."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._versions: set[str | None] = set()

    async def changed(self, changed: bool = True) -> list[dict[str, Any]]:
        models = await self._bench.listed()
        encoded = await self._bench.service.encode_sessions()
        assert encoded.version is not None
        assert (encoded.version not in self._versions) is changed
        self._versions.add(encoded.version)
        return models

    async def unchanged(self) -> list[dict[str, Any]]:
        return await self.changed(False)


# What changes


@TELLING
@pytest.mark.parametrize("kind", STORES)
@pytest.mark.gen_test
async def test_each_change_of_a_session_is_listed(kind: str, tells: bool, tmp_path: Path) -> None:
    async with bench_of(tmp_path, tells=tells, kind=kind) as bench:
        listed = Listed(bench)
        assert await listed.changed() == []
        first, second = await bench.create("a.ipynb"), await bench.create("d/b.ipynb")
        assert [each["id"] for each in await listed.changed()] == [
            first.session_id,
            second.session_id,
        ]
        await listed.unchanged()
        await bench.update(first, path="c.ipynb")
        assert [each["path"] for each in await listed.changed()] == ["c.ipynb", "d/b.ipynb"]
        await bench.service.rename("d", "e")
        assert [each["path"] for each in await listed.changed()] == ["c.ipynb", "e/b.ipynb"]
        await bench.update(first, kernel_name="other")
        assert [each["kernel"]["name"] for each in await listed.changed()] == ["other", "light"]
        await bench.service.delete(first.session_id)
        assert [each["id"] for each in await listed.changed()] == [second.session_id]
        await listed.unchanged()


@TELLING
@pytest.mark.gen_test
async def test_each_change_of_a_kernel_is_listed(tells: bool, tmp_path: Path) -> None:
    async with bench_of(tmp_path, tells=tells) as bench:
        listed = Listed(bench)
        session, other = await bench.create("a.ipynb"), await bench.create("b.ipynb")
        shared = await bench.create("c.ipynb", kernel_id=session.kernel_id)
        await listed.changed()
        bench.provider.say(session.kernel_id, "busy")
        states = [each["kernel"]["execution_state"] for each in await listed.changed()]
        assert states == ["busy", "idle", "busy"]
        bench.provider.say(session.kernel_id, "busy")
        await listed.unchanged()
        bench.provider.die(session.kernel_id)
        assert [each["id"] for each in await listed.changed()] == [other.session_id]

        async def ended() -> bool:
            return await bench.store.find_session(shared.session_id) is None

        await eventually(ended, "the sessions of the dead kernel are ended")
        await listed.unchanged()


@TELLING
@pytest.mark.gen_test
async def test_a_kernel_is_asked_for_until_its_state_is_known(tells: bool, tmp_path: Path) -> None:
    async with bench_of(tmp_path, tells=tells) as bench:
        listed = Listed(bench)
        session = await bench.create()
        await listed.changed()
        bench.provider.lose_sight(session.kernel_id)
        (model,) = await listed.changed()
        assert model["kernel"]["execution_state"] == "unknown"
        await listed.unchanged()
        # Nobody needs to tell that it is known again.
        bench.provider.unknown = set()
        (model,) = await listed.changed()
        assert model["kernel"]["execution_state"] == "idle"


@pytest.mark.gen_test
async def test_only_the_kernels_that_have_changed_are_asked_for(tmp_path: Path) -> None:
    async with bench_of(tmp_path) as bench:
        sessions = [await bench.create(f"{number}.ipynb") for number in range(4)]
        ids = [session.kernel_id for session in sessions]
        read = bench.service.encode_sessions
        await read()
        bench.provider.asked.clear()
        first = await read()
        assert (await read()).content is first.content
        assert bench.provider.asked == []
        bench.provider.say(ids[1], "busy")
        bench.provider.say(ids[3], "busy")
        await read()
        assert bench.provider.asked == [ids[1], ids[3]]
        await bench.update(sessions[2], name="new")
        bench.provider.asked.clear()
        await read()
        assert bench.provider.asked == [ids[2]]


@pytest.mark.gen_test
async def test_a_session_has_one_version_for_as_long_as_nothing_changes(tmp_path: Path) -> None:
    async with bench_of(tmp_path) as bench:
        await bench.create("a.ipynb")
        session = await bench.create("b.ipynb")
        # Nobody has listed it yet.
        unlisted = await bench.service.encode_session(session.session_id)
        await bench.listed()
        bench.provider.asked.clear()
        first = await bench.service.encode_session(session.session_id)
        assert first == unlisted
        assert (await bench.service.encode_session(session.session_id)).content is first.content
        assert bench.provider.asked == []
        bench.provider.say(session.kernel_id, "busy")
        busy = await bench.service.encode_session(session.session_id)
        assert b"busy" in busy.content
        assert busy.version != first.version
        assert b"busy" in (await bench.service.encode_sessions()).content
        assert bench.provider.asked == [session.kernel_id]
        await bench.update(session, name="new")
        renamed = await bench.service.encode_session(session.session_id)
        assert renamed.version not in {first.version, busy.version}
        await bench.service.delete(session.session_id)
        with pytest.raises(SessionNotFound):
            await bench.service.encode_session(session.session_id)


@pytest.mark.gen_test
async def test_nothing_is_kept_when_changes_may_be_missed(tmp_path: Path) -> None:
    async with bench_of(tmp_path) as bench:
        listed = Listed(bench)
        session = await bench.create()
        await listed.changed()
        bench.provider.watch_models(encoded_module.ModelChanges())
        await listed.unchanged()
        bench.provider.say(session.kernel_id, "busy")
        await listed.changed()
        await bench.service.delete(session.session_id)
        assert await listed.changed() == []


@pytest.mark.gen_test
async def test_models_that_a_provider_changes_in_place_are_listed_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench_of(tmp_path, tells=False) as bench:
        listed = Listed(bench)
        session = await bench.create()
        model = {**bench.provider.model(session.kernel_id), "more": {"cpu": 1}}
        monkeypatch.setattr(bench.provider, "model", lambda kernel_id: model)
        await listed.changed()
        model["more"]["cpu"] = 2
        assert (await listed.changed())[0]["kernel"]["more"] == {"cpu": 2}
        await listed.unchanged()


@pytest.mark.gen_test
async def test_changes_do_not_pile_up_while_nobody_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SessionStore, "check_interval", 0.0)
    async with bench_of(tmp_path) as bench:
        session = await bench.create("a.ipynb")
        await bench.create("b.ipynb")
        await bench.listed()
        bench.provider.asked.clear()
        bench.provider.say(session.kernel_id, "busy")

        async def dropped() -> bool:
            return not bench.provider._changes._kernel_ids

        await eventually(dropped, "no change is waiting to be taken")
        assert bench.provider.asked == []
        states = [each["kernel"]["execution_state"] for each in await bench.listed()]
        assert states == ["busy", "idle"]


# Readers and writers at the same time


async def hold_up_a_reader(bench: Bench) -> tuple[Session, Gate, asyncio.Task[Encoded]]:
    """Let a reader wait at a gate for the model of a kernel that is busy. Others do not wait."""
    session = await bench.create()
    await bench.listed()
    bench.provider.say(session.kernel_id, "busy")
    gate = bench.provider.model_gate = Gate()
    reader = asyncio.create_task(bench.service.encode_sessions())
    await gate.reached()
    bench.provider.model_gate = None
    return session, gate, reader


@TELLING
@pytest.mark.gen_test
async def test_a_reader_sees_what_happened_before_it_came_while_another_one_is_held_up(
    tells: bool, tmp_path: Path
) -> None:
    async with bench_of(tmp_path, tells=tells) as bench:
        session, gate, first = await hold_up_a_reader(bench)
        bench.provider.say(session.kernel_id, "restarting")
        second = asyncio.create_task(bench.service.encode_sessions())
        third = asyncio.create_task(bench.service.encode_session(session.session_id))
        await asyncio.sleep(0)
        gate.open()
        assert b"busy" in (await first).content
        assert b"restarting" in (await second).content
        assert b"restarting" in (await third).content
        assert b"restarting" in (await bench.service.encode_sessions()).content


@pytest.mark.gen_test
async def test_a_session_that_comes_while_kernels_are_asked_for_is_listed(tmp_path: Path) -> None:
    async with bench_of(tmp_path, tells=False) as bench:
        session, gate, reader = await hold_up_a_reader(bench)
        other = await bench.create("other.ipynb")
        gate.open()
        models = json.loads((await reader).content)
        assert [each["id"] for each in models] == [session.session_id, other.session_id]


@pytest.mark.gen_test
async def test_a_list_ends_although_sessions_keep_coming(tmp_path: Path) -> None:
    async with bench_of(tmp_path, tells=False) as bench:
        models, asked = bench.provider.models, 0

        async def ask(kernel_ids: Sequence[str]) -> KernelModels:
            nonlocal asked
            bench.provider.models = models  # type: ignore[method-assign]
            await bench.create(f"{(asked := asked + 1)}.ipynb")
            bench.provider.models = ask  # type: ignore[method-assign]
            return await models(kernel_ids)

        await bench.create()
        bench.provider.models = ask  # type: ignore[method-assign]
        listed = json.loads((await bench.service.encode_sessions()).content)
        assert len(listed) == asked == 3


@pytest.mark.gen_test
async def test_what_is_outdated_is_not_dropped_while_a_reader_makes_it(tmp_path: Path) -> None:
    async with bench_of(tmp_path) as bench:
        session, gate, reader = await hold_up_a_reader(bench)
        bench.provider.say(session.kernel_id, "restarting")
        dropping = asyncio.create_task(bench.service._encoded.drop_changed())
        await asyncio.sleep(0)
        gate.open()
        await asyncio.gather(reader, dropping)
        (model,) = await bench.listed()
        assert model["kernel"]["execution_state"] == "restarting"


@TELLING
@pytest.mark.gen_test
async def test_what_a_reader_had_begun_is_not_lost_when_it_gives_up(
    tells: bool, tmp_path: Path
) -> None:
    async with bench_of(tmp_path, tells=tells) as bench:
        _, gate, reader = await hold_up_a_reader(bench)
        reader.cancel()
        await asyncio.wait([reader])
        gate.open()
        (model,) = await bench.listed()
        assert model["kernel"]["execution_state"] == "busy"


@TELLING
@pytest.mark.gen_test
async def test_what_a_failed_reader_had_begun_is_not_lost(
    tells: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench_of(tmp_path, tells=tells) as bench:
        sessions = [await bench.create(f"{number}.ipynb") for number in range(2)]
        await bench.listed()
        with monkeypatch.context() as fault:
            fault.setattr(bench.provider, "model", lambda kernel_id: {"id": object()})
            for session in sessions:
                bench.provider.say(session.kernel_id, "busy")
            with pytest.raises(TypeError):
                await bench.service.encode_sessions()
        states = [each["kernel"]["execution_state"] for each in await bench.listed()]
        assert states == ["busy", "busy"]


@TELLING
@pytest.mark.gen_test
async def test_a_list_is_an_error_when_the_store_cannot_be_read(
    tells: bool, tmp_path: Path
) -> None:
    async with bench_of(tmp_path, tells=tells) as bench:
        await bench.create()
        await bench.listed()
        bench.faults.fail("list_sessions", Fault.UNAVAILABLE)
        with pytest.raises(StoreUnavailable):
            await bench.service.encode_sessions()
        assert len(await bench.listed()) == 1


@TELLING
@pytest.mark.gen_test
async def test_a_session_that_changes_its_kernel_is_never_missing(
    tells: bool, tmp_path: Path
) -> None:
    async with bench_of(tmp_path, tells=tells) as bench:
        session = await bench.create()
        await bench.listed()
        gate = bench.faults.hold("update")
        switch = asyncio.create_task(bench.update(session, kernel_name="other"))
        await gate.reached()
        bench.provider.die(session.kernel_id)
        (model,) = await bench.listed()
        assert model["kernel"]["execution_state"] == "unknown"
        gate.open()
        await switch
        (model,) = await bench.listed()
        assert model["kernel"]["name"] == "other"


# Writers that are other servers


@TELLING
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
@pytest.mark.gen_test
async def test_what_another_server_writes_is_listed_and_the_rest_is_kept(
    kind: str, tells: bool, tmp_path: Path
) -> None:
    here, there = FakeKernelProvider(tells=tells), FakeKernelProvider()
    there._names = here._names
    owners = [replace(make_owner(), shared_scope="shared") for _ in range(2)]
    other = Bench(make_store(kind, tmp_path), there, owners[1])
    async with running_service(kind, tmp_path, provider=here, owner=owners[0]) as bench:
        await other.service.open()
        try:
            listed = Listed(bench)
            mine: Session = await bench.create("a.ipynb")
            await listed.changed()
            theirs = await other.create("b.ipynb")
            here.asked.clear()
            await bench.service.encode_sessions()
            assert Counter(here.asked)[mine.kernel_id] == (0 if tells else 1)
            await listed.changed()
            await other.update(mine, name="new")
            assert [each["name"] for each in await listed.changed()] == ["new", "b.ipynb"]
            await other.service.delete(theirs.session_id)
            assert [each["id"] for each in await listed.changed()] == [mine.session_id]
            await listed.unchanged()
        finally:
            await other.service.stop()
            other.service.close()
