"""The unique keys of PyPI's `riverqueue`, of Millhand's shim with that name, and of River's Go client."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
import riverqueue as upstream
from interop_harness import Harness
from riverqueue.driver import riversqlalchemy as upstream_driver
from sqlalchemy import Engine, create_engine

from millhand.compat import riverqueue as ours
from millhand.compat.riverqueue.driver import riversqlalchemy as our_driver
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import Migrator

LAST_VERSION_OF_THE_REAL_PACKAGE = 5
# All jobs are of one period, whenever the test runs.
DUE_AT = datetime(2031, 5, 4, 3, 2, 1, tzinfo=UTC)
# Nested objects are written in one order here and there; of those at the top River sorts the keys itself.
DOCUMENTS: tuple[dict[str, Any], ...] = (
    {"strings": ["whale", "tiger"]},
    {"b": 1, "a": {"y": [True, None, 2.5], "z": 1}},
    {"name": "Zoë <zoe@example.com> & 🦀", "line": "\u2028"},
    {"rate": 1.0, "tiny": 1e-7, "big": 1e21, "id": 2**63},
    {},
)
ASKED: tuple[dict[str, Any], ...] = (
    {"by_args": True},
    {"by_queue": True},
    {"by_args": True, "by_queue": True, "by_period": 900},
    {"by_period": 7 * 86_400},
    {"by_args": True, "by_state": list(ours.UNIQUE_STATES_DEFAULT)},
)


@dataclass
class SortArgs:
    document: dict[str, Any]

    kind: str = "sort"

    def to_json(self) -> str:
        return json.dumps(self.document)


def engine_of(url: str, schema: str) -> Engine:
    return create_engine(
        url.replace("postgresql", "postgresql+psycopg", 1),
        connect_args={"options": f"-csearch_path={schema}"},
    )


def opts_of(library: Any, asked: dict[str, Any]) -> Any:
    return library.InsertOpts(queue="sorting", scheduled_at=DUE_AT, unique_opts=library.UniqueOpts(**asked))


async def keys_of_go(harness: Harness, asked: dict[str, Any]) -> list[Any]:
    """Return key and mask that River's Go client gives each document."""
    unique = {name.replace("by_period", "by_period_seconds"): value for name, value in asked.items()}
    texts = await harness.go.call("encode", cases=[{"text": json.dumps(one)} for one in DOCUMENTS])
    opts = {"queue": "sorting", "scheduled_at": DUE_AT.isoformat(), "unique": unique}
    cases = [{"kind": "sort", "text": text, "opts": opts} for text in texts]
    return await harness.go.call("unique", schema=harness.schema, cases=cases)


@pytest.fixture
async def old_schema(postgres_url: str) -> AsyncIterator[AsyncpgDriver]:
    """The schema of the River version for which the real package was made."""
    driver = AsyncpgDriver(postgres_url, f"old_{secrets.token_hex(6)}")
    await driver.open()
    await driver.pool.fetch(f"CREATE SCHEMA {driver.schema}")
    await Migrator(driver, "main").up(target=LAST_VERSION_OF_THE_REAL_PACKAGE)
    yield driver
    await driver.pool.fetch(f"DROP SCHEMA {driver.schema} CASCADE")
    await driver.close()


@pytest.mark.parametrize("asked", ASKED, ids=" ".join)
async def test_shim_makes_the_unique_keys_of_go(harness: Harness, asked: dict[str, Any]) -> None:
    """
    10, 11: codec: unique_column_bytes.

    The shim's key of Python's JSON is the key that Go's client makes of its structs.
    """
    engine = engine_of(harness.url, harness.schema)
    client = ours.Client(our_driver.Driver(engine))

    def insert() -> list[ours.Job]:
        with engine.connect() as tx:  # each alone, for some share their key
            jobs = []
            for document in DOCUMENTS:
                jobs.append(client.insert_tx(tx, SortArgs(document), opts_of(ours, asked)).job)
                tx.rollback()
            return jobs

    jobs = await asyncio.to_thread(insert)
    engine.dispose()

    river = await keys_of_go(harness, asked)
    assert [one.get("error") for one in river] == [None] * len(DOCUMENTS)
    assert [None if job.unique_key is None else job.unique_key.hex() for job in jobs] == [
        one["key"] for one in river
    ]


async def test_go_client_skips_a_duplicate_of_the_shim_s_job(harness: Harness) -> None:
    """
    11: codec: cross_language_unique_conflict.

    River's Go client skips a duplicate of a job that the shim inserted.
    """
    engine = engine_of(harness.url, harness.schema)
    client = ours.Client(our_driver.Driver(engine))
    opts = ours.InsertOpts(unique_opts=ours.UniqueOpts(by_args=True))

    held = await asyncio.to_thread(client.insert, SortArgs({"name": "Zoë"}), opts)
    [skipped] = await harness.control("go").insert_many(
        [{"kind": "sort", "text": '{"name":"Zoë"}', "opts": {"unique": {"by_args": True}}}]
    )
    again = await asyncio.to_thread(client.insert, SortArgs({"name": "Zoë"}), opts)
    engine.dispose()

    assert (held.unique_skipped_as_duplicated, skipped["skipped"], again.unique_skipped_as_duplicated) == (
        False,
        True,
        True,
    )
    assert skipped["id"] == held.job.id


async def test_real_riverqueue_package_makes_other_keys_than_go(
    harness: Harness, old_schema: AsyncpgDriver
) -> None:
    """10: On its own schema, the real package stores keys that Go's client never makes."""
    engine = engine_of(harness.url, old_schema.schema)
    client = upstream.Client(upstream_driver.Driver(engine))
    asked = {"by_args": True}

    def insert() -> list[bytes]:
        results = [client.insert(SortArgs(document), opts_of(upstream, asked)) for document in DOCUMENTS]
        return [bytes(result.job.unique_key or b"") for result in results]

    theirs = await asyncio.to_thread(insert)
    engine.dispose()

    river = await keys_of_go(harness, asked)
    assert [len(key) for key in theirs] == [32] * len(DOCUMENTS)
    assert {key.hex() for key in theirs}.isdisjoint(one["key"] for one in river)
