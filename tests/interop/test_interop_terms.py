"""Leadership terms under slow maintenance, and of two leaders with the same client ID."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import asyncpg
import pytest
from interop_harness import LANGUAGES, Harness, Language
from river_program import GENEROUS_SECONDS


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
async def test_leader_renews_its_term_while_maintenance_waits(harness: Harness, language: Language) -> None:
    """
    leadership_renewal_under_slow_maintenance.

    A leader renews its term twice while a lock blocks its maintenance services.
    """
    holder = await asyncpg.connect(harness.url)
    lock = holder.transaction()
    await lock.start()
    await holder.execute(f"LOCK TABLE {harness.prefix}river_job IN SHARE ROW EXCLUSIVE MODE")
    async with harness.working(language, language, leads=True):
        await harness.until_leader(language)
        first = await _term(harness)
        await _wait_blocked_by(harness, holder)
        second = await _renewal_after(harness, first)
        third = await _renewal_after(harness, second)
        await lock.rollback()  # a stop waits for what services are at
    await holder.close()

    assert first["leader_id"] == second["leader_id"] == third["leader_id"] == language
    assert first["elected_at"] == second["elected_at"] == third["elected_at"]


@pytest.mark.parametrize("language", LANGUAGES)
async def test_client_does_not_resign_a_later_term_of_the_same_name(
    harness: Harness, language: Language
) -> None:
    """leadership_same_client_id_term_replacement; a client that stops ends only its own term."""
    async with harness.working(language, "same", leads=True) as member:
        await harness.until_leader("same")
        await harness.fetch(
            "UPDATE /* schema */river_leader SET elected_at = elected_at + interval '1 s', "
            "expires_at = expires_at + interval '1 s'"
        )
        other = await _term(harness)
        await member.stop()
        left = await _term(harness)

    assert left == other


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
async def test_client_does_not_renew_a_later_term_of_the_same_name(
    harness: Harness, language: Language
) -> None:
    """
    leadership_same_client_id_term_replacement.

    The old leader bids, and is elected when the other term has expired.
    """
    async with harness.working(language, "same", leads=True):
        await harness.until_leader("same")
        await harness.fetch(
            "UPDATE /* schema */river_leader SET elected_at = now() + interval '1 s', "
            "expires_at = now() + interval '8 s'"
        )
        other = await _term(harness)

        async def is_another() -> dict[str, Any] | None:
            found = await harness.fetch("SELECT * FROM /* schema */river_leader")
            return dict(found[0]) if found and found[0]["elected_at"] != other["elected_at"] else None

        assert (await harness.until(is_another, "another term"))["elected_at"] >= other["expires_at"]


async def _term(harness: Harness) -> dict[str, Any]:
    [row] = await harness.fetch("SELECT leader_id, elected_at, expires_at FROM /* schema */river_leader")
    return dict(row)


async def _renewal_after(harness: Harness, term: dict[str, Any]) -> dict[str, Any]:
    """Return the term when it has been renewed."""
    expires_at: datetime = term["expires_at"]

    async def is_renewed() -> dict[str, Any] | None:
        now = await _term(harness)
        return now if now["expires_at"] > expires_at else None

    renewed: dict[str, Any] = await harness.until(is_renewed, "a renewal")
    return renewed


async def _wait_blocked_by(harness: Harness, holder: asyncpg.Connection) -> None:
    """Return when a service waits for a lock of a connection."""
    sql = "SELECT FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))"
    async with asyncio.timeout(GENEROUS_SECONDS):
        while not await harness.connection.fetch(sql, holder.get_server_pid()):
            pass
