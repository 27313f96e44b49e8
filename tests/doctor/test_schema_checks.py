"""Verdicts about versions, indexes and rights."""

from __future__ import annotations

from typing import Any

import pytest
from doctor_worlds import named
from test_server_checks import SOUND, server

from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.grants import Right, role_rights
from millhand.db.schema.migrator import lines, migrations
from millhand.doctor.schema_checks import (
    all_rights,
    declared_indexes,
    held,
    index_findings,
    right_findings,
    version_findings,
)
from millhand.doctor.store import IndexState, RightState, doctor_list_indexes
from millhand.shells.doctor.finding import Finding

CREATE_UNIQUE = (
    'CREATE UNIQUE INDEX CONCURRENTLY river_job_unique_idx ON "jobs".river_job (unique_key) '
    "WHERE unique_key IS NOT NULL AND unique_states IS NOT NULL "
    'AND "jobs".river_job_state_in_bitmask(unique_states, state);'
)
APPLIED = {line: frozenset(one.version for one in migrations(line)) for line in lines()}


@pytest.mark.parametrize(
    ("line", "applied", "level", "text"),
    [
        ("main", {1, 2, 3}, None, None),
        ("main", {1, 2}, "broken", "Version 3 of line main is missing."),
        ("main", {1}, "broken", "Versions 2 to 3 of line main are missing."),
        ("main", set(), "broken", "The tables of line main are missing in schema jobs."),
        ("millhand", {1, 3}, "harmful", "Version 2 of line millhand is missing."),
        ("main", {1, 2, 3, 4}, "notable", "Version 4 of line main was applied by a newer release."),
    ],
)
def test_versions_are_judged(line: str, applied: set[int], level: str | None, text: str | None) -> None:
    """A missing version is found with the command that applies it, and one of a newer release is notable."""
    found = version_findings(line, applied=applied, known=[1, 2, 3], schema="jobs")

    assert [(one.level, one.found) for one in found if isinstance(one, Finding)] == (
        [] if level is None else [(level, text)]
    )
    if level in ("broken", "harmful"):
        assert found[0].commands == (f"millhand migrate up --line {line} --schema jobs",)


async def test_declared_indexes_are_those_of_a_migrated_schema(driver: AsyncpgDriver) -> None:
    """The migrations' text declares every index of a migrated schema but those of keys, so nothing is found there."""
    declared = declared_indexes(APPLIED, "")
    indexes = await driver.pool.run(doctor_list_indexes())

    assert {one.name for one in indexes if "_pkey" not in one.name} == {one.name for one in declared}
    assert index_findings(declared, indexes, "public") == []


def state(name: str, *, is_valid: bool = True, is_in_work: bool = False) -> IndexState:
    return IndexState("river_job", name, "btree", is_valid, is_in_work, 0, 0)


@pytest.mark.parametrize(
    ("name", "level", "command"),
    [
        ("river_job_unique_idx", "broken", CREATE_UNIQUE),
        ("river_job_kind", "notable", 'CREATE INDEX CONCURRENTLY river_job_kind ON "jobs".river_job (kind);'),
        (
            "millhand_audit_at_idx",
            "harmful",
            'CREATE INDEX CONCURRENTLY millhand_audit_at_idx ON "jobs".millhand_audit (at);',
        ),
    ],
)
def test_missing_index_has_the_statement_that_creates_it(name: str, level: str, command: str) -> None:
    """The statement is the migration's own, without a lock on writes."""
    declared = declared_indexes(APPLIED, "jobs")
    rest = [state(one.name) for one in declared if one.name != name]

    [one] = index_findings(declared, rest, "jobs")

    assert (named([one])[0], one.commands) == ((level, f"index {name}"), (command,))


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        (state("river_job_kind_ccnew", is_valid=False), ("harmful", "DROP INDEX CONCURRENTLY ")),
        (state("river_job_kind_ccnew", is_valid=False, is_in_work=True), None),
        (state("river_job_unique_idx", is_valid=False), ("broken", "REINDEX INDEX CONCURRENTLY ")),
        (state("my_index"), None),
    ],
)
def test_invalid_index_is_dropped_or_rebuilt(added: IndexState, expected: tuple[str, str] | None) -> None:
    """What a rebuild left is dropped, a declared index is rebuilt, and one that is being built is left alone."""
    declared = declared_indexes(APPLIED, "jobs")
    names = {one.name for one in declared} - {added.name}

    found = index_findings(declared, [*map(state, names), added], "jobs")

    assert [(one.level, one.commands) for one in found if isinstance(one, Finding)] == (
        [] if expected is None else [(expected[0], (f'{expected[1]}"jobs".{added.name};',))]
    )


