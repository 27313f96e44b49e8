"""Claims about `millhand doctor`."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from cli_runner import millhand
from factory import insert_job, qualified
from millhand.cli.doctor import chosen
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.doctor.catalog import CHECKS
from millhand.shells.cli.output import WrongUse
from stuck_flow import FLOW


@pytest.mark.parametrize(
    ("only", "names"),
    [
        ((), [check.name for check in CHECKS]),
        (("jobs.slow",), ["jobs.slow"]),
        (("roles", "schema.version", "roles.privileges"), ["schema.version", "roles.privileges"]),
    ],
)
def test_only_chooses_checks_and_areas(only: tuple[str, ...], names: list[str]) -> None:
    """A name or an area chooses checks, each once and in their order; without one, all run."""
    assert [check.name for check in chosen(only, CHECKS)] == names


def test_unknown_check_is_an_error_with_the_meant_one() -> None:
    """A typing error names the check that was meant."""
    with pytest.raises(
        WrongUse, match=r"--only must name a check or an area, got 'job.slow'; did you mean 'jobs.slow'"
    ):
        chosen(("job.slow",), CHECKS)


@pytest.mark.slow
async def test_finding_decides_the_exit_code(project: Path, schema_driver: AsyncpgDriver) -> None:
    """A queue without clients exits with 1, and a discarded job is only notable; JSON and lines have both."""
    await insert_job(schema_driver.pool, queue="mail")

    found = await millhand("doctor", "--only", "queues,jobs")
    as_json = await millhand("doctor", "--only", "jobs", "--json")

    assert (found.code, [line[:3] for line in found.lines]) == (
        1,
        [["broken", "queues.unworked", "queue mail"]],
    )
    assert found.lines[0][6] == "millhand worker MODULE:CONFIG --queue mail:10"
    assert found.err.startswith("10 checks of database millhand_test_")
    assert (as_json.code, as_json.json["is_broken"]) == (0, False)
    assert [one["check"] for one in as_json.json["checks"]] == [
        check.name for check in CHECKS if check.area == "jobs"
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "sql",
    [
        FLOW.format("pending", "NULL"),
        FLOW.format("completed", "now() - interval '20 minutes'")
        + "UPDATE /* schema */millhand_flow_task SET state = 'completed' WHERE job_id = 1001",
    ],
    ids=["a pending job", "a wrong count"],
)
async def test_remedy_lets_a_stuck_flow_go_on(project: Path, schema_driver: AsyncpgDriver, sql: str) -> None:
    """The commands of the remedy change the flow so that a job of it is available."""
    pool = schema_driver.pool
    await pool.execute_script(qualified(sql, pool))
    [finding] = (await millhand("doctor", "--only", "flows", "--json")).json["checks"][0]["findings"]

    for command in finding["commands"]:
        await millhand(*shlex.split(command)[1:])

    assert (await millhand("doctor", "--only", "flows")).lines == []
    rows = await pool.fetch(qualified("SELECT id FROM /* schema */river_job WHERE state = 'available'", pool))
    assert len(rows) == 1


@pytest.mark.slow
async def test_release_is_checked_before_its_deploy(
    project: Path, schema_driver: AsyncpgDriver, kinds_target: str
) -> None:
    """With `--deploy`, queued jobs that the configuration cannot work are broken, unless other programs work them."""
    job = await insert_job(schema_driver.pool, kind="mail", args='{"to": 1}')
    await insert_job(schema_driver.pool, kind="go_report")

    both = await millhand("doctor", "--deploy", kinds_target, "--only", "deploy,roles")
    one = await millhand("doctor", "--deploy", kinds_target, "--elsewhere", "go_report", "--only", "deploy")

    assert (both.code, [line[:3] for line in both.lines]) == (
        1,
        [["broken", "deploy.kinds", "kind go_report"], ["broken", "deploy.kinds", "kind mail"]],
    )
    assert [line[2] for line in one.lines] == ["kind mail"]
    assert one.lines[0][6] == f"millhand job show {job.id}"


@pytest.mark.slow
async def test_doctor_runs_on_the_other_driver(
    project: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With psycopg every check has an answer too, the pooler's with several sessions among them."""
    monkeypatch.setenv("DATABASE_URL", postgres_url.replace("postgresql://", "postgresql+psycopg://"))

    report = (await millhand("doctor", "--json")).json

    assert [one["check"] for one in report["checks"] if one["unseen"]] == []
    assert {one["check"] for one in report["checks"] if one["findings"]} <= {
        "connection.latency",  # on a busy machine
        "server.settings",
        "server.autovacuum",
    }


async def test_elsewhere_needs_a_configuration(empty_directory: Path) -> None:
    """`--elsewhere` alone would check nothing, so it is an error."""
    result = await millhand("doctor", "--elsewhere", "go_report")

    assert (result.code, result.err) == (
        2,
        "error: --elsewhere must be used with --deploy, got none; add it\n",
    )


@pytest.mark.slow
async def test_database_that_does_not_answer_is_an_error(
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a connection nothing can be checked, and the exit code is that of something broken."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")

    result = await millhand("doctor", "--json")

    assert (result.code, result.out) == (1, "")
    assert "must accept connections, got" in result.err


@pytest.mark.slow
async def test_release_that_could_not_be_checked_fails(
    project: Path,
    postgres_url: str,
    schema_driver: AsyncpgDriver,
    kinds_target: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With `--deploy`, the command exits with 1 if a lock ends the scan of the queued jobs, or if there are no tables."""
    mark = "&" if "?" in postgres_url else "?"
    monkeypatch.setenv("DATABASE_URL", f"{postgres_url}{mark}options=-c%20lock_timeout%3D50")
    command = ("doctor", "--deploy", kinds_target, "--only", "deploy.kinds")

    async with schema_driver.pool.begin() as tx:
        await tx.execute_script("LOCK TABLE /* schema */river_job IN ACCESS EXCLUSIVE MODE")
        locked = await millhand(*command)
    seen = await millhand(*command)
    monkeypatch.setenv("MILLHAND_DATABASE_SCHEMA", "no_such_schema")
    empty = await millhand(*command)

    assert [(one.code, [line[0] for line in one.lines]) for one in (locked, seen, empty)] == [
        (1, ["unseen"]),
        (0, []),
        (1, ["unseen"]),
    ]
    assert locked.err.splitlines()[-1] == (
        "error: the checks of a release must see everything, got no full answer to deploy.kinds; "
        "follow the remedy of what is unseen"
    )
