"""The rows of an invented shop: jobs of a day in every state, Python and Go clients, and queues of which one is paused."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from shop_flows import put_shop_flows
from shop_orphans import fill_orphans

from factory import qualified
from millhand.core.args.codec import RawArgs
from millhand.core.clock import SystemClock
from millhand.core.insert_opts import InsertOpts
from millhand.core.limit import Limit
from millhand.core.schedule import JobSchedule
from millhand.db.driver.protocol import Executor
from millhand.dead_jobs.store import dead_job_copy
from millhand.engine.store.bulk_change import BulkAction, bulk_change_insert
from millhand.history.writer import HistoryWriter
from millhand.limits.store import limit_declare, limit_partition_hold
from millhand.schedules.control import declare_schedules, set_schedule

Row = dict[str, Any]

MINUTE = 60
HOUR = 60 * MINUTE
DAY = 24 * HOUR

PYTHON_TRACE = """\
Traceback (most recent call last):
  File "/srv/venv/lib/python3.12/site-packages/millhand/engine/attempt.py", line 212, in run
    return await work(job)
           ^^^^^^^^^^^^^^^
  File "/srv/shop/billing.py", line 88, in charge_card
    receipt = await gateway.charge(order.card, order.total)
              ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/srv/shop/gateway.py", line 41, in charge
    response.raise_for_status()
  File "/srv/venv/lib/python3.12/site-packages/httpx/_models.py", line 829, in raise_for_status
    raise HTTPStatusError(message, request=request, response=self)
