"""Claims about `millhand kinds check`."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from cli_runner import millhand
from factory import insert_job, qualified
from millhand.cli import kinds_check
from millhand.cli.worked_kinds import WorkedArgs
from millhand.core.job import FINALIZED_STATES, JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from odd_rows import ODD, UNDECODABLE


async def test_check_finds_nothing_if_all_jobs_can_be_worked(
    kinds_target: str, project: Path, schema_driver: AsyncpgDriver
) -> None:
    """Aliases and defaults count, finished jobs do not, and nothing is written."""
    for state in JobState:
        await insert_job(schema_driver.pool, state, kind="old_order", args='{"number": 1, "more": 2}')
        if state in FINALIZED_STATES:
            await insert_job(schema_driver.pool, state, kind="gone")
    before = await _rows(schema_driver)

    checked = await millhand("kinds", "check", kinds_target)
    as_json = await millhand("kinds", "check", kinds_target, "--json")

    assert (checked.code, checked.out, checked.err) == (0, "", "read 5 queued jobs of 1 kind\n")
    assert as_json.json == {"jobs": 5, "kinds": 1, "is_cut": False, "findings": []}
    assert await _rows(schema_driver) == before


@pytest.mark.slow
async def test_check_finds_jobs_that_cannot_be_worked(
    kinds_target: str, project: Path, schema_driver: AsyncpgDriver
) -> None:
    """Findings have a count, the first id and the reason, but no value of the args."""
    pool = schema_driver.pool
    jobs = [
        ("ordre", '{"secret": 1}'),
        ("order", '{"number": "secret"}'),
        ("order", '{"number": 7}'),
        ("order", "{}"),
        ("order", "{}"),
        ("order", '{"number": 1, "size": "secret"}'),
        ("order", '{"number": -5}'),
        ("mail", '{"to": {"secret": "x"}}'),
        ("mail", '{"to": {}, "why": "secret"}'),
        ("mail", '{"to": {}, "why": "KeyError"}'),
        ("go_report", '{"at": "secret"}'),
    ]
    ids = [(await insert_job(pool, kind=kind, args=args)).id for kind, args in jobs]

    found = await millhand("kinds", "check", kinds_target, "--elsewhere", "go_report")
    as_json = await millhand("kinds", "check", kinds_target, "--json")

    assert found.code == as_json.code == 1
    assert found.lines == [
        ["mail", "args", "1", str(ids[9]), "refused with KeyError"],
        [
            "mail",
            "args",
            "1",
            str(ids[7]),
            "to[...]: Input should be a valid integer, unable to parse string as an integer",
        ],
        ["mail", "args", "1", str(ids[8]), "why: refused as value_error"],
        ["order", "args", "2", str(ids[3]), "Object missing required field `number`"],
        ["order", "args", "1", str(ids[1]), "Expected `int`, got `str` - at `$.number`"],
        ["order", "args", "1", str(ids[5]), "Invalid enum value - at `$.size`"],
        ["order", "args", "1", str(ids[6]), "refused by its class with ValueError"],
        ["ordre", "no worker", "1", str(ids[0]), "no worker is registered; did you mean 'order'?"],
    ]
    assert found.err == (
        "read 10 queued jobs of 3 kinds\n"
        "error: queued jobs must be workable, got 9 that are not; keep their workers until the jobs are done, add "
        "former kinds to aliases=[…], give new fields a default\n"
    )
    assert as_json.json["findings"][0] == {
        "kind": "go_report",
        "problem": "no worker",
        "jobs": 1,
        "example_id": ids[10],
        "message": "no worker is registered; known: 'heartbeat', 'mail', 'old_order', 'order', 'resize'",
    }
    assert "secret" not in found.out + found.err + as_json.out + as_json.err


async def test_check_prints_sentences_on_a_terminal(
    kinds_target: str, project: Path, schema_driver: AsyncpgDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal each finding is a sentence without control characters."""
    monkeypatch.setattr("millhand.cli.kinds.is_terminal", lambda: True)
    job = await insert_job(schema_driver.pool, kind="gone\x1b[2J\n")

    found = await millhand("kinds", "check", kinds_target)

    known = "'heartbeat', 'mail', 'old_order', 'order', 'resize'"
    assert found.out == f"gone [2J : 1 job, such as {job.id}: no worker is registered; known: {known}\n"


