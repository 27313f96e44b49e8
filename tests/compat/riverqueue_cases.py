"""Programs for PyPI's `riverqueue`, which run on the real package and on Millhand's without a change."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

IN_A_FEW_YEARS = datetime(2031, 5, 4, 3, 2, 1, 123456, tzinfo=UTC)


@dataclass
class SortArgs:
    strings: list[str]

    kind: str = "sort"

    def to_json(self) -> str:
        return json.dumps({"strings": self.strings})


@dataclass
class OptsArgs:
    """Args with options, as the library's `insert_opts`."""

    opts: Any

    kind: str = "opts"

    def insert_opts(self) -> Any:
        return self.opts

    def to_json(self) -> str:
        return '{"a": {"z": 1.50, "b": [true, null]}, "n": 12345678901234567890, "s": "\\u00e9<&>"}'


@dataclass
class Outcome:
    """What a program can observe."""

    results: list[Any] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


# -- synchronous


def insert(library: Any, client: Any, engine: Any) -> Outcome:
    """Inserts as the README of the package shows."""
    opts = library.InsertOpts
    return Outcome(
        results=[
            client.insert(SortArgs(strings=["whale", "tiger", "bear"])),
            client.insert(SortArgs([]), insert_opts=opts(max_attempts=17, priority=3)),
            client.insert(SortArgs(["é"]), opts(queue="my_queue", tags=["custom", "a-b_c"])),
            client.insert(SortArgs(["later"]), opts(scheduled_at=IN_A_FEW_YEARS)),
            client.insert(SortArgs(["naive"]), opts(scheduled_at=IN_A_FEW_YEARS.replace(tzinfo=None))),
            client.insert(SortArgs(["zero"]), opts(max_attempts=0, priority=0, queue="", tags=[])),
            client.insert(SortArgs(["free"]), opts(unique_opts=library.UniqueOpts())),
        ]
    )


def insert_with_opts_of_args(library: Any, client: Any, engine: Any) -> Outcome:
    """The args have options, and an insert overrides them one by one."""
    opts = library.InsertOpts
    args = OptsArgs(opts(max_attempts=5, priority=2, queue="of_args", tags=["one", "two"]))
    return Outcome(
        results=[
            client.insert(args),
            client.insert(args, opts(max_attempts=6, tags=["three"])),
            client.insert(OptsArgs(opts(scheduled_at=IN_A_FEW_YEARS)), opts(queue="over")),
        ]
    )


def insert_many(library: Any, client: Any, engine: Any) -> Outcome:
    """Several jobs at once, with and without options; none at all; and on a connection."""
    opts, params = library.InsertOpts, library.InsertManyParams
    outcome = Outcome()
    outcome.counts.append(client.insert_many([SortArgs(["a"]), SortArgs(["b"])]))
    outcome.counts.append(
        client.insert_many(
            [
                params(args=SortArgs(["c"]), insert_opts=opts(max_attempts=5, tags=["one", "two"])),
                params(SortArgs(["d"]), opts(queue="high_priority", priority=4)),
                params(OptsArgs(opts(queue="of_args", scheduled_at=IN_A_FEW_YEARS))),
            ]
        )
    )
    outcome.counts.append(client.insert_many([]))
    with engine.begin() as tx:
        outcome.counts.append(client.insert_many_tx(tx, [SortArgs(["e"]), SortArgs(["f"])]))
    return outcome


def insert_tx(library: Any, client: Any, engine: Any) -> Outcome:
    """In a transaction of the program: committed with it and rolled back with it."""
    from sqlalchemy.orm import Session  # noqa: PLC0415 - beside what is asynchronous, as a program would have it

    outcome = Outcome()
    with engine.begin() as tx:
        outcome.results.append(client.insert_tx(tx, SortArgs(["kept"])))
        outcome.results.append(client.insert_tx(tx, SortArgs(["too"]), library.InsertOpts(queue="other")))
    with engine.connect() as tx:
        outcome.results.append(client.insert_tx(tx, SortArgs(["gone"])))
        tx.rollback()
    with Session(engine) as session:
        outcome.results.append(client.insert_tx(session, SortArgs(["session"])))
        session.commit()
    return outcome


def insert_on_a_connection(library: Any, client: Any, engine: Any) -> Outcome:
    """A client on one connection inserts into its open transaction."""
    outcome = Outcome()
    with engine.connect() as connection:
        on_it = type(client)(type(client.driver)(connection))
        outcome.results.append(on_it.insert(SortArgs(["kept"])))
        outcome.counts.append(on_it.insert_many([SortArgs(["kept too"])]))
        connection.commit()
        outcome.results.append(on_it.insert(SortArgs(["gone"])))
        connection.rollback()
    return outcome


# -- asynchronous


async def async_insert(library: Any, client: Any, engine: Any) -> Outcome:
    """As `insert`."""
    opts = library.InsertOpts
    return Outcome(
        results=[
            await client.insert(SortArgs(strings=["whale", "tiger", "bear"])),
            await client.insert(SortArgs([]), insert_opts=opts(max_attempts=17, priority=3)),
            await client.insert(SortArgs(["é"]), opts(queue="my_queue", tags=["custom", "a-b_c"])),
            await client.insert(SortArgs(["later"]), opts(scheduled_at=IN_A_FEW_YEARS)),
            await client.insert(OptsArgs(opts(max_attempts=5, tags=["one"])), opts(priority=2)),
            await client.insert(SortArgs(["free"]), opts(unique_opts=library.UniqueOpts())),
        ]
    )


async def async_insert_many(library: Any, client: Any, engine: Any) -> Outcome:
    """As `insert_many`."""
    opts, params = library.InsertOpts, library.InsertManyParams
    outcome = Outcome()
    outcome.counts.append(
        await client.insert_many([SortArgs(["a"]), params(SortArgs(["b"]), opts(queue="q", tags=["one"]))])
    )
    outcome.counts.append(await client.insert_many([]))
    async with engine.begin() as tx:
        outcome.counts.append(await client.insert_many_tx(tx, [SortArgs(["c"]), SortArgs(["d"])]))
    return outcome


async def async_insert_tx(library: Any, client: Any, engine: Any) -> Outcome:
    """As `insert_tx`, and on a connection."""
    outcome = Outcome()
    async with engine.begin() as tx:
        outcome.results.append(await client.insert_tx(tx, SortArgs(["kept"])))
    async with engine.connect() as connection:
        outcome.results.append(await client.insert_tx(connection, SortArgs(["gone"])))
        await connection.rollback()
        on_it = type(client)(type(client.driver)(connection))
        outcome.results.append(await on_it.insert(SortArgs(["kept too"])))
        outcome.counts.append(await on_it.insert_many([SortArgs(["many"])]))
        await connection.commit()
    return outcome


SYNC: tuple[Callable[[Any, Any, Any], Outcome], ...] = (
    insert,
    insert_with_opts_of_args,
    insert_many,
    insert_tx,
    insert_on_a_connection,
)
ASYNC: tuple[Callable[[Any, Any, Any], Awaitable[Outcome]], ...] = (
    async_insert,
    async_insert_many,
    async_insert_tx,
)
