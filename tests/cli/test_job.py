"""Claims about `millhand job`."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import pytest

from cli_runner import millhand
from factory import get_job, insert_job, qualified
from millhand.core.job import JobId, JobState
from millhand.db.driver.asyncpg import AsyncpgDriver

pytestmark = pytest.mark.usefixtures("project")


async def test_job_insert_prints_an_id_and_writes_the_row(schema_driver: AsyncpgDriver) -> None:
    """The row has the given options, and a pipe gets only the id."""
    result = await millhand(
        "job", "insert", "send_email", '{"to": "ann"}', "--queue", "mail", "--priority", 2, "--max-attempts", 3,
        "--tag", "urgent",
    )  # fmt: skip

    row = await get_job(schema_driver.pool, int(result.out))
    assert (result.code, result.err) == (0, "")
    assert (row.kind, row.args, row.queue, row.priority, row.max_attempts, row.tags, row.state) == (
        "send_email",
        {"to": "ann"},
        "mail",
        2,
        3,
        ("urgent",),
        JobState.AVAILABLE,
    )


async def test_job_insert_later_schedules_it(schema_driver: AsyncpgDriver) -> None:
    """`--in` schedules the job."""
    result = await millhand("job", "insert", "send_email", "--in", "1h30m", "--json")

    row = await get_job(schema_driver.pool, result.json["id"])
    assert row.state is JobState.SCHEDULED
    assert 5_390 < (row.scheduled_at - row.created_at).total_seconds() < 5_410


async def test_job_insert_reads_args_from_a_pipe(
    schema_driver: AsyncpgDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`-` reads the args from standard input."""
    monkeypatch.setattr("sys.stdin", io.StringIO('{"n": 1}'))

    result = await millhand("job", "insert", "count", "-")

    assert (await get_job(schema_driver.pool, int(result.out))).args == {"n": 1}