httpx.HTTPStatusError: Server error '503 Service Unavailable' for url 'https://pay.example/v1/charges'
"""
PYTHON_ERROR = PYTHON_TRACE.splitlines()[-1].removeprefix("httpx.")
GO_ERROR = "index 4711: dial tcp 10.0.3.7:9200: connect: connection refused"
GO_TRACE = """\
goroutine 812 [running]:
runtime/debug.Stack()
\t/usr/local/go/src/runtime/debug/stack.go:26 +0x64
github.com/riverqueue/river/internal/jobexecutor.(*JobExecutor).execute.func2()
\t/go/pkg/mod/github.com/riverqueue/river@v0.51.2/internal/jobexecutor/job_executor.go:243 +0x98
shop/search.(*Indexer).Put(0x0, {0xc0001, 0x1267})
\t/srv/search/indexer.go:57 +0x2c
shop/search.(*IndexWorker).Work(0xc00012, {0x10, 0x20}, 0xc00034)
\t/srv/search/worker.go:31 +0x118
"""
# Kind, queue, client, jobs of a day, seconds of a run, and how an attempt may fail.
KINDS = (
    ("send_email", "mail", "shop-worker-1", 420, 0.4, "SMTPServerDisconnected: Connection unexpectedly closed"),
    ("charge_card", "billing", "shop-worker-2", 160, 1.1, PYTHON_ERROR),
    ("deliver_webhook", "default", "shop-worker-1", 260, 0.2, "ReadTimeout: no answer within 10 s from hook 1733"),
    ("resize_image", "media", "shop-worker-2", 140, 3.5, "ValueError: cannot identify image file 'upload/8f3a.heic'"),
    ("index_product", "search", "search-7f9c", 220, 0.1, GO_ERROR),
    ("nightly_report", "default", "shop-worker-1", 2, 340.0, "OperationalError: canceling statement due to timeout"),
)  # fmt: skip
LONG_ARGS = {"order_id": 184467440737095516, "total": "129.90", "card": {"last4": "4242"}, "lines": [1, 2, 3]}


def shop_jobs() -> list[Row]:
    """Return the jobs in the order of their inserts. Ages are in seconds before now, and negative ones are in the future."""
    chance = random.Random(17)  # noqa: S311 - the same rows each time
    jobs = [*finished_jobs(chance), *live_jobs(chance), *periodic_jobs()]
    return [*example_jobs(), *sorted(jobs, key=lambda row: -row["created"])]


def finished_jobs(chance: random.Random) -> Iterator[Row]:
    """Yield the jobs of a day, of which some failed."""
    for kind, queue, client, num_jobs, seconds, error in KINDS:
        for number in range(num_jobs):
            age = chance.uniform(5 * MINUTE, DAY)
            run = seconds * chance.lognormvariate(0, 0.5)
            row = job(kind, queue, "completed", args=args_of(kind, chance), age=age, client=client)
            row |= {"attempt": 1, "attempted": age - chance.expovariate(1 / 2)}
            row["finalized"] = row["attempted"] - run
            if number % 25 == 7:
                row |= {
                    "state": "discarded",
                    "attempt": 3,
                    "max_attempts": 3,
                    "errors": errors(error, 3, age),
                }
            elif number % 40 == 3:
                row |= {
                    "state": "retryable",
                    "attempt": 2,
                    "errors": errors(error, 2, age),
                    "finalized": None,
                }
                row["scheduled"] = -chance.uniform(MINUTE, HOUR)
            elif number % 90 == 1:
                row["state"] = "cancelled"
            yield row


def periodic_jobs() -> Iterator[Row]:
    """Yield the runs of a day of a job that the leader inserts each hour; one of them failed."""
    for hour in range(24):
        age = hour * HOUR + 12 * MINUTE
        row = job("refresh_prices", "default", "completed", args={}, age=age, client="shop-worker-1")
        row |= {"attempt": 1, "attempted": age - 1, "finalized": age - 40, "metadata": {"periodic": True}}
        row["metadata"]["river:periodic_job_id"] = "prices"
        if hour == 5:
            row |= {"state": "discarded", "attempt": 25, "errors": errors(PYTHON_ERROR, 1, age)}
        yield row


def live_jobs(chance: random.Random) -> Iterator[Row]:
    """Yield jobs that run or wait."""
    for kind, queue, num_jobs in (
        ("send_email", "mail", 34),
        ("index_product", "search", 9),
        ("import_feed", "imports", 61),
    ):
        for _ in range(num_jobs):
            yield job(kind, queue, "available", args=args_of(kind, chance), age=chance.uniform(1, 9 * MINUTE))
    for kind, queue, client, num_jobs in (
        ("send_email", "mail", "shop-worker-1", 12),
        ("deliver_webhook", "default", "shop-worker-1", 3),
        ("charge_card", "billing", "shop-worker-2", 3),
        ("index_product", "search", "search-7f9c", 2),
    ):
        for _ in range(num_jobs):
            age = chance.uniform(1, 20)
            row = job(kind, queue, "running", args=args_of(kind, chance), age=age, client=client)
            yield row | {"attempt": 1, "attempted": age / 2}
    for number in range(18):
        args = args_of("send_email", chance)
        yield job("send_email", "mail", "scheduled", args=args, age=chance.uniform(HOUR, DAY)) | {
            "scheduled": -(number + 1) * 40 * MINUTE
        }


def example_jobs() -> Iterator[Row]:
    """Yield one job of each state. Their ids are 1 to 9, in this order; those from 10 on are of a queue with a limit."""
    ran = {"attempt": 1, "attempted": 8 * MINUTE, "client": "shop-worker-1"}
    log = "2026-01-05 09:12:01 INFO shop.mail: rendering template=receipt\n" * 4
    yield (
        job(
            "send_email",
            "mail",
            "completed",
            args={"to": "ada@shop.example", "order_id": 1841},
            age=9 * MINUTE,
        )
        | ran
        | {
            "finalized": 8 * MINUTE - 1.2,
            "tags": ["receipt", "eu"],
            "metadata": {
                "output": {"message_id": "m-81"},
                "river:log": [{"attempt": 1, "log": log}],
                "trace_id": "4bf92f",
            },
        }
    )
    yield (
        job("charge_card", "billing", "retryable", args=LONG_ARGS, age=HOUR)
        | ran
        | {
            "attempt": 4,
            "scheduled": -5 * MINUTE,
            "errors": errors(PYTHON_ERROR, 4, HOUR, PYTHON_TRACE),
            "metadata": {
                "river:log": [{"attempt": n, "log": f"charging card, attempt {n}\n"} for n in (1, 2, 3, 4)]
            },
        }
    )
    yield job("index_product", "search", "discarded", args={"product_id": 4711}, age=2 * HOUR) | ran | {
        "attempt": 3, "max_attempts": 3, "finalized": HOUR, "client": "search-7f9c",
        "errors": errors(GO_ERROR, 3, 2 * HOUR, GO_TRACE),
    }  # fmt: skip
    yield job("resize_image", "media", "running", args={"key": "upload/8f3a.heic", "width": 640}, age=3 * MINUTE) | {
        "attempt": 1, "attempted": 95, "client": "shop-worker-2",
    }  # fmt: skip
    yield job("send_email", "mail", "scheduled", args={"to": "lin@shop.example"}, age=HOUR) | {
        "scheduled": -6 * HOUR
    }
    yield job(
        "import_feed", "imports", "available", args={"feed": "https://feeds.example/9.xml"}, age=40 * MINUTE
    )
    yield job("deliver_webhook", "default", "cancelled", args={"hook": 12}, age=HOUR) | {
        "finalized": 50 * MINUTE
    }
    yield job("nightly_report", "default", "pending", args={"day": "2026-01-05"}, age=HOUR)
    yield job("charge_card", "billing", "available", args={"order_id": 77}, age=20) | {"priority": 3}
    # Of a queue with a limit: three run, and six wait.
    for tenant, num_running, num_waiting in (("acme", 0, 3), ("globex", 2, 3), ("initech", 1, 0)):
        for number in range(num_waiting + num_running):
            row = job("build_report", "reports", "pending", args={"tenant": tenant}, age=MINUTE - number)
            if number >= num_waiting:
                row |= {"state": "running", "attempt": 1, "attempted": 20, "client": "shop-worker-1"}
            yield row


def job(kind: str, queue: str, state: str, *, args: Row, age: float, client: str | None = None) -> Row:
    """Return a row with the values that every job has."""
    return {
        "kind": kind, "queue": queue, "state": state, "args": args, "created": age, "scheduled": age, "client": client,
        "attempt": 0, "max_attempts": 25, "priority": 1, "tags": [], "metadata": {}, "errors": None,
        "attempted": None, "finalized": None,
    }  # fmt: skip


def errors(text: str, count: int, age: float, trace: str = "") -> list[Row]:
    """Return the errors of attempts. `age` in seconds becomes an instant when the row is inserted."""
    return [
        {"age": age * (count - n) / count, "attempt": n + 1, "error": text, "trace": trace}
        for n in range(count)
    ]


def args_of(kind: str, chance: random.Random) -> Row:
    """Return args of a kind."""
    number = chance.randrange(1000, 9999)
    match kind:
        case "send_email":
            return {"to": f"customer{number}@shop.example", "template": chance.choice(["receipt", "welcome"])}
        case "charge_card" | "deliver_webhook":
            return {"order_id": number, "total": f"{number / 100:.2f}"}
        case _:
            return {"id": number}


CLIENTS = """
INSERT INTO /* schema */river_queue (name, updated_at, paused_at)
SELECT
    -- As clients in Go update it at their start, and every ten minutes.
    name, now() - CASE name WHEN 'imports' THEN interval '38 min' ELSE '4 min' END,
    CASE WHEN name = 'imports' THEN now() - interval '38 min' END
