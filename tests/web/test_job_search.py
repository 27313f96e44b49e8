from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from datetime import UTC, timedelta
from typing import Any

import pytest

from factory import NOW, insert_job, qualified
from millhand.core.job import JobRow, JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.engine.store.job_search import JobSearch, SearchOrder
from millhand.web.job_search import Accuracy, FoundPage, Stop, count_jobs, search_jobs
from millhand.web.search import parse_search
from millhand.web.search_conditions import job_search_of
from odd_rows import HUGE, ODD, WORKABLE_ALONE
from repeats import first_of

HOUR = timedelta(hours=1)
JOB_FAILED = json.dumps(
    {"at": "2024-05-01T09:34:56.7Z", "attempt": 1, "error": "Timeout: 100% of_host", "trace": "t"}
)

# Rows by a name: a state and columns.
WORLD: dict[str, tuple[JobState, dict[str, Any]]] = {
    "mail": (JobState.AVAILABLE, {"kind": "send_email", "queue": "mail", "args": '{"to": "a@b.c", "order": {"id": 42}}'}),
    "text": (JobState.COMPLETED, {"kind": "send_email", "args": '{"order": {"id": "42"}, "list": ["x", 7]}'}),
    "failed": (
        JobState.RETRYABLE,
        {"errors": [JOB_FAILED], "attempt": 3, "attempted_by": ["worker-1_x", "worker-2_y"], "attempted_at": NOW - HOUR},
    ),
    "discarded": (JobState.DISCARDED, {"errors": [JOB_FAILED, '"text"'], "attempt": 25, "finalized_at": NOW - 2 * HOUR}),
    "tagged": (JobState.SCHEDULED, {"tags": ["eu", "vip"], "priority": 3, "scheduled_at": NOW + HOUR}),
    "nightly": (JobState.COMPLETED, {"metadata": '{"river:periodic_job_id": "nightly"}', "created_at": NOW - 3 * HOUR}),
    "running": (JobState.RUNNING, {"queue": "mail", "kind": "resize"}),
}  # fmt: skip
FOUND = {
    "": "running nightly tagged discarded failed text mail",
    "state:available,retryable": "mail failed",
    "-state:completed,available": "tagged running failed discarded",
    "kind:send_email": "text mail",
    "-kind:send_email,kind state:available,running": "running",
    "kind:send_email queue:mail": "mail",
    "queue:mail": "running mail",
    "queue:mail state:running": "running",
    "tag:vip": "tagged",
    "-tag:vip,other state:scheduled": "",
    "args.order.id:42": "text mail",
    'args.order.id:"42"': "text",
    'args:{"order": {"id": 42}}': "mail",
    "args.list:7": "text",
    "args.nowhere:x": "",
    "periodic:nightly": "nightly",
    "metadata.river:x": "",
    "attempt:>3": "discarded",
    "attempt:3..25": "discarded failed",
    "priority:3": "tagged",
    "client:worker-1": "failed",
    "error:timeout": "discarded failed",
    'error:"100% OF_h"': "discarded failed",
    "error:100x": "",
    "timeout": "discarded failed",
    "A@b": "mail",
    "-a@b vip": "tagged",
    "failed:2h..30m": "failed",
    "attempted:>30m": "failed",
    "finalized:>1h": "discarded",
    "state:discarded,completed finalized:>1h": "discarded",
    "scheduled:>+30m": "tagged",
    "state:scheduled,available scheduled:<+30m": "mail",
    "created:>2h": "nightly",
    "-created:>2h state:completed": "text",
    "state:running -state:running": "",
    "knd:x kind:send_email": "text mail",
}  # fmt: skip


def meaning(line: str) -> JobSearch:
    return job_search_of(parse_search(line), now=NOW, zone=UTC)


async def world(executor: Executor) -> dict[str, JobRow]:
    return {name: await insert_job(executor, state, **columns) for name, (state, columns) in WORLD.items()}


async def pages(
    executor: Executor, search: JobSearch, *, limit: int, timer: Callable[[], float] = lambda: 0.0
) -> list[FoundPage]:
    """Return all pages of a search, each by the cursor of the one before."""
    result = [await search_jobs(executor, search, limit=limit, timer=timer)]
    while result[-1].after is not None:
        result.append(await search_jobs(executor, search, after=result[-1].after, limit=limit, timer=timer))
    return result