@pytest.mark.parametrize(
    ("names", "left", "found"),
    [
        (("river_job_args_index",), None, "The search index river_job_args_index is off."),
        (
            ("river_job_args_index", "river_job_metadata_index"),
            None,
            "The search indexes river_job_args_index and river_job_metadata_index are off.",
        ),
        (
            ("river_job_metadata_index",),
            state("river_job_metadata_index", is_valid=False),
            "Index river_job_metadata_index of river_job is invalid.",
        ),
        (("river_job_args_index",), state("river_job_args_index", is_valid=False, is_in_work=True), None),
    ],
)
def test_search_indexes_that_are_off_are_one_finding(
    names: tuple[str, ...], left: IndexState | None, found: str | None
) -> None:
    """What an operator dropped is notable, once, with the command that undoes it; so is what an interrupted call left."""
    declared = declared_indexes(APPLIED, "jobs")
    rest = [state(one.name) for one in declared if one.name not in names]

    findings = [
        one
        for one in index_findings(declared, [*rest, *([left] if left else [])], "jobs")
        if isinstance(one, Finding)
    ]

    assert [(one.level, one.found, one.commands) for one in findings] == (
        []
        if found is None
        else [("notable", found, ("millhand migrate tune --with-search-indexes --schema jobs",))]
    )


def rights(*roles: str, without: tuple[Right, ...] = ()) -> list[RightState]:
    has = {right for role in roles for right in role_rights(role)} - set(without)
    return [RightState(*right, right in has) for right in all_rights()]


UPDATE_JOBS = Right("river_job", "", "UPDATE")
READ_AUDIT = Right("millhand_audit", "", "SELECT")
INSERT_KIND = Right("river_job", "kind", "INSERT")


@pytest.mark.parametrize(
    ("states", "purpose", "given", "expected"),
    [
        (rights("worker"), None, "worker", []),
        (rights("inserter"), None, "inserter", []),
        (rights("feeder"), None, "feeder", []),
        (rights("reader"), None, "reader", []),
        (rights("worker", without=(UPDATE_JOBS,)), None, "worker", [("broken", "role shop_worker")]),
        (rights("worker", without=(READ_AUDIT,)), None, "worker", [("broken", "role shop_worker")]),
        (rights("reader", without=(READ_AUDIT,)), None, "reader", [("notable", "role shop_worker")]),
        (rights("inserter", without=(INSERT_KIND,)), None, "inserter", [("broken", "role shop_worker")]),
        (rights(), None, None, [("broken", "role shop_worker")]),
    ],
)
def test_role_is_judged_by_what_it_is_for(
    states: list[RightState], purpose: str | None, given: str | None, expected: list[tuple[str, str]]
) -> None:
    """The rights that a role has show its purpose; each of the four roles lacks nothing, and a lost right is found."""
    judged = held(states, purpose=purpose)

    assert judged.purpose == given
    assert named(right_findings(judged, SOUND)) == expected


def test_deployed_role_must_be_able_to_work() -> None:
    """Before a deploy, a role that can only read is broken, however complete its rights to read are."""
    found = right_findings(held(rights("reader"), purpose="worker"), SOUND)

    assert named(found) == [("broken", "role shop_worker")]
    assert found[0].commands == ("millhand migrate sql --grants --schema jobs | psql",)


def test_missing_rights_are_one_finding_with_all_objects() -> None:
    """A role that lacks rights on many objects has one fault, which lists each object once, by its missing rights."""
    without = (UPDATE_JOBS, INSERT_KIND, READ_AUDIT, Right("millhand_flow", "", "SELECT"))

    [one] = right_findings(held(rights("worker", "inserter", without=without), purpose="worker"), SOUND)

    assert isinstance(one, Finding)
    assert one.found == (
        "Role shop_worker, a worker, lacks rights on 3 objects: SELECT on millhand_audit and millhand_flow; "
        "UPDATE on river_job."
    )


def test_schema_that_the_role_may_not_use_is_found() -> None:
    """Without USAGE on the schema, no right on a table helps."""
    state: Any = server(can_use_schema=False)

    assert named(right_findings(held(rights("worker")), state)) == [("broken", "schema jobs")]