@pytest.mark.slow
async def test_check_reads_page_by_page(
    kinds_target: str, project: Path, schema_driver: AsyncpgDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every job is read once, also among equal sort keys, and with `--queue` and `--limit`."""
    monkeypatch.setattr(kinds_check, "PAGE_SIZE", 3)
    sql = """
        INSERT INTO /* schema */river_job (args, kind, max_attempts, state, queue, priority, scheduled_at)
        SELECT '{}', 'gone', 25, state::/* schema */river_job_state, 'queue_' || n % 3, 1 + n % 2, now()
        FROM generate_series(1, 20) AS n, unnest(ARRAY['available', 'retryable']) AS state
    """
    await schema_driver.pool.fetch(qualified(sql, schema_driver.pool))

    whole = await millhand("kinds", "check", kinds_target, "--json")
    some = await millhand(
        "kinds", "check", kinds_target, "--json", "--queue", "queue_0", "--queue", "queue_2"
    )
    limited = await millhand("kinds", "check", kinds_target, "--json", "--limit", "7")
    output = await millhand("kinds", "check", kinds_target, "--limit", "7")
    exact = await millhand("kinds", "check", kinds_target, "--json", "--limit", "20")

    assert [(one.json["jobs"], one.json["is_cut"]) for one in (whole, some, limited, exact)] == [
        (40, False),
        (26, False),
        (14, True),
        (40, False),
    ]
    assert "read 14 queued jobs of 1 kind; --limit left out more\n" in output.err


async def test_check_does_not_remember_every_fault(
    kinds_target: str, project: Path, schema_driver: AsyncpgDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of distinct messages per kind is limited; further errors are counted together."""
    monkeypatch.setattr(kinds_check, "MESSAGES_MAX", 1)
    for args in ("{}", '{"number": "a"}', '{"number": 1, "day": 2}'):
        await insert_job(schema_driver.pool, kind="order", args=args)

    found = await millhand("kinds", "check", kinds_target)

    assert [line[2:5:2] for line in found.lines] == [
        ["2", "further errors"],
        ["1", "Object missing required field `number`"],
    ]


@pytest.mark.slow
async def test_check_reads_unusual_rows(
    kinds_target: str, project: Path, schema_driver: AsyncpgDriver
) -> None:
    """An unusual row is a finding only if its args do not decode."""
    pool = schema_driver.pool
    for unusual in ODD.values():
        await insert_job(pool, kind="resize", args='{"keys": []}', metadata='{"unusual": true}')
        sql = f"UPDATE /* schema */river_job SET {unusual} WHERE metadata ->> 'unusual' = 'true'"
        await pool.fetch(qualified(sql, pool))
        await pool.fetch(
            qualified(
                "UPDATE /* schema */river_job SET metadata = '{}' WHERE metadata ->> 'unusual' = 'true'", pool
            )
        )

    found = (await millhand("kinds", "check", kinds_target, "--json")).json

    by_problem: dict[str, int] = {}
    for one in found["findings"]:
        by_problem[one["problem"]] = by_problem.get(one["problem"], 0) + one["jobs"]
    assert found["jobs"] == len(ODD)
    assert by_problem == {"args": len(UNDECODABLE), "no worker": 1}


async def test_check_reads_one_snapshot(schema_driver: AsyncpgDriver, postgres_url: str) -> None:
    """A job that changes its state during the check is read once, in its old state."""
    pool = schema_driver.pool
    await insert_job(pool, JobState.AVAILABLE, kind="order")
    texts: list[str] = []

    def decode(text: str) -> None:
        texts.append(text)
        with psycopg.connect(postgres_url) as connection:
            connection.execute(
                qualified("UPDATE /* schema */river_job SET state = 'retryable', kind = 'x'", pool)
            )

    worked = WorkedArgs(
        args_type=object, decode={"order": decode, "x": decode}, kinds=("order", "x"), worker="order"
    )
    report = await kinds_check.check_queued(pool, [worked])

    assert (report.num_jobs, texts, report.findings) == (1, ["{}"], [])


async def _rows(driver: AsyncpgDriver) -> object:
    sql = "SELECT xmin::text, id FROM /* schema */river_job ORDER BY id"
    return await driver.pool.fetch(qualified(sql, driver.pool))
