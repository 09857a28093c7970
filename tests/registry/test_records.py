"""Kernel records are written atomically, are private, and do no harm when damaged."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nbsessions.registry.process import ProcessIdentity
from nbsessions.registry.records import KernelRecord, KernelRecords, forget_kernel
from support.store_processes import OtherProcess
from support.surviving import LOG, Place, make_record, write_again_and_again

FULL = KernelRecord(
    kernel_id="a-kernel",
    server_id="a-server",
    host="a-host",
    namespace="n",
    root_dir="/a/root",
    kernel_name="python3",
    kernel_spec={"argv": ["python", "-f"], "metadata": {"debugger": True}, "env": {"A": "1"}},
    connection_file="/a/file",
    connection_info={"shell_port": 1, "key": "a-key", "transport": "tcp"},
    cwd="/a/folder",
    env={"B": "2"},
    env_removed=["C"],
    process=ProcessIdentity(
        pid=5, started=1234567.0, host="a-host", boot_id="a-boot", pid_namespace="pid:[1]"
    ),
    restarting=True,
    session_id="a-session",
    token="a-token",
    execution_state="busy",
    last_activity=datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=timezone.utc),
    protocol_version="5.4",
    clients=["a-kernel:a-client"],
    logged=12345,
    orphan_timeout=60.0,
    output_limit=1000,
    total_output_limit=5000,
    adopted=True,
)


def one_warning(caplog: pytest.LogCaptureFixture) -> str:
    """Return the only message that was logged."""
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    return caplog.records[0].getMessage()


# Writing and reading


def test_every_field_is_read_as_it_was_written(place: Place) -> None:
    place.records.write(FULL)
    assert place.records.read("a-kernel") == FULL
    defaults = {name for name in KernelRecord.__struct_fields__ if not getattr(FULL, name)}
    assert defaults == set(), "a field that the test leaves out"


def test_fields_that_are_not_known_are_read_as_such(place: Place) -> None:
    record = make_record()
    place.records.write(record)
    assert list(place.records.read_all()) == [record]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
# Includes surrogate escapes, as in paths that are not valid UTF-8.
TEXT = st.text() | st.binary().map(os.fsdecode)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    root_dir=TEXT,
    cwd=st.none() | TEXT,
    env=st.dictionaries(TEXT, TEXT),
    spec=st.dictionaries(st.text(), JSON),
    activity=st.none() | st.datetimes(timezones=st.just(timezone.utc)),
    started=st.integers(0, 2**53) | st.floats(0, 1e12),
)
def test_whatever_a_record_holds_is_read_as_it_was_written(
    place: Place,
    root_dir: str,
    cwd: str | None,
    env: dict[str, str],
    spec: dict[str, Any],
    activity: datetime | None,
    started: float,
) -> None:
    process = ProcessIdentity(pid=1, started=started, host="", boot_id="", pid_namespace="")
    record = make_record(
        root_dir=root_dir,
        cwd=cwd,
        env=env,
        kernel_spec=spec,
        last_activity=activity,
        process=process,
    )
    place.records.write(record)
    assert place.records.read("a-kernel") == record


def test_a_path_will_do_for_a_string(place: Place, tmp_path: Path) -> None:
    place.records.write(make_record(cwd=tmp_path))
    read = place.records.read("a-kernel")
    assert read is not None
    assert read.cwd == str(tmp_path)


def test_records_are_for_their_user_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "kernels"
    umask = os.umask(0)
    try:
        records = KernelRecords(folder, log=LOG)
        records.make_folder()
        records.make_folder()
        records.write(FULL)
    finally:
        os.umask(umask)
    assert [each.stat().st_mode & 0o777 for each in (folder, folder.parent)] == [0o700, 0o700]
    assert (folder / "a-kernel.json").stat().st_mode & 0o777 == 0o600


def test_without_a_folder_there_are_no_records(tmp_path: Path) -> None:
    records = KernelRecords(tmp_path / "missing", log=LOG)
    assert list(records.read_all()) == []
    assert records.read("a-kernel") is None
    with pytest.raises(FileNotFoundError):
        records.write(FULL)


def test_a_missing_record_is_no_news(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    assert place.records.read("a-kernel") is None
    assert not caplog.records


@pytest.mark.parametrize(
    "kernel_id",
    ["\0", "\ud800", "x" * 300, "../../etc/passwd", "a/b"],
    ids=["NUL", "a lone surrogate", "a long one", "a path", "two parts"],
)
def test_an_id_that_no_kernel_can_have_is_not_found(place: Place, kernel_id: str) -> None:
    assert place.records.read(kernel_id) is None


# Records that cannot be used


def change(**fields: object) -> Callable[[bytes], bytes]:
    return lambda text: json.dumps({**json.loads(text), **fields}).encode()


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda text: b"",
    "cut in half": lambda text: text[: len(text) // 2],
    "not JSON": lambda text: b"not JSON",
    "not UTF-8": lambda text: text.replace(b"python3", b"\xff\xfe"),
    "zeros, as after a power failure": lambda text: bytes(len(text)),
    "not an object": lambda text: b"[1]",
    "too deep": lambda text: text.replace(b'"python3"', b"[" * 100_000),
    "fields missing": lambda text: b'{"kernel_id": "a-kernel"}',
    "a wrong type": change(env=["A"]),
    "another wrong type": change(last_activity="yesterday"),
    "another kernel's": change(kernel_id="another-kernel"),
    "process 0": change(process={**msgspec.to_builtins(FULL.process), "pid": 0}),
    "all processes": change(process={**msgspec.to_builtins(FULL.process), "pid": -1}),
    "no process": change(process={**msgspec.to_builtins(FULL.process), "pid": 2**40}),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_record_is_passed_over_with_a_warning(
    place: Place, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
) -> None:
    place.records.write(FULL)
    whole = make_record("whole")
    place.records.write(whole)
    file = place.record_file("a-kernel")
    file.write_bytes(damage(file.read_bytes()))
    assert list(place.records.read_all()) == [whole]
    assert str(file) in one_warning(caplog)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 900), removed=st.integers(0, 900), put=st.binary(max_size=6))
def test_no_damage_at_all_raises(place: Place, start: int, removed: int, put: bytes) -> None:
    place.records.write(FULL)
    file = place.record_file("a-kernel")
    text = file.read_bytes()
    file.write_bytes(text[:start] + put + text[start + removed :])
    read = place.records.read("a-kernel")
    assert read is None or isinstance(read, KernelRecord)


def test_what_is_said_of_a_damaged_record_does_not_hold_its_key(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.records.write(make_record(connection_info={"key": "swordfish"}))
    file = place.record_file("a-kernel")
    file.write_text(file.read_text().replace('"python3"', "3"))
    assert place.records.read("a-kernel") is None
    assert "swordfish" not in one_warning(caplog)


def test_a_folder_in_the_place_of_a_record_is_passed_over(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.record_file("a-kernel").mkdir()
    assert list(place.records.read_all()) == []
    one_warning(caplog)


def test_another_users_record_is_passed_over(
    place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.records.write(FULL)
    if os.geteuid() == 0:
        os.chown(place.record_file("a-kernel"), 65534, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert list(place.records.read_all()) == []
    assert "belongs to another user" in one_warning(caplog)


def test_fields_of_a_later_version_are_no_damage(place: Place) -> None:
    place.records.write(FULL)
    file = place.record_file("a-kernel")
    file.write_bytes(change(invented_later=True)(file.read_bytes()))
    assert place.records.read("a-kernel") == FULL


# Replacing


def test_nobody_ever_reads_half_a_record(
    place: Place, tmp_path: Path, other: OtherProcess, caplog: pytest.LogCaptureFixture
) -> None:
    place.records.write(make_record())
    stop = tmp_path / "stop"
    other.tell(write_again_and_again, tmp_path / "kernels", "a-kernel", 500, stop)
    seen = {0}
    deadline = time.monotonic() + 60
    while len(seen) < 100 or max(seen) < 500:
        assert time.monotonic() < deadline, "the other process does not write"
        record = place.records.read("a-kernel")
        assert record is not None
        seen.add(record.logged)
    stop.touch()
    written = other.answer()
    assert not caplog.records
    last = place.records.read("a-kernel")
    assert last is not None
    assert last.logged == written


def test_a_draft_that_a_crash_has_left_is_no_record(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    record = make_record()
    place.records.write(record)

    def crash(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        patch.setattr(os, "unlink", crash)
        with pytest.raises(KeyboardInterrupt):
            place.records.write(make_record(root_dir="/new"))
    assert len(list(place.record_file("a-kernel").parent.iterdir())) == 2
    assert list(place.records.read_all()) == [record]
    assert not caplog.records


def test_a_write_that_fails_leaves_the_record_before_it_and_nothing_else(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make_record()
    place.records.write(record)

    def fail(*arguments: object, **options: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="no space left"):
            place.records.write(make_record(root_dir="/new"))
    assert place.records.read("a-kernel") == record
    assert list(place.record_file("a-kernel").parent.iterdir()) == [place.record_file("a-kernel")]


# Removing


def test_removing_takes_the_record_and_the_log(place: Place) -> None:
    place.records.write(FULL)
    place.log_file("a-kernel").write_text("printed")
    place.records.remove("a-kernel")
    place.records.remove("a-kernel")
    assert list((place.folder / "kernels").iterdir()) == []


def test_removing_leaves_other_kernels_alone(place: Place) -> None:
    other = make_record("a-kernel-2")
    place.records.write(other)
    place.records.write(FULL)
    place.records.remove("a-kernel")
    assert list(place.records.read_all()) == [other]


def test_forgetting_takes_the_connection_file_too(place: Place) -> None:
    record = place.record("a-server", None)
    assert Path(record.connection_file).exists()
    forget_kernel(place.records, record)
    forget_kernel(place.records, record)
    assert not Path(record.connection_file).exists()
    assert list(place.records.read_all()) == []
