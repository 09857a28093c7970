"""What ``doctor`` says about the conditions that a database can be in."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from nbsessions.cli.checks.database import examine_condition
from nbsessions.cli.checks.finding import Finding, Level
from nbsessions.stores.inspection import DatabaseCondition, Population, TableAccess

NAMES = ("ending", "intent", "kernel", "member", "meta", "namespace", "owner", "session")


def make_tables(**options: Any) -> tuple[TableAccess, ...]:
    defaults = {
        "denied": (),
        "excessive": (),
        "has_row_security": False,
        "row_security_applies": False,
    }
    return tuple(
        TableAccess(
            name=f"nbsessions_{name}", is_private=name != "meta", **{**defaults, **options}
        )
        for name in NAMES
    )


GOOD = DatabaseCondition(
    version="18.1",
    version_number=180001,
    role="ada",
    takes_writes=True,
    latency=timedelta(milliseconds=1),
    clock_difference=timedelta(milliseconds=-3),
    encrypted=True,
    is_local=False,
    pooled=False,
    may_create=True,
    schema=1,
    newest=1,
    too_new=None,
    tables=make_tables(),
    granted=None,
    population=Population(sessions=2, owners=1, namespaces=1),
)


def check(namespace: str | None = "ada", **changes: Any) -> dict[str, Finding]:
    """Return the findings about a condition that is good but for these changes."""
    found = list(examine_condition(replace(GOOD, **changes), namespace))
    assert all(each.hint for each in found if each.level is not Level.OK)
    assert len({each.check for each in found}) == len(found)
    return {each.check: each for each in found}


def test_a_good_condition_has_no_warnings() -> None:
    found = check()
    assert {each.level for each in found.values()} == {Level.OK}
    assert found["store-contents"].message == (
        "sessions: 2, servers that were not stopped: 1, namespaces: 1"
    )


@pytest.mark.parametrize(
    ("name", "level", "message", "changes"),
    [
        ("version", Level.WARNING, "not tested", {"version_number": 140022}),
        ("version", Level.OK, "18.1", {"version_number": 150000}),
        ("writable", Level.ERROR, "standby", {"takes_writes": False}),
        ("latency", Level.WARNING, "takes 80.0 ms", {"latency": timedelta(milliseconds=80)}),
        ("encryption", Level.WARNING, "not encrypted", {"encrypted": False}),
        ("encryption", Level.OK, "this machine", {"encrypted": False, "is_local": True}),
        ("pooler", Level.OK, "is between", {"pooled": True}),
        ("clock", Level.WARNING, "90.0 s behind", {"clock_difference": timedelta(seconds=-90)}),
        ("clock", Level.WARNING, "90.0 s ahead", {"clock_difference": timedelta(seconds=90)}),
        ("schema", Level.ERROR, "too new", {"schema": None, "too_new": "it is too new"}),
        ("schema", Level.ERROR, "may not read", {"schema": None}),
        ("schema", Level.OK, "the first server creates", {"schema": 0, "tables": ()}),
        ("schema", Level.ERROR, "may not create", {"schema": 0, "may_create": False}),
        ("schema", Level.OK, "schema version 1: the first server", {"newest": 2}),
        ("schema", Level.ERROR, "may not create", {"newest": 2, "may_create": False}),
        ("privileges", Level.ERROR, "INSERT, DELETE on", {"denied": ("INSERT", "DELETE")}),
        ("privileges", Level.WARNING, "TRUNCATE on nbsessions_", {"excessive": ("TRUNCATE",)}),
    ],
)
def test_each_thing_that_may_be_wrong_is_found(
    name: str, level: Level, message: str, changes: dict[str, Any]
) -> None:
    if "denied" in changes or "excessive" in changes:
        changes = {"tables": make_tables(**changes)}
    finding = check(**changes)[f"store-{name}"]
    assert finding.level is level
    assert message in finding.message


def test_the_remedy_for_missing_tables_is_the_command_that_makes_them() -> None:
    hint = check(schema=0, may_create=False)["store-schema"].hint
    assert "jupyter nbsessions database migrate" in str(hint)


def test_several_namespaces_without_row_level_security_are_a_warning() -> None:
    several = Population(sessions=0, owners=0, namespaces=2)
    assert check(population=several)["store-row-security"].level is Level.WARNING


@pytest.mark.parametrize(
    ("applies", "level", "message"),
    [(True, Level.OK, "restricts the role 'ada'"), (False, Level.WARNING, "does not restrict")],
)
def test_it_is_told_whether_row_level_security_restricts_the_role(
    applies: bool, level: Level, message: str
) -> None:
    tables = make_tables(has_row_security=True, row_security_applies=applies)
    finding = check(tables=tables)["store-row-security"]
    assert finding.level is level
    assert message in finding.message


@pytest.mark.parametrize(
    ("namespace", "granted", "level"),
    [
        ("ada", {"ada", "bob"}, Level.OK),
        ("ada", {"bob"}, Level.ERROR),
        ("ada", set(), Level.ERROR),
        (None, {"bob"}, Level.OK),
    ],
)
def test_a_role_that_is_kept_from_the_namespace_is_an_error(
    namespace: str | None, granted: set[str], level: Level
) -> None:
    tables = make_tables(has_row_security=True, row_security_applies=True)
    found = check(namespace, tables=tables, granted=frozenset(granted))
    assert found["store-row-security"].level is level


def test_row_level_security_that_is_on_for_some_tables_only_is_a_warning() -> None:
    *most, session = make_tables(has_row_security=True, row_security_applies=True)
    tables = (*most, replace(session, has_row_security=False))
    finding = check(tables=tables)["store-row-security"]
    assert finding.level is Level.WARNING
    assert "nbsessions_session" in finding.message