@pytest.mark.slow
async def test_search_finds_what_its_line_describes(tx: Executor) -> None:
    """Each kind of token, alone and with others, finds the jobs that it describes, in the order of the list."""
    names = {job.id: name for name, job in (await world(tx)).items()}

    found = {line: (await search_jobs(tx, meaning(line))).jobs for line in FOUND}

    assert {line: " ".join(names[job.id] for job in jobs) for line, jobs in found.items()} == FOUND


async def test_line_shows_the_job(tx: Executor) -> None:
    """A line has the job's columns, its args and last error cut to 400 characters, and the client that fetched it last."""
    long = json.dumps({"text": "x" * 1_000})
    error = json.dumps({"at": "2024-05-01T09:34:56Z", "attempt": 1, "error": "e" * 1_000, "trace": ""})
    job = await insert_job(
        tx,
        JobState.RETRYABLE,
        args=long,
        errors=["{}", error],
        attempted_by=["a", "b"],
        tags=["t"],
        attempt=2,
    )

    [line] = (await search_jobs(tx, meaning(f"id:{job.id}"))).jobs

    fields = {name: getattr(line, name) for name in line.__struct_fields__}
    assert fields.pop("args_bytes") > 0
    same = ("id", "kind", "queue", "state", "priority", "attempt", "max_attempts", "tags", "created_at", "scheduled_at",
            "attempted_at", "finalized_at")  # fmt: skip
    assert fields == {name: getattr(job, name) for name in same} | {
        "args": job.encoded_args[:400], "error": "e" * 400, "client": "b"
    }  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        "",
        "state:available,scheduled",
        "state:completed,discarded",
        "state:completed,available",
        "kind:kind state:available,completed",
    ],
)
async def test_pages_hold_each_job_once(tx: Executor, line: str) -> None:
    """The pages of each order together are the whole list, with equal instants and those that Python has not."""
    for state, number in itertools.product(JobState, range(4)):
        at = NOW - HOUR * (number // 2)
        await insert_job(
            tx,
            state,
            scheduled_at=at,
            priority=1 + number % 3,
            **({"finalized_at": at} if state.is_finalized else {}),
        )
    finalized_at = "CASE WHEN finalized_at IS NOT NULL THEN 'infinity'::timestamptz END"
    update = (
        f"UPDATE river_job SET scheduled_at = '-infinity', finalized_at = {finalized_at} WHERE id % 5 = 0"
    )
    await tx.fetch(qualified(update, tx))
    search = meaning(line)
    [whole] = await pages(tx, search, limit=100)

    parts = await pages(tx, search, limit=3)

    assert [job for page in parts for job in page.jobs] == list(whole.jobs)
    assert {job.state for job in whole.jobs} == set(search.states)
    assert len(whole.jobs) == 4 * len(search.states)
    assert [page.stop for page in parts] == [Stop.PAGE] * (len(parts) - 1) + [Stop.END]
    assert whole.order is {"": SearchOrder.ID, "state:available,scheduled": SearchOrder.NEXT}.get(
        line, SearchOrder.LAST
    )


@pytest.mark.parametrize("line", ["tag:x", "tag:x state:available", "tag:x state:completed,available"])
async def test_search_that_runs_out_of_time_goes_on_by_its_cursor(tx: Executor, line: str) -> None:
    """A search without an index stops when its time is up, reports how far it has read, and goes on from there."""
    first = await insert_job(tx, tags=["x"], scheduled_at=NOW + HOUR)
    for _ in range(8):
        await insert_job(tx)
    last = await insert_job(tx, tags=["x"], scheduled_at=NOW - HOUR)
    seconds = itertools.count()

    found = await pages(tx, meaning(line), limit=2, timer=lambda: float(next(seconds)))

    assert {job.id for page in found for job in page.jobs} == {first.id, last.id}
    assert [page.stop for page in found] == [Stop.TIME, Stop.TIME, Stop.TIME, Stop.END]
    assert [page.num_read for page in found] == [3, 3, 3, 1]
    assert [page.read_to is None for page in found] == [False, False, False, True]


async def test_search_for_a_time_of_insert_reads_only_jobs_of_that_time(tx: Executor) -> None:
    """A search by `created` reads the jobs of its period and ten on each side, and skips all others."""
    [start] = await tx.fetch(qualified("SELECT nextval('/* schema */river_job_id_seq') AS id", tx))
    jobs = [
        await insert_job(tx, id=start["id"] + 10_000 * number, created_at=NOW - HOUR * (40 - number))
        for number in range(40)
    ]
    late = await insert_job(tx, id=jobs[25].id + 5_000, created_at=NOW - 30 * HOUR)
    lines = {
        "created:20h..10h": jobs[20:30],
        "created:>2d": [],
        "created:<39h": [*jobs[1:26], late, *jobs[26:]],
    }

    found = {line: await search_jobs(tx, meaning(line)) for line in lines}

    for line, expected in lines.items():
        assert [job.id for job in found[line].jobs] == [job.id for job in reversed(expected)], line
    read = [page.num_read for page in found.values()]
    assert (read[0], read[1] <= 1, read[2]) == (22, True, 41)


@pytest.mark.parametrize(
    "after",
    ["", "x", "i", "i1@2024-05-01T10:00:00+00:00", "n1", "l1@x", "l1@2024-13-45T99:00:00+00:00", f"i{2**63}"],
)
async def test_cursor_of_another_list_is_an_error(tx: Executor, after: str) -> None:
    """A cursor that this list did not return is an error that names it, also where only PostgreSQL can see that."""
    search = meaning("state:completed" if after.startswith("l") else "")

    with pytest.raises(ValueError) as refused:
        await search_jobs(tx, search, after=after)

    assert str(refused.value) == f"after must be the cursor of a page of this list, got {after!r}"


COUNTED = {
    "": {"available": 1, "completed": 2, "discarded": 1, "retryable": 1, "running": 1, "scheduled": 1},
    "state:available": {
        "available": 1,
        "completed": 2,
        "discarded": 1,
        "retryable": 1,
        "running": 1,
        "scheduled": 1,
    },
    "queue:mail": {"available": 1, "running": 1},
    "queue:nothing": {},
    "kind:send_email": {"available": 1, "completed": 1},
    "kind:send_email error:timeout": {},
    "args.order.id:42 queue:mail": {"available": 1},
    "error:timeout": None,
    "-kind:send_email": None,
}


async def test_counts_are_of_each_state_where_an_index_answers(tx: Executor) -> None:
    """Counts ignore the states of a search, obey its other tokens, and are left out where no index answers them."""
    await world(tx)

    counts = {line: await count_jobs(tx, meaning(line)) for line in COUNTED}

    assert {one.accuracy for found in counts.values() for one in found} == {Accuracy.EXACT}
    for line, expected in COUNTED.items():
        got = {one.state.value: one.num_jobs for one in counts[line]}
        assert got == ({} if expected is None else dict.fromkeys(map(str, JobState), 0) | expected), line


ALL = ODD | WORKABLE_ALONE
SOME = dict(list(ALL.items())[::8])


@pytest.mark.slow
@pytest.mark.parametrize(
    "unusual", first_of(SOME, ALL, {"huge": HUGE}, {"huge": HUGE.replace("metadata", "args")})
)
async def test_unusual_rows_do_not_break_a_list(
    schema_driver: AsyncpgDriver, unusual: dict[str, str]
) -> None:
    """Rows of any shape come in each order of a list, and no search by a text, error, client, time or path raises."""
    pool = schema_driver.pool
    ids = []
    for changes in unusual.values():
        ids.append((await insert_job(pool, JobState.COMPLETED)).id)
        await pool.fetch(qualified(f"UPDATE /* schema */river_job SET {changes} WHERE id = {ids[-1]}", pool))
    tokens = ["text", "-error:x", "-client:x", "-failed:<1h", "-attempted:>1h", "-args.x:1", "-tag:x"]

    for line in ("", "state:completed", "state:completed,available", "kind:kind"):
        found = await search_jobs(pool, meaning(line), limit=100)
        assert {job.id for job in found.jobs} == set(ids) or line.startswith("kind")
    for token in tokens:
        await search_jobs(pool, meaning(token), limit=100)
