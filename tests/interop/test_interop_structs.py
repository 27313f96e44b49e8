"""Go structs as args: a Python class reads what Go writes, and writes the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import ClassVar

import msgspec
import pytest
from interop_harness import Harness

from millhand.client import Client
from millhand.core.args.codec import encode_args
from millhand.core.config import Config
from millhand.core.insert_opts import InsertOpts
from millhand.core.unique import UniqueOpts
from millhand.core.worker import Workers
from millhand.core.worker_job import Job


class Address(msgspec.Struct, frozen=True):
    street: str
    unit: str | None


# What Go leaves out when it is empty has a default, which is left out too; what Go writes always has none.
class Tenant(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    tenant_id: int
    trace_id: str = msgspec.field(name="traceId", default="")


class Parcel(Tenant, frozen=True, kw_only=True, omit_defaults=True):
    kind: ClassVar[str] = "parcel"
    id: int = msgspec.field(name="parcelID")
    address: Address
    content: bytes | None
    counts: dict[int, int] | None
    due: datetime | None
    items: list[Address] | None
    labels: dict[str, str] | None
    note: str = ""
    return_: Address | None = msgspec.field(name="return", default=None)
    sent_at: datetime
    serial: str
    timeout: int
    untagged: str = msgspec.field(name="Untagged")
    weight: float = 0.0


FULL = Parcel(
    tenant_id=2**63 - 1,
    trace_id="t-1",
    id=2**53 + 1,
    address=Address("Hauptstraße", "b <2>"),
    content=b"\x00\x01\xfe\xff",
    counts={-7: 2**64 - 1, 11: 0},
    due=datetime(2031, 12, 31, 23, 59, 59, tzinfo=UTC),
    items=[Address("a", None), Address("b", "b <2>")],
    labels={"a": "1", "b": "2"},
    note="fragile",
    return_=Address("c", None),
    sent_at=datetime(2026, 11, 25, 10, 20, 30, 123_457, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    serial=str(2**64 - 1),
    timeout=90_000_000_001,
    untagged="as it is",
    weight=2.5e-7,
)
EMPTY = Parcel(
    tenant_id=0,
    id=0,
    address=Address("", None),
    content=None,
    counts=None,
    due=None,
    items=None,
    labels=None,
    sent_at=datetime(1, 1, 1, tzinfo=UTC),
    serial="0",
    timeout=0,
    untagged="",
)
MICRO = msgspec.structs.replace(FULL, sent_at=FULL.sent_at.replace(microsecond=123_456))
PARCELS = {"full": FULL, "micro": MICRO, "empty": EMPTY}


async def test_python_worker_reads_a_go_struct(harness: Harness) -> None:
    """Renamed, embedded, omitted and null fields, bytes, large numbers and nanoseconds keep their values."""
    ids = [await _insert(harness, which, "python") for which in PARCELS]
    workers = Workers()
    worked: dict[int, Parcel] = {}

    @workers.add()
    async def parcel(job: Job[Parcel]) -> None:
        worked[job.id] = job.args
        harness.events.record({"event": "worked"})

    async with Client(
        harness.url,
        Config(schema=harness.schema, workers=workers, heartbeat_interval=None, queues={"python": 1}),
    ):
        await harness.events.wait("worked", count=len(ids))

    # Python has microseconds: of Go's nanoseconds the nearest is taken.
    assert list(map(worked.get, ids)) == list(PARCELS.values())


@pytest.mark.parametrize("which", ["micro", "empty"])
async def test_go_worker_reads_a_python_class(harness: Harness, which: str) -> None:
    """Go reads from a Python class the same struct that it would write itself."""
    written = await harness.go.call("struct_insert", id=which, queue="nowhere", schema=harness.schema)
    await harness.go.call("struct_work", id="go_parcels", queue="go", schema=harness.schema)

    try:
        async with Client(harness.url, Config(schema=harness.schema)) as client:
            inserted = await client.insert(PARCELS[which], InsertOpts(queue="go"))
        reported = await harness.events.wait("parcel", job=inserted.job.id)
    finally:
        await harness.go.call("stop", id="go_parcels")

    assert reported["encoded"] == written["encoded"]


@pytest.mark.parametrize("which", ["micro", "empty"])
async def test_struct_has_the_same_bytes_in_both_languages(harness: Harness, which: str) -> None:
    """cross_language_unique_conflict; equal args have the same bytes, so Millhand skips a duplicate of Go's job."""
    written = await harness.go.call("struct_insert", id=which, queue="nowhere", schema=harness.schema)
    opts = InsertOpts(queue="nowhere", unique=UniqueOpts(by_args=True))

    async with Client(harness.url, Config(schema=harness.schema)) as client:
        inserted = await client.insert(PARCELS[which], opts)

    assert encode_args(PARCELS[which]) == written["encoded"]
    assert (inserted.unique_skipped_as_duplicate, inserted.job.id) == (True, written["id"])


async def _insert(harness: Harness, which: str, queue: str) -> int:
    inserted = await harness.go.call("struct_insert", id=which, queue=queue, schema=harness.schema)
    id: int = inserted["id"]
    return id