async def test_job_insert_without_an_answer_says_how_to_find_out(
    schema_driver: AsyncpgDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An insert that the database does not answer is no outage: the outcome is unknown, and a repeat may double it."""
    monkeypatch.setattr("millhand.engine.store.job_insert.TIMEOUT_SECONDS", 0.05)
    async with schema_driver.pool.begin() as other:
        await other.fetch(qualified("LOCK TABLE /* schema */river_job IN EXCLUSIVE MODE", schema_driver.pool))

        result = await millhand("job", "insert", "send email", "{}")

    assert (result.code, result.out, result.err) == (
        1,
        "",
        (
            "error: job_insert must answer within 0.05 s, got no answer; the job may have been inserted: look for it before "
            "you repeat the command, with millhand job list --kind 'send email'\n"
        ),
    )


async def test_job_insert_on_a_read_only_server_says_that_nothing_was_inserted(
    schema_driver: AsyncpgDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that accepts no writes, as a standby, has answered: the job is not there."""
    url = os.environ["DATABASE_URL"]
    monkeypatch.setenv("DATABASE_URL", f"{url}{'&' if '?' in url else '?'}default_transaction_read_only=on")

    result = await millhand("job", "insert", "send_email", "{}")

    assert (result.code, result.out, result.err) == (
        1,
        "",
        (
            "error: job_insert must succeed, got cannot execute INSERT in a read-only transaction; the server "
            "is a standby, or its transactions are read-only: name the primary in the database URL, or all servers with "
            "target_session_attrs=read-write; nothing was inserted\n"
        ),
    )


async def test_job_list_is_lines_in_a_pipe(schema_driver: AsyncpgDriver) -> None:
    """A pipe gets one line per job, newest first and without headings, and filters apply."""
    first = await insert_job(schema_driver.pool, kind="a", queue="mail")
    second = await insert_job(schema_driver.pool, JobState.DISCARDED, kind="b")
    third = await insert_job(schema_driver.pool, kind="a")

    everything = await millhand("job", "list")
    chosen = await millhand("job", "list", "--kind", "a", "--state", "available", "--oldest-first")

    assert [line[0] for line in everything.lines] == [str(third.id), str(second.id), str(first.id)]
    assert chosen.lines == [
        [str(first.id), "available", "a", "mail", "0/25", "2024-05-01T10:34:56.789000Z", ""],
        [str(third.id), "available", "a", "default", "0/25", "2024-05-01T10:34:56.789000Z", ""],
    ]


@pytest.mark.slow
async def test_job_list_takes_filters_as_lists(schema_driver: AsyncpgDriver) -> None:
    """`a,b` is the same as the option twice, for states, kinds, queues and tags, and for the tags of an insert."""
    for kind, state in (("a", JobState.AVAILABLE), ("b", JobState.DISCARDED), ("c", JobState.COMPLETED)):
        await insert_job(schema_driver.pool, state, kind=kind, queue=f"of_{kind}")
    await millhand("job", "insert", "dd", "--tag", "one,two", "--tag", "three")
    filters = {
        "--state discarded,completed": ["c", "b"],
        "--state available, --kind a": ["a"],
        "--kind a,c": ["c", "a"],
        "--queue of_a,of_b --queue of_c": ["c", "b", "a"],
        "--tag one,three": ["dd"],
    }

    listed = {text: await millhand("job", "list", *text.split()) for text in filters}

    assert {text: [line[2] for line in result.lines] for text, result in listed.items()} == filters


async def test_empty_filter_selects_no_job(schema_driver: AsyncpgDriver) -> None:
    """`--kind "$KIND"` with an empty variable is an error, and cancels no job of another kind."""
    job = await insert_job(schema_driver.pool)
    options = ("--kind", "--queue", "--tag")

    refused = [await millhand("job", "cancel", one, "", "--state", "available", "--yes") for one in options]
    comma = await millhand("job", "list", "--kind", "send_email", "--kind", " , ")

    assert [(one.code, one.err) for one in refused] == [
        (2, f"error: {one} must not be empty, got ''\n") for one in options
    ]
    assert (comma.code, comma.err) == (2, "error: --kind must not be empty, got ' , '\n")
    assert (await get_job(schema_driver.pool, job.id)).state is JobState.AVAILABLE


async def test_job_list_is_json_for_programs(schema_driver: AsyncpgDriver) -> None:
    """`--json` prints every column."""
    await insert_job(schema_driver.pool, args='{"n": 1}', tags=["urgent"])

    ((row,), empty) = (
        (await millhand("job", "list", "--json")).json,
        (await millhand("job", "list", "--tag", "x_y")),
    )

    assert (row["state"], row["args"], row["tags"]) == ("available", {"n": 1}, ["urgent"])
    assert (empty.code, empty.out) == (0, "")


@pytest.mark.slow
async def test_job_show_prints_the_whole_job(schema_driver: AsyncpgDriver) -> None:
    """The command prints args, output, errors and logs, and fails for an unknown id."""
    error = '{"at": "2024-05-01T10:00:00Z", "attempt": 1, "error": "no", "trace": "line 1"}'
    metadata = '{"output": {"sheets": 3}, "order": "4711", "river:log": [{"attempt": 1, "log": "one\\ntwo\\n"}, null, 5]}'
    job = await insert_job(
        schema_driver.pool,
        JobState.DISCARDED,
        attempt=1,
        args='{"n": 1}',
        errors=[error],
        metadata=metadata,
        tags=["monthly", "vip"],
        attempted_by=["a", "b"],
    )

    shown = await millhand("job", "show", job.id)
    missing = await millhand("job", "show", 999_999)
    unchanged = await millhand("job", "retry", 999_999)

    assert ["args", '{"n": 1}'] in shown.lines
    assert ["output", '{"sheets": 3}'] in shown.lines
    assert ["metadata", '{"order": "4711"}'] in shown.lines
    assert ["tags", "monthly, vip"] in shown.lines
    assert ["attempted_by", "a, b"] in shown.lines
    assert ["error of attempt 1", "no (2024-05-01T10:00:00Z)"] in shown.lines
    assert ["log of attempt 1", "one two"] in shown.lines
    assert (missing.code, missing.out) == (1, "")
    assert missing.err == "error: job must exist, found none with id 999999\n"
    assert (unchanged.code, unchanged.out, unchanged.err) == (1, "", missing.err)


async def test_job_show_has_one_format_of_times_on_a_terminal(schema_driver: AsyncpgDriver) -> None:
    """Each time of the job and of its errors is a date and how long ago it is."""
    error = '{"at": "2024-05-01T10:00:00.25Z", "attempt": 1, "error": "no", "trace": ""}'
    job = await insert_job(schema_driver.pool, JobState.DISCARDED, attempt=1, errors=[error])

    lines = (await millhand("job", "show", job.id, is_terminal=True)).out.splitlines()

    times = [line for line in lines if "_at " in line or line.startswith("error of attempt 1")]
    assert len(times) >= 4
    assert [
        line
        for line in times
        if not re.search(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ, (in )?\d+[dhms]( ago)?\)?$", line)
    ] == []


@pytest.mark.parametrize(
    ("command", "before", "after", "said"),
    [
        ("cancel", JobState.AVAILABLE, JobState.CANCELLED, "cancelled 2 jobs\n"),
        ("retry", JobState.DISCARDED, JobState.AVAILABLE, "retried 2 jobs\n"),
    ],
)
async def test_job_commands_act_on_filtered_jobs(
    schema_driver: AsyncpgDriver, command: str, before: JobState, after: JobState, said: str
) -> None:
    """With `--yes`, exactly the jobs that the filter selects change, and their ids are printed."""
    jobs = [await insert_job(schema_driver.pool, before, kind="a") for _ in range(2)]
    other = await insert_job(schema_driver.pool, before, kind="b")

    result = await millhand("job", command, "--kind", "a", "--yes")

    assert (result.code, result.err) == (0, said)
    assert result.lines == [[str(job.id)] for job in jobs]
    assert [(await get_job(schema_driver.pool, job.id)).state for job in [*jobs, other]] == [
        after,
        after,
        before,
    ]


async def test_job_delete_leaves_running_jobs(schema_driver: AsyncpgDriver) -> None:
    """A running job stays, the others are deleted, and the exit code is 1."""
    done = await insert_job(schema_driver.pool, JobState.COMPLETED)
    running = await insert_job(schema_driver.pool, JobState.RUNNING)

    result = await millhand("job", "delete", done.id, running.id, 999_999)

    assert result.code == 1
    assert result.lines == [[str(done.id)]]
    assert result.err == (
        "deleted 1 job\n"
        f"error: job must not be running to be deleted, got job {running.id} running; cancel it first; "
        "job must exist, found none with id 999999\n"
    )


@pytest.mark.slow
async def test_job_commands_say_which_jobs_they_left(schema_driver: AsyncpgDriver) -> None:
    """A command counts and prints the jobs that it changed, says why it left each other one, and exits with 1."""
    states = (JobState.RUNNING, JobState.AVAILABLE, JobState.DISCARDED, JobState.COMPLETED)
    running, due, discarded, completed = [
        await insert_job(schema_driver.pool, state, kind="a", queue="mail") for state in states
    ]
    retry_running = (
        f"job must not be running to be retried, got job {running.id} running; "
        "wait until its attempt ends, or cancel it"
    )
    retry_due = (
        f"job must not be due to be retried, got job {due.id} available; "
        "it runs when a client works queue 'mail'"
    )
    cancel_completed = f"job must not be finalized to be cancelled, got job {completed.id} completed"

    for arguments, left in {
        ("retry", running.id): retry_running,
        ("retry", due.id): retry_due,
        ("retry", "--state", "running,available", "--yes"): f"{retry_running}; {retry_due}",
        ("cancel", completed.id): cancel_completed,
    }.items():
        result = await millhand("job", *arguments)
        assert (result.code, result.out, result.err) == (1, "", f"error: {left}\n")
    mixed = await millhand("job", "retry", running.id, discarded.id)
    assert (mixed.code, mixed.lines, mixed.err) == (
        1,
        [[str(discarded.id)]],
        f"retried 1 job\nerror: {retry_running}\n",
    )


async def test_job_commands_explain_ten_refusals_and_count_the_others(schema_driver: AsyncpgDriver) -> None:
    """The error of many jobs stays readable."""
    for _ in range(12):
        await insert_job(schema_driver.pool, JobState.RUNNING)

    result = await millhand("job", "retry", "--state", "running", "--yes")

    assert (result.err.count("got job"), result.err[-13:]) == (10, "; and 2 more\n")


async def test_job_list_says_that_it_stopped_at_its_limit(schema_driver: AsyncpgDriver) -> None:
    """At the limit the command says how to list more, in a pipe on standard error; below it, nothing."""
    for _ in range(3):
        await insert_job(schema_driver.pool)

    cut, whole = [await millhand("job", "list", "--limit", limit) for limit in (3, 4)]

    assert (len(cut.lines), cut.err) == (
        3,
        "listed 3 jobs, the limit; for more add --limit with up to 10,000, or filter\n",
    )
    assert (len(whole.lines), whole.err) == (3, "")


@pytest.mark.slow
async def test_job_retry_by_filter_leaves_completed_jobs(schema_driver: AsyncpgDriver) -> None:
    """A filter retries completed jobs only if it has `--state completed`."""
    job = await insert_job(schema_driver.pool, JobState.COMPLETED, kind="a")

    left = await millhand("job", "retry", "--kind", "a", "--yes")
    said = await millhand("job", "retry", "--kind", "a", "--state", "completed", "--yes")

    assert (left.code, left.err) == (0, "retried 0 jobs\n")
    assert (said.code, said.err) == (0, "retried 1 job\n")
    assert (await get_job(schema_driver.pool, job.id)).state is JobState.AVAILABLE


@pytest.mark.slow
async def test_job_retry_asks_before_completed_jobs_run_again(schema_driver: AsyncpgDriver) -> None:
    """The question says which jobs are completed, by id as by filter; jobs that failed are retried without one."""
    completed = [await insert_job(schema_driver.pool, JobState.COMPLETED, kind="a") for _ in range(2)]
    failed = await insert_job(schema_driver.pool, JobState.DISCARDED, kind="a")
    first, second = (str(job.id) for job in completed)
    by_filter = ("--kind", "a", "--state", "completed,discarded")
    questions = {
        (first,): f"job {first}, which is completed and will run again",
        (first, second): "2 jobs, which are completed and will run again",
        (first, str(failed.id)): "2 jobs, 1 of which is completed and will run again",
        by_filter: "3 jobs, 2 of which are completed and will run again",
    }

    for arguments, question in questions.items():
        result = await millhand("job", "retry", *arguments)
        asked = (
            f"error: retry {question} must be confirmed, got no terminal to ask on; repeat it with --yes\n"
        )
        assert (result.code, result.out, result.err) == (2, "", asked)
    assert [(await get_job(schema_driver.pool, job.id)) for job in [*completed, failed]] == [
        *completed,
        failed,
    ]

    assert (await millhand("job", "retry", failed.id)).code == 0
    assert (await millhand("job", "retry", first, "--yes")).lines == [[first]]


@pytest.mark.parametrize("command", ["cancel", "retry", "delete"])
async def test_job_commands_ask_before_they_act_on_a_filter(
    schema_driver: AsyncpgDriver, command: str
) -> None:
    """In a pipe without `--yes`, nothing changes and the exit code is 2."""
    job = await insert_job(
        schema_driver.pool, JobState.CANCELLED if command != "cancel" else JobState.AVAILABLE
    )

    result = await millhand("job", command, "--kind", "kind")

    assert result.code == 2
    assert result.err == (
        f"error: {command} 1 job must be confirmed, got no terminal to ask on; repeat it with --yes\n"
    )
    assert (await get_job(schema_driver.pool, JobId(job.id))) == job


@pytest.mark.parametrize("command", ["cancel", "retry", "delete"])
async def test_job_commands_require_ids_or_a_filter(command: str, project: Path) -> None:
    """Giving neither or both is a usage error."""
    neither = await millhand("job", command)
    both = await millhand("job", command, 1, "--kind", "a")

    assert (neither.code, neither.err) == (
        2,
        (
            "error: jobs must be chosen by id or by filter, got neither; "
            "add an id, --state, --kind, --queue or --tag\n"
        ),
    )
    assert (both.code, both.err) == (
        2,
        "error: jobs must be chosen by id or by filter, got both; use only one\n",
    )


@pytest.mark.parametrize("command", ["show", "cancel", "retry", "delete"])
async def test_job_commands_refuse_an_id_that_no_job_can_have(command: str, project: Path) -> None:
    """An id beyond PostgreSQL's bigint is a usage error."""
    result = await millhand("job", command, 2**63)

    assert result.code == 2
    assert result.err == (
        "error: ID must be a whole number from 1 to 9,223,372,036,854,775,807, got '9223372036854775808'\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("job", "insert", "kind", "[1]"), "args of kind 'kind' must be"),
        (("job", "insert", "kind", "{"), "args of kind 'kind' must be"),
        (("job", "insert", "k", "--queue", "Mail!"), "queue must be 1 to"),
        (
            ("job", "insert", "k\udcff"),
            "kind must not hold half a surrogate pair",
        ),  # bytes that are not UTF-8
        (("job", "insert", "k", "--queue", "q\udcff"), "queue must be 1 to"),
        (("job", "insert", "k", "--tag", "tag\udcff"), "tags must be 3 to"),
        (("job", "insert", "k", "--in", "soon"), "--in must be a duration such as"),
        (
            ("job", "insert", "k", "--in=-5"),
            "--in must not be negative, got '-5'; leave it out to work the job now",
        ),
        (("job", "insert", "k", "--in", "3000000d"), "--in must end before the year 10000, got '3000000d'"),
    ],
)
async def test_job_insert_refuses_what_river_would(arguments: tuple[str, ...], message: str) -> None:
    """An invalid job is a usage error, and nothing is inserted."""
    result = await millhand(*arguments)

    assert result.code == 2
    assert result.err.startswith(f"error: {message}")
    assert (await millhand("job", "list")).out == ""
