"""Secret args from the insert to the worker, on the database: what is stored, logged, shown and counted."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from client_harness import GENEROUS, ClientHarness
from millhand.contrib.opentelemetry import OpenTelemetry
from millhand.core.args.codec import RawArgs
from millhand.core.args.secret_fields import SECRET_KEY, Secret
from millhand.core.args.secret_keys import SecretKeys
from millhand.core.config import Config
from millhand.core.errors import ConfigError
from millhand.core.event import EventKind
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import JobState
from millhand.core.retry import ConstantRetryPolicy
from millhand.core.unique import UniqueOpts
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.engine.secret_rekey import rekey_jobs
from millhand.observe import JsonFormatter, TextFormatter
from millhand.testing import require_inserted

PLAIN = "4111-1111-planted"
OLD = SecretKeys({"old": b"o" * 32}, unique_key=b"u" * 32)
NEW = SecretKeys({"new": b"n" * 32, "old": b"o" * 32}, unique_key=b"u" * 32)


@dataclass(frozen=True)
class Charge:
    kind: ClassVar[str] = "charge"
    order: int
    card: Annotated[str, Secret]


def charging(into: list[Any]) -> Workers:
    workers = Workers()

    @workers.add(aliases=["old_charge"])
    async def charge(job: Job[Charge]) -> None:
        into.append(job.args)

    return workers


async def test_worker_gets_plain_args_and_the_table_has_none(harness: ClientHarness) -> None:
    """Every kind of insert stores an opaque object and the newest key's id, and the worker gets the value."""
    worked: list[Any] = []
    workers = charging(worked)

    @workers.add()
    async def refund(order: int, card: Annotated[str, Secret]) -> None:
        worked.append((order, card))

    async with harness.client(workers, secret_keys=NEW) as client:
        with client.subscribe(EventKind.JOB_COMPLETED) as events:
            await client.insert(Charge(1, PLAIN))
            await client.insert_many([Charge(2, PLAIN), refund.args(3, PLAIN)])
            await client.insert_many_fast([Charge(4, PLAIN), (Charge(5, PLAIN), InsertOpts(priority=2))])
            await client.insert(RawArgs("old_charge", json.dumps({"order": 6, "card": PLAIN})))
            for _ in range(6):
                await harness.next(events)
    rows = await harness.rows()

    assert sorted(worked, key=str) == sorted(
        [*(Charge(number, PLAIN) for number in (1, 2, 4, 5, 6)), (3, PLAIN)], key=str
    )
    assert [list(row.args["card"]) for row in rows] == [[SECRET_KEY]] * 6
    assert {row.args["card"][SECRET_KEY]["key"] for row in rows} == {"new"}
    assert PLAIN not in str(rows)


async def test_failures_show_no_plain_text(harness: ClientHarness, caplog: pytest.LogCaptureFixture) -> None:
    """Log lines, errors of rows and spans of jobs that fail, or do not decode, have no value of a secret field."""
    caplog.set_level(logging.DEBUG)
    workers = Workers()
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    @workers.add()
    async def charge(job: Job[Charge]) -> None:
        raise ValueError("declined")

    client = harness.client(
        workers, secret_keys=NEW, max_attempts=1, middleware=[OpenTelemetry(tracer_provider=provider)]
    )
    async with client:
        with client.subscribe(EventKind.JOB_FAILED) as events:
            await client.insert(Charge(1, PLAIN))
            await client.insert(RawArgs("charge", json.dumps({"order": PLAIN, "card": PLAIN})))
            await client.insert(RawArgs("charge", json.dumps({"order": 1, "card": [PLAIN]})))
            for _ in range(3):
                await harness.next(events)
    rows = await harness.rows()
    formats = [TextFormatter(), JsonFormatter()]
    logged = "\n".join(
        text
        for record in caplog.records
        for text in (str(vars(record)), *(one.format(record) for one in formats))
    )
    spans = "\n".join(span.to_json() for span in exporter.get_finished_spans())
    errors = [row.errors[0] for row in sorted(rows, key=lambda row: row.id)]

    assert [error.error for error in errors] == [
        "ValueError: declined",
        "InvalidSecret: args of kind 'charge' must decode, got: Expected `int`, got `str` - at `$.order`",
        "InvalidSecret: args of kind 'charge' must decode, got: Expected `str`, got `array` - at `$.card`",
    ]
    assert logged.count("job discarded") >= 3
    assert "charge" in spans
    assert PLAIN not in logged + spans + str([row.errors for row in rows])


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["unknown key", "changed"])
async def test_job_that_does_not_decrypt_is_retried(harness: ClientHarness, damage: str) -> None:
    """It fails and waits for its next attempt, so that a key that was deployed late, or restored, loses no job."""
    worked: list[Any] = []
    retry = ConstantRetryPolicy(timedelta(hours=1))
    async with harness.client(charging(worked), secret_keys=OLD, queues={}) as inserter:
        job = (await inserter.insert(Charge(1, PLAIN))).job
    if damage == "changed":
        data = bytearray(base64.b64decode(job.args["card"][SECRET_KEY]["data"]))
        data[20] ^= 1
        changed = json.dumps(
            {"order": 1, "card": {SECRET_KEY: {"key": "old", "data": base64.b64encode(data).decode()}}}
        )
        await harness.driver.pool.fetch("UPDATE river_job SET args = $1::text::jsonb", [changed])
    keys = SecretKeys({"new": b"n" * 32}) if damage == "unknown key" else OLD

    client = harness.client(charging(worked), secret_keys=keys, retry_policy=retry)
    with client.subscribe(EventKind.JOB_FAILED) as events:
        async with client:
            await harness.next(events)
            failed = await harness.row(job.id)
    if damage == "changed":
        await harness.driver.pool.fetch("UPDATE river_job SET args = $1::text::jsonb", [job.encoded_args])
    async with harness.client(charging(worked), secret_keys=OLD) as client:
        with client.subscribe(EventKind.JOB_COMPLETED) as events:
            await client.jobs.retry(job.id)
            await harness.announce()
            await harness.next(events)

    assert failed.state is JobState.RETRYABLE
    assert failed.errors[0].error == (
        "InvalidSecret: secret field 'card' of kind 'charge' must be encrypted with a known key, got key 'old'; known: "
        "'new'; add the key to SecretKeys"
        if damage == "unknown key"
        else "InvalidSecret: secret field 'card' of kind 'charge' must decrypt with key 'old', got a text that was changed, "
        "or made with another key, or for another kind or field; check the key"
    )
    assert failed.errors[0].trace == ""
    assert worked == [Charge(1, PLAIN)]


