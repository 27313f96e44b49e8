"""What a type checker sees of inserts: what can be inserted, by which client, and the result."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar, assert_type

import attrs
import msgspec
import pydantic

from millhand import (
    Client,
    ConfigError,
    InsertOpts,
    InsertResult,
    Job,
    JobArgs,
    JobId,
    JobRow,
    JobState,
    RawArgs,
    SyncClient,
    UniqueOpts,
    Workers,
    cron,
    every,
    never,
    result_of,
)


@dataclass(frozen=True)
class ByDataclass:
    kind: ClassVar[str] = "a"
    insert_opts: ClassVar[InsertOpts] = InsertOpts(max_attempts=5)
    to: str


class ByStruct(msgspec.Struct):
    kind: ClassVar[str] = "b"
    to: str


class ByModel(pydantic.BaseModel):
    kind: ClassVar[str] = "c"
    to: str


@attrs.frozen
class ByAttrs:
    kind: ClassVar[str] = "d"
    to: str


@dataclass
class KindIsAField:
    kind: str = "e"


@dataclass
class NoKind:
    to: str


workers = Workers()


@workers.add()
async def resize(key: str, width: int = 640) -> None: ...


async def insert(client: Client, row: JobRow, job: Job[ByDataclass]) -> InsertResult:
    assert_type(await client.insert(ByDataclass("a")), InsertResult)
    client.insert(ByDataclass("a"))  # type: ignore[unused-coroutine]
    await client.insert(ByStruct("a"), InsertOpts(queue="mail"), tx=None)
    await client.insert(ByModel(to="a"), None)
    await client.insert(ByAttrs("a"))
    await client.insert(RawArgs("b", "{}"))
    await client.insert(resize.args("a.png"))
    await client.insert(resize)  # type: ignore[arg-type]
    await client.insert(resize("a.png"))  # type: ignore[arg-type]
    await client.insert(resize.delay("a.png"))  # type: ignore[attr-defined]
    await client.insert(ByDataclass)  # type: ignore[arg-type]
    await client.insert(KindIsAField())  # type: ignore[arg-type]
    await client.insert(NoKind("a"))  # type: ignore[arg-type]
    await client.insert({"to": "a"})  # type: ignore[arg-type]
    await client.insert("a")  # type: ignore[arg-type]
    await client.insert(row)  # type: ignore[arg-type]
    await client.insert(job)  # type: ignore[arg-type]
    await client.insert(ByDataclass(7))  # type: ignore[arg-type]
    await client.insert(ByDataclass("a"), UniqueOpts())  # type: ignore[arg-type]
    await client.insert(ByDataclass("a"), queue="mail")  # type: ignore[call-arg]
    workers.add(queue="mail")  # type: ignore[call-arg]
    await client.insert(ByDataclass("a"), object())  # type: ignore[arg-type]
    await client.insert(ByDataclass("a"), queue="mail")  # type: ignore[call-arg]
    client.insert(ByDataclass("a"))  # type: ignore[unused-coroutine]
    return await client.insert_many([ByDataclass("a")])  # type: ignore[return-value]


async def insert_many(client: Client, mixed: list[JobArgs]) -> None:
    opts = InsertOpts(priority=2)
    assert_type(await client.insert_many([ByDataclass("a"), (ByStruct("b"), opts)]), list[InsertResult])
    await client.insert_many(ByAttrs(str(n)) for n in range(9))
    await client.insert_many((ByAttrs(str(n)), None) for n in range(9))
    await client.insert_many([resize.args("a"), (resize.args("b", width=80), opts)])
    await client.insert_many(mixed)
    await client.insert_many(ByDataclass("a"))  # type: ignore[arg-type]
    await client.insert_many([(ByDataclass("a"), {"queue": "mail"})])  # type: ignore[list-item]
    await client.insert_many([(opts, ByDataclass("a"))])  # type: ignore[list-item]
    await client.insert_many(["a"])  # type: ignore[list-item]
    await client.insert_many(arrive())  # type: ignore[arg-type]
    await client.insert_many_fast(range(9))  # type: ignore[arg-type]
    assert_type(await client.insert_many_fast(come()), int)
    assert_type(await client.insert_many_fast(arrive(), tx=None), int)


async def insert_and_wait(client: Client, sync_client: SyncClient, row: JobRow) -> None:
    soon = timedelta(seconds=1)
    assert_type(await client.insert_and_wait(ByDataclass("a"), returns=ByStruct, timeout=soon), ByStruct)
    assert_type(await client.insert_and_wait(ByDataclass("a"), returns=list[int], timeout=soon), list[int])
    await client.insert_and_wait(resize.args("a"), InsertOpts(), timeout=soon)
    await client.insert_and_wait(ByDataclass("a"))  # type: ignore[call-overload]
    await client.insert_and_wait(ByDataclass("a"), timeout=soon, tx=object())  # type: ignore[call-overload]
    assert_type(await client.jobs.wait(1, timeout=soon), JobRow)
    assert_type(sync_client.insert_and_wait(ByDataclass("a"), returns=ByStruct, timeout=soon), ByStruct)
    assert_type(sync_client.jobs.wait(1, timeout=soon), JobRow)
    assert_type(result_of(row, ByStruct), ByStruct)


def come() -> Iterator[ByStruct]:
    yield ByStruct("a")


async def arrive() -> AsyncIterator[tuple[ByStruct, InsertOpts | None]]:
    yield ByStruct("a"), None


def insert_without_a_loop(client: SyncClient) -> None:
    assert_type(client.insert(ByDataclass("a")), InsertResult)
    assert_type(client.insert_many([ByStruct("a"), (ByModel(to="b"), InsertOpts())]), list[InsertResult])
    assert_type(client.insert_many_fast(come()), int)
    assert_type(client.jobs.get(1), JobRow)
    client.insert(NoKind("a"))  # type: ignore[arg-type]
    client.insert(resize)  # type: ignore[arg-type]
    client.insert_many(["a"])  # type: ignore[list-item]
    client.insert_many_fast(arrive())  # type: ignore[arg-type]
    client.insert(ByDataclass("a"), InsertOpts(), None)  # type: ignore[call-arg]
    client.subscribe()  # type: ignore[attr-defined]


def see_what_came_of_it(inserted: InsertResult) -> None:
    assert_type(inserted.unique_skipped_as_duplicate, bool)
    assert_type(inserted.job, JobRow)
    assert_type(inserted.job.id, JobId)
    assert_type(inserted.job.state, JobState)
    assert_type(inserted.job.scheduled_at, datetime)
    assert_type(inserted.job.finalized_at, datetime | None)
    print(inserted.id)  # type: ignore[attr-defined]
    inserted.job.queue = "mail"  # type: ignore[misc]


InsertOpts(scheduled_at=datetime.now(UTC), tags=["a"], metadata={"a": [1, None]}, priority=1, pending=True)
InsertOpts("mail")  # type: ignore[arg-type, call-arg]
InsertOpts(priority="1")  # type: ignore[arg-type]
InsertOpts(scheduled_at=timedelta(hours=1))  # type: ignore[arg-type]
InsertOpts(tags=[1])  # type: ignore[list-item]
InsertOpts(unique=True)  # type: ignore[arg-type]
InsertOpts(delay=5)  # type: ignore[call-arg]
UniqueOpts(by_period=60)  # type: ignore[arg-type]
UniqueOpts(by_state={"available"})  # type: ignore[arg-type]

# What is inserted by a schedule: args, or a function that makes them, or the class itself.


def perhaps() -> ByDataclass | None:
    return None


def both() -> tuple[ByDataclass, InsertOpts]:
    return ByDataclass("a"), InsertOpts()


async def later() -> ByDataclass:
    return ByDataclass("a")


def describe(error: ConfigError) -> str:
    return str(error)


every(timedelta(hours=1), ByDataclass("a"), id="hourly", opts=InsertOpts(queue="mail"))
every(timedelta(hours=1), perhaps)
cron("0 3 * * *", both, timezone="Europe/Berlin")
never(KindIsAField)  # type: ignore[arg-type]
never(ByDataclass)  # type: ignore[arg-type]
never(later)  # type: ignore[arg-type]
never(describe)  # type: ignore[arg-type]
never(resize)  # type: ignore[arg-type]
every(timedelta(hours=1), lambda: "a")  # type: ignore[arg-type, return-value]
every(timedelta(hours=1), NoKind("a"))  # type: ignore[arg-type]
cron(timedelta(hours=1), ByDataclass("a"))  # type: ignore[arg-type]
