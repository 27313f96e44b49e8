"""
What programs write against PyPI's `riverqueue`: each case is run on the real package and on ours, unchanged.

`library` is the one or the other; `client` is its client, and `engine` what it speaks on. A synchronous case returns
what it was told; its asynchronous twin is `asynchronous` of the same name.
"""

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
    """Args with options of their own, as `insert_opts` of the library at hand."""

    opts: Any

    kind: str = "opts"

    def insert_opts(self) -> Any:
        return self.opts

    def to_json(self) -> str:
        return '{"a": {"z": 1.50, "b": [true, null]}, "n": 12345678901234567890, "s": "\\u00e9<&>"}'


@dataclass
class Told:
    """What a program sees of what it did."""

    results: list[Any] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


# -- synchronous


def insert(library: Any, client: Any, engine: Any) -> Told:
    """Inserts with what the README of the package shows."""
    opts = library.InsertOpts
    return Told(
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


def insert_with_opts_of_args(library: Any, client: Any, engine: Any) -> Told:
    """Options that the args bring, and those of an insert over them, one by one."""
    opts = library.InsertOpts
    args = OptsArgs(opts(max_attempts=5, priority=2, queue="of_args", tags=["one", "two"]))
    return Told(
        results=[
            client.insert(args),
            client.insert(args, opts(max_attempts=6, tags=["three"])),
            client.insert(OptsArgs(opts(scheduled_at=IN_A_FEW_YEARS)), opts(queue="over")),
        ]
    )


def insert_many(library: Any, client: Any, engine: Any) -> Told:
    """Several at once, bare and with options; none at all; and so on a connection."""
    opts, params = library.InsertOpts, library.InsertManyParams
    told = Told()
    told.counts.append(client.insert_many([SortArgs(["a"]), SortArgs(["b"])]))
    told.counts.append(
        client.insert_many(
            [
                params(args=SortArgs(["c"]), insert_opts=opts(max_attempts=5, tags=["one", "two"])),
                params(SortArgs(["d"]), opts(queue="high_priority", priority=4)),
                params(OptsArgs(opts(queue="of_args", scheduled_at=IN_A_FEW_YEARS))),
            ]
        )
    )
    told.counts.append(client.insert_many([]))
    with engine.begin() as tx:
        told.counts.append(client.insert_many_tx(tx, [SortArgs(["e"]), SortArgs(["f"])]))
    return told


def insert_tx(library: Any, client: Any, engine: Any) -> Told:
    """In a transaction of the program's own: committed with it, and gone with its rollback."""
    from sqlalchemy.orm import Session  # noqa: PLC0415 - beside what is asynchronous, as a program would have it

    told = Told()
    with engine.begin() as tx:
        told.results.append(client.insert_tx(tx, SortArgs(["kept"])))
        told.results.append(client.insert_tx(tx, SortArgs(["too"]), library.InsertOpts(queue="other")))
    with engine.connect() as tx:
        told.results.append(client.insert_tx(tx, SortArgs(["gone"])))
        tx.rollback()
    with Session(engine) as session:
        told.results.append(client.insert_tx(session, SortArgs(["session"])))
        session.commit()
    return told


def insert_on_a_connection(library: Any, client: Any, engine: Any) -> Told:
    """A client on one connection inserts into what is open there."""
    told = Told()
    with engine.connect() as connection:
        on_it = type(client)(type(client.driver)(connection))
        told.results.append(on_it.insert(SortArgs(["kept"])))
        told.counts.append(on_it.insert_many([SortArgs(["kept too"])]))
        connection.commit()
        told.results.append(on_it.insert(SortArgs(["gone"])))
        connection.rollback()
    return told


# -- asynchronous


async def async_insert(library: Any, client: Any, engine: Any) -> Told:
    """As `insert`."""
    opts = library.InsertOpts
    return Told(
        results=[
            await client.insert(SortArgs(strings=["whale", "tiger", "bear"])),
            await client.insert(SortArgs([]), insert_opts=opts(max_attempts=17, priority=3)),
            await client.insert(SortArgs(["é"]), opts(queue="my_queue", tags=["custom", "a-b_c"])),
            await client.insert(SortArgs(["later"]), opts(scheduled_at=IN_A_FEW_YEARS)),
            await client.insert(OptsArgs(opts(max_attempts=5, tags=["one"])), opts(priority=2)),
            await client.insert(SortArgs(["free"]), opts(unique_opts=library.UniqueOpts())),
        ]
    )


async def async_insert_many(library: Any, client: Any, engine: Any) -> Told:
    """As `insert_many`."""
    opts, params = library.InsertOpts, library.InsertManyParams
    told = Told()
    told.counts.append(
        await client.insert_many([SortArgs(["a"]), params(SortArgs(["b"]), opts(queue="q", tags=["one"]))])
    )
    told.counts.append(await client.insert_many([]))
    async with engine.begin() as tx:
        told.counts.append(await client.insert_many_tx(tx, [SortArgs(["c"]), SortArgs(["d"])]))
    return told


async def async_insert_tx(library: Any, client: Any, engine: Any) -> Told:
    """As `insert_tx`, and on a connection."""
    told = Told()
    async with engine.begin() as tx:
        told.results.append(await client.insert_tx(tx, SortArgs(["kept"])))
    async with engine.connect() as connection:
        told.results.append(await client.insert_tx(connection, SortArgs(["gone"])))
        await connection.rollback()
        on_it = type(client)(type(client.driver)(connection))
        told.results.append(await on_it.insert(SortArgs(["kept too"])))
        told.counts.append(await on_it.insert_many([SortArgs(["many"])]))
        await connection.commit()
    return told


SYNC: tuple[Callable[[Any, Any, Any], Told], ...] = (
    insert,
    insert_with_opts_of_args,
    insert_many,
    insert_tx,
    insert_on_a_connection,
)
ASYNC: tuple[Callable[[Any, Any, Any], Awaitable[Told]], ...] = (
    async_insert,
    async_insert_many,
    async_insert_tx,
)