async def test_worker_without_keys_does_not_start(harness: ClientHarness) -> None:
    """The start names the kind and its fields, before any job fails."""
    with pytest.raises(ConfigError) as caught:
        await harness.client(charging([])).start()

    assert str(caught.value) == (
        "secret_keys must be set for the secret fields of kind 'charge', card, got none; write "
        "Config(secret_keys=SecretKeys({…}))"
    )
    with pytest.raises(
        ConfigError, match=r"secret_keys must be SecretKeys, got dict; write SecretKeys\(\{…\}\)"
    ):
        Config(secret_keys={"new": b"n" * 32})  # type: ignore[arg-type]


async def test_unique_jobs_stay_unique_across_a_rotation(harness: ClientHarness) -> None:
    """The second insert, with a newer key, returns the first one's job."""
    opts = InsertOpts(unique=UniqueOpts(by_args=True))
    workers = charging([])
    async with (
        harness.client(workers, secret_keys=OLD, queues={}) as before,
        harness.client(workers, secret_keys=NEW, queues={}) as after,
    ):
        first = await before.insert(Charge(1, PLAIN), opts)
        second = await after.insert(Charge(1, PLAIN), opts)
        other = await after.insert(Charge(1, f"{PLAIN}!"), opts)

    assert (second.job.id, second.unique_skipped_as_duplicate) == (first.job.id, True)
    assert not other.unique_skipped_as_duplicate


async def test_tests_compare_plain_values(harness: ClientHarness) -> None:
    """`require_inserted` finds the job of the args as they were inserted, and no job of other ones."""
    async with harness.client(charging([]), secret_keys=NEW, queues={}) as client:
        await client.insert(Charge(1, PLAIN))

        job = await require_inserted(client, Charge(1, PLAIN))
        with pytest.raises(AssertionError, match=r"args\.card"):
            await require_inserted(client, Charge(1, "other"))

    assert job.args == {"order": 1, "card": PLAIN}


@pytest.mark.slow
async def test_rekey_races_workers_and_loses_nothing(harness: ClientHarness) -> None:
    """While a worker works and an older program inserts, rekeys in parallel leave each job to run once with its args."""
    worked: list[Any] = []
    jobs = [Charge(number, f"{PLAIN} {number}") for number in range(400)]
    later = InsertOpts(scheduled_at=datetime.now(UTC) + timedelta(hours=1))
    async with harness.client(charging(worked), secret_keys=OLD, queues={}) as older:
        await older.insert_many(jobs[:200])
        await older.insert_many([(job, later) for job in jobs[200:300]])
        client = harness.client(charging(worked), secret_keys=NEW)
        with client.subscribe(EventKind.JOB_COMPLETED) as events:
            async with client:
                done = await asyncio.gather(
                    *(
                        rekey_jobs(harness.driver.pool, {"charge": ("card",)}, NEW, page_size=7)
                        for _ in range(2)
                    ),
                    older.insert_many(jobs[300:]),
                )
                async with asyncio.timeout(GENEROUS):
                    for _ in range(300):
                        await anext(events)
    waiting = [row for row in await harness.rows() if row.state is JobState.SCHEDULED]

    assert sorted(worked, key=lambda args: args.order) == [*jobs[:200], *jobs[300:]]
    assert {row.args["card"][SECRET_KEY]["key"] for row in waiting} == {"new"}
    assert len(waiting) == 100
    assert sum(one.num_rekeyed for one in done[:2]) >= 100
    assert [one.unreadable for one in done[:2]] == [(), ()]
