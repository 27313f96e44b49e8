"""Statements about leadership terms."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

from store_rows import NOW, notified

from millhand.core.job import ClientId
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.engine.store.leader import (
    LeaderRow,
    leader_attempt_elect,
    leader_attempt_reelect,
    leader_get,
    leader_get_seconds_left,
    leader_request_resign,
    leader_resign,
)

if TYPE_CHECKING:
    from conftest import TopicRecorder

A, B = ClientId("leader_a"), ClientId("client_b")
TTL = timedelta(seconds=15)
MOMENT = timedelta(microseconds=1)


async def test_first_bid_begins_a_term(tx: Executor) -> None:
    """A bid without a running term wins a term of the given length."""
    term = await tx.run(leader_attempt_elect(leader_id=A, ttl=TTL, now=NOW))

    assert term == LeaderRow(A, NOW, NOW + TTL)
    assert await tx.run(leader_get()) == term
    assert await tx.fetch("SELECT name FROM river_leader") == [{"name": "default"}]


async def test_bid_during_a_term_is_lost(tx: Executor) -> None:
    """A term stands to its last moment, even against its own client's bid."""
    term = await tx.run(leader_attempt_elect(leader_id=A, ttl=TTL, now=NOW))

    bids = [await tx.run(leader_attempt_elect(leader_id=who, ttl=TTL, now=NOW + TTL)) for who in (B, A)]

    assert bids == [None, None]
    assert await tx.run(leader_get()) == term


async def test_bid_replaces_an_expired_term(tx: Executor) -> None:
    """A bid after the expiry begins a new term in the only row."""
    await tx.run(leader_attempt_elect(leader_id=A, ttl=TTL, now=NOW))
    later = NOW + TTL + MOMENT

    term = await tx.run(leader_attempt_elect(leader_id=B, ttl=TTL, now=later))

    assert term == LeaderRow(B, later, later + TTL)
    assert len(await tx.fetch("SELECT leader_id FROM river_leader")) == 1


async def test_of_many_bids_one_is_won(schema_driver: AsyncpgDriver) -> None:
    """One of any number of simultaneous bids wins."""
    bids = [leader_attempt_elect(leader_id=ClientId(f"client_{n}"), ttl=TTL) for n in range(8)]

    won = [row for row in await asyncio.gather(*map(schema_driver.pool.run, bids)) if row]

    assert len(won) == 1
    assert await schema_driver.pool.run(leader_get()) == won[0]


async def test_renewal_moves_only_the_end(tx: Executor) -> None:
    """A renewed term keeps its beginning and ends one length from now."""
    await tx.run(leader_attempt_elect(leader_id=A, ttl=TTL, now=NOW))
    later = NOW + timedelta(seconds=5)

    renewed = await tx.run(leader_attempt_reelect(leader_id=A, elected_at=NOW, ttl=TTL, now=later))

    assert renewed == LeaderRow(A, NOW, later + TTL)


async def test_renewal_of_another_term_is_lost(tx: Executor) -> None:
    """Another client's term, an earlier one and an expired one cannot be renewed; one in its last moment can."""
    await tx.run(leader_attempt_elect(leader_id=A, ttl=TTL, now=NOW))

    async def renew(leader_id: ClientId, *, elected_at=NOW, now=NOW) -> LeaderRow | None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        return await tx.run(
            leader_attempt_reelect(leader_id=leader_id, elected_at=elected_at, ttl=TTL, now=now)
        )

    assert await renew(B) is None
    assert await renew(A, elected_at=NOW - MOMENT) is None
    assert await renew(A, now=NOW + TTL + MOMENT) is None
    assert await renew(A, now=NOW + TTL) is not None


async def test_resignation_is_rivers_byte_for_byte(
    schema_driver: AsyncpgDriver, topics: TopicRecorder
) -> None:
    """A request to resign and a resignation send River's payloads on River's channel."""
    run = schema_driver.pool.run
    term = await run(leader_attempt_elect(leader_id=A, ttl=TTL))
    assert term is not None

    await run(leader_request_resign())
    resigned = await run(leader_resign(leader_id=A, elected_at=term.elected_at))

    assert resigned
    assert await topics.received() == notified("resignation requested")
    assert await run(leader_get()) is None


async def test_resignation_of_another_term_does_nothing(
    schema_driver: AsyncpgDriver, topics: TopicRecorder
) -> None:
    """It deletes no row and sends no notification."""
    run = schema_driver.pool.run
    term = await run(leader_attempt_elect(leader_id=A, ttl=TTL))
    assert term is not None

    assert not await run(leader_resign(leader_id=B, elected_at=term.elected_at))
    assert not await run(leader_resign(leader_id=A, elected_at=term.elected_at - MOMENT))
    assert await topics.received() == []
    assert await run(leader_get()) == term


async def test_seconds_left_of_a_term_are_returned(tx: Executor) -> None:
    """By the database's clock, negative after the expiry, and None without a term."""
    vacant = await tx.run(leader_get_seconds_left())
    await tx.run(leader_attempt_elect(leader_id=A, ttl=TTL, now=NOW))

    left = [await tx.run(leader_get_seconds_left(now=NOW + late)) for late in (TTL / 4, 2 * TTL)]

    assert (vacant, left) == (None, [TTL.total_seconds() * 3 / 4, -TTL.total_seconds()])
