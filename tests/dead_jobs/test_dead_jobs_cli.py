"""Claims about `millhand dead`."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from cli_runner import millhand
from dead_jobs import copier_of, dead_ids, delete_row, discard, until_blocked
from factory import get_job, insert_job, qualified
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver

pytestmark = pytest.mark.usefixtures("project")

HOUR = timedelta(hours=1)


async def letters(driver: AsyncpgDriver) -> tuple[int, int, int]:
    """Discard three jobs, copy them, and delete the row of the first one."""
    now = datetime.now(UTC)
    pool = driver.pool
    ids = [
        (
            await discard(
                pool, kind=kind, queue=queue, error=error, finalized_at=now - age * HOUR, args='{"n":1}'
            )
        ).id
        for kind, queue, error, age in (
            ("send", "mail", "Timeout of a", 3),
            ("send", "bulk", "no such user", 2),
            ("pay", "mail", "timeout of b", 1),
        )
    ]
    await copier_of(pool).run_once()
    await delete_row(pool, ids[0])
    return ids[0], ids[1], ids[2]


@pytest.mark.slow
async def test_dead_list_filters_and_prints_lines_and_json(schema_driver: AsyncpgDriver) -> None:
    """The last discard comes first; `row` is the state of the row now."""
    first, second, third = await letters(schema_driver)

    listed = await millhand("dead", "list")
    found = await millhand(
        "dead",
        "list",
        "--kind",
        "send,pay",
        "--queue",
        "mail",
        "--error",
        "TIMEOUT",
        "--since",
        "2h",
        "--json",
    )
    day = (datetime.now(UTC) + timedelta(days=1)).date()
    until = await millhand("dead", "list", "--until", "150m", "--since", "2026-03-01", "--json")
    none = await millhand("dead", "list", "--since", day)
    limited = await millhand("dead", "list", "--limit", 2)

    assert [(line[0], *line[1:4], *line[5:]) for line in listed.lines] == [
        (str(third), "pay", "mail", "25/25", "discarded", "timeout of b"),
        (str(second), "send", "bulk", "25/25", "discarded", "no such user"),
        (str(first), "send", "mail", "25/25", "deleted", "Timeout of a"),
    ]
    assert [(one["id"], one["current_state"]) for one in found.json] == [(third, "discarded")]
    assert [(one["id"], one["current_state"], one["args"]) for one in until.json] == [(first, None, {"n": 1})]
    assert (none.code, none.out) == (0, "")
    assert limited.err == (
        "listed 2 dead letters, the limit; for more add --limit with up to 10,000, or filter\n"
    )


async def test_dead_show_has_the_job_and_its_errors(schema_driver: AsyncpgDriver) -> None:
    """A pipe gets a field a line; JSON has all fields of the job."""
    first, *_ = await letters(schema_driver)

    shown = await millhand("dead", "show", first)
    fields = await millhand("dead", "show", first, "--json")
    missing = await millhand("dead", "show", 77_777)

    assert ["args", '{"n": 1}'] in shown.lines
    assert ["row", "deleted"] in shown.lines
    assert any(
        line[0] == "error of attempt 1" and line[1].startswith("Timeout of a (") for line in shown.lines
    )
    assert (fields.json["id"], fields.json["state"], fields.json["current_state"]) == (
        first,
        "discarded",
        None,
    )
    assert (missing.code, missing.err) == (1, "error: dead letter must exist, found none with id 77777\n")


@pytest.mark.slow
async def test_dead_retry_and_delete_by_id_and_by_filter(schema_driver: AsyncpgDriver) -> None:
    """Each prints the ids of the jobs, and asks before it changes what a filter selects."""
    first, second, third = await letters(schema_driver)
    pool = schema_driver.pool

    unsure = await millhand("dead", "retry", "--kind", "send")
    left = await dead_ids(pool)
    retried = await millhand("dead", "retry", "--kind", "send", "--yes")
    deleted = await millhand("dead", "delete", third, "--json")

    assert (unsure.code, unsure.err) == (
        2,
        "error: retry 2 dead letters must be confirmed, got no terminal to ask on; repeat it with --yes\n",
    )
    assert left == [first, second, third]
    assert (retried.code, retried.lines, retried.err) == (
        0,
        [[str(second)], [str(first)]],
        "retried 2 dead letters\n",
    )
    assert {(await get_job(pool, id)).state for id in (first, second)} == {JobState.AVAILABLE}
    assert ([one["id"] for one in deleted.json], deleted.err) == ([third], "deleted 1 dead letter\n")
    assert await dead_ids(pool) == []
    assert (await millhand("dead", "delete", "--kind", "send")).err == "deleted 0 dead letters\n"


async def test_refused_changes_are_explained(schema_driver: AsyncpgDriver) -> None:
    """What can be done is done; the error names each job that was left, and the command for it."""
    first, second, third = await letters(schema_driver)
    pool = schema_driver.pool
    await pool.fetch(
        qualified("UPDATE /* schema */river_job SET state = 'completed' WHERE id = $1", pool), [second]
    )
    unique = {"unique_key": b"k", "unique_states": 0b10000001}
    await pool.fetch(
        qualified(
            "UPDATE /* schema */millhand_dead_job SET unique_key = 'k', unique_states = 129::bit(8) WHERE id = $1",
            pool,
        ),
        [first],
    )
    await insert_job(pool, **unique)

    result = await millhand("dead", "retry", first, second, third, 77_777)

    assert (result.code, result.lines) == (1, [[str(third)]])
    assert result.err == (
        "retried 1 dead letter\n"
        f"error: unique key must be free, got job {first} in conflict with another job (river_job_unique_idx); "
        f"job must be discarded or deleted to be retried from its dead letter, got job {second} completed; "
        f"to run it again, use millhand job retry {second}; "
        "dead letter must exist, found none with id 77777\n"
    )


async def test_an_empty_error_selects_no_dead_letter(schema_driver: AsyncpgDriver) -> None:
    """`--error "$TEXT"` with an empty variable is an error, and no dead letter is deleted, retried or listed."""
    ids = await letters(schema_driver)
    commands = (("delete", "--yes"), ("retry", "--yes"), ("list",))

    refused = [await millhand("dead", *one, "--error", text) for one in commands for text in ("", " ")]

    assert [(one.code, one.out, one.err) for one in refused] == [
        (2, "", f"error: --error must not be empty, got {text!r}\n") for _ in commands for text in ("", " ")
    ]
    assert await dead_ids(schema_driver.pool) == [*ids]
    assert [(await get_job(schema_driver.pool, id)).state for id in ids[1:]] == [JobState.DISCARDED] * 2


async def test_a_lost_connection_prints_what_was_changed_before(schema_driver: AsyncpgDriver) -> None:
    """Each change is committed at once, so the command prints the jobs of its changes before the error."""
    _, second, third = await letters(schema_driver)
    lock = "SELECT id FROM /* schema */river_job WHERE id = $1 FOR UPDATE"
    async with schema_driver.pool.begin() as other:
        await other.fetch(qualified(lock, schema_driver.pool), [second])
        # The last discard comes first.
        command = asyncio.create_task(millhand("dead", "delete", "--error", "O", "--yes", "--json"))
        await until_blocked(schema_driver.pool, command)
        await other.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"
        )
        result = await command

    assert (result.code, [one["id"] for one in result.json]) == (1, [third])
    assert result.err.startswith("deleted 1 dead letter\nerror: dead_job_lock must succeed, got ")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["retry"],
            (
                "dead letters must be chosen by id or by filter, got neither; "
                "add an id, --kind, --queue, --error, --since or --until"
            ),
        ),
        (
            ["delete", "7", "--kind", "send"],
            "dead letters must be chosen by id or by filter, got both; use only one",
        ),
        (
            ["list", "--since", "yesterday"],
            (
                "--since must be a duration such as 2h or 7d, or a time such as 2026-03-01 or 2026-03-01T12:00Z, "
                "got 'yesterday'"
            ),
        ),
        (
            ["list", "--until", "9999999d"],
            (
                "--until must be a duration such as 2h or 7d, or a time such as 2026-03-01 or 2026-03-01T12:00Z, "
                "got '9999999d'"
            ),
        ),
    ],
)
@pytest.mark.usefixtures("schema_driver")
async def test_wrong_use_is_refused(arguments: list[str], text: str) -> None:
    """The error names the option, the rule and the remedy."""
    result = await millhand("dead", *arguments)

    assert (result.code, result.err) == (2, f"error: {text}\n")


@pytest.mark.slow
async def test_without_the_tables_the_command_names_the_remedy(schema_driver: AsyncpgDriver) -> None:
    """A schema of an older version is migrated first."""
    from millhand.db.schema.migrator import Migrator  # noqa: PLC0415

    migrator = Migrator(schema_driver, "millhand")
    await migrator.down(target=11)
    try:
        result = await millhand("dead", "list")
    finally:
        await migrator.up()

    assert result.code == 1
    assert "millhand migrate up" in result.err