FROM unnest(ARRAY['billing', 'default', 'imports', 'mail', 'media', 'reports', 'search']) AS name;
INSERT INTO /* schema */millhand_client (
    id, language, version, hostname, pid, kinds, queues, queue_updates, heartbeat_interval,
    started_at, last_seen_at, stopped_at
)
SELECT
    id, 'python', '0.1.0', host, pid, kinds, queues,
    (
        SELECT jsonb_object_agg(name, to_char(updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US+00:00'))
        FROM /* schema */river_queue
        WHERE queues ? name
    ),
    interval '1 min', now() - started, now() - seen, now() - stopped
FROM (
    VALUES
    ('shop-worker-1', 'shop-1', 411, ARRAY['build_report', 'send_email', 'deliver_webhook', 'nightly_report'],
     '{"mail": 20, "default": 10, "reports": 10}'::jsonb, interval '6 h', interval '1 s', NULL::interval),
    ('shop-worker-2', 'shop-2', 388, ARRAY['charge_card', 'orphan_restore', 'resize_image', 'send_email'],
     '{"billing": 4, "media": 2, "mail": 20}', '6 h', '2 s', NULL),
    ('shop-worker-3', 'shop-3', 92, ARRAY['send_email'], '{"mail": 20}', '5 h', '47 min', NULL),
    ('shop-1_2026_11_27T05_40_18_849800', 'shop-1', 96, ARRAY['send_email'], '{"mail": 20}', '9 h', '6 h', interval '6 h')
) AS client (id, host, pid, kinds, queues, started, seen, stopped);
INSERT INTO /* schema */river_leader (elected_at, expires_at, leader_id)
VALUES (now() - interval '6 h', now() + interval '1 h', 'shop-worker-1');
INSERT INTO /* schema */millhand_leader (elected_at, expires_at, leader_id)
VALUES (now() - interval '6 h', now() + interval '1 h', 'shop-worker-1')
"""
JOBS = """
INSERT INTO /* schema */river_job (
    state, attempt, max_attempts, priority, args, kind, queue, tags, metadata, attempted_by, errors,
    created_at, scheduled_at, attempted_at, finalized_at
)
SELECT
    state::/* schema */river_job_state, attempt, max_attempts, priority, args, kind, queue,
    ARRAY(SELECT jsonb_array_elements_text(tags)), metadata,
    CASE WHEN client IS NOT NULL THEN ARRAY[client] END,
    CASE WHEN errors <> 'null' THEN ARRAY(
        SELECT one - 'age' || jsonb_build_object('at', now() - (one ->> 'age')::float * interval '1 s')
        FROM jsonb_array_elements(errors) AS one
    ) END,
    now() - created * interval '1 s', now() - scheduled * interval '1 s',
    now() - attempted * interval '1 s', now() - finalized * interval '1 s'
FROM jsonb_to_recordset($1::text::jsonb) AS row (
    state text, attempt smallint, max_attempts smallint, priority smallint, args jsonb, kind text, queue text, tags jsonb,
    metadata jsonb, client text, errors jsonb, created float, scheduled float, attempted float, finalized float
)
"""


AUDIT = """
INSERT INTO /* schema */millhand_audit (at, actor, role, address, action, subject, detail, num_jobs)
VALUES
(now() - interval '38 min', 'ada', 'operator', '10.0.0.12', 'pause', 'queue imports', '{}', 0),
(now() - interval '3 h', 'lin', 'operator', '10.0.0.15', 'retry', 'selected jobs', '{}', 12),
(now() - interval '5 h', 'ada', 'admin', '10.0.0.12', 'delete', 'job 77', '{}', 1);
"""
COUNT_FROM = "UPDATE /* schema */millhand_history SET counted_to = date_trunc('minute', now()) - $1::interval"
COUNTED_TO = "SELECT counted_to FROM /* schema */millhand_history"


LIMITED = """
INSERT INTO /* schema */millhand_limited_job (job_id, queue, partition_key, priority, due_at, admitted_at)
SELECT
    id, queue, jsonb_build_array(args -> 'tenant')::text, priority, scheduled_at,
    CASE WHEN state = 'running' THEN attempted_at END
FROM /* schema */river_job
WHERE queue = 'reports';
INSERT INTO /* schema */millhand_limit_partition (queue, partition_key, running, is_open)
SELECT queue, partition_key, count(admitted_at), count(admitted_at) < 2
FROM /* schema */millhand_limited_job
GROUP BY queue, partition_key;
"""


async def limit_reports(executor: Executor) -> None:
    """Let the queue of reports have a limit for each tenant, of whom one is held."""
    await executor.run(limit_declare({"reports": Limit(at_once=2, total=20, by_args=["tenant"])}))
    await executor.execute_script(LIMITED)
    await executor.run(limit_partition_hold("reports", ["acme"], timedelta(hours=1)))


SCHEDULED = """
UPDATE /* schema */millhand_schedule
SET
    next_run_at = date_trunc('hour', now()) + interval '1 h', last_due_at = date_trunc('hour', now()), num_runs = 412,
    last_job_id = CASE id WHEN 'report.acme' THEN 1 WHEN 'report.globex' THEN 3 ELSE 77 END,
    paused_at = CASE WHEN id = 'report.globex' THEN now() - interval '2 h' END
"""


async def keep_schedules(executor: Executor) -> None:
    """Keep three schedules, of which one is in code, and one is paused."""
    args = RawArgs("build_report", '{"tenant":"acme"}')
    declared = JobSchedule(
        id="cleanup", args=RawArgs("clean_up", "{}"), cron="0 3 * * *", timezone="Europe/Berlin"
    )
    await declare_schedules(executor, [declared])
    opts = InsertOpts(queue="reports")
    for id in ("report.acme", "report.globex"):
        one = JobSchedule(id=id, args=args, interval=timedelta(hours=1), opts=opts, overlap="skip")
        async with executor.begin() as tx:
            await set_schedule(tx, one)
    await executor.execute_script(SCHEDULED)


# The rows of some were deleted long ago.
DELETED = """
UPDATE /* schema */millhand_dead_job
SET id = id + 900000, finalized_at = finalized_at - interval '9 d', copied_at = copied_at - interval '9 d'
WHERE id % 3 = 1
"""


async def copy_discarded(executor: Executor) -> None:
    """Let each discarded job have a dead letter."""
    await executor.run(dead_job_copy(after_at="-infinity", after_id=0, limit=1_000, retention=None))
    await executor.execute_script(DELETED)


async def fill_shop(executor: Executor) -> None:
    """Fill the empty tables of a migrated schema."""
    await executor.execute_script(CLIENTS)
    await executor.execute_script(AUDIT)
    await fill_orphans(executor)
    await executor.fetch(qualified(JOBS, executor), [json.dumps(shop_jobs())])
    await limit_reports(executor)
    await keep_schedules(executor)
    await copy_discarded(executor)
    await put_shop_flows(executor)
    await executor.run(
        bulk_change_insert(
            action=BulkAction.RETRY,
            search="kind:charge_card state:discarded",
            time_zone="UTC",
            only_queues=None,
            only_kinds=None,
            actor="ada",
            role="operator",
            address="10.0.0.12",
        )
    )


async def count_history(executor: Executor, hours: int) -> None:
    """Let the service that writes the history count the last hours of a filled shop, ten minutes a pass."""
    writer = HistoryWriter(executor, clock=SystemClock(), holder="shop-worker-1")
    await writer.run_once()
    await executor.fetch(qualified(COUNT_FROM, executor), [timedelta(hours=hours)])
    before = None
    while before != (after := await executor.fetch(qualified(COUNTED_TO, executor))):
        before = after
        await writer.run_once()
