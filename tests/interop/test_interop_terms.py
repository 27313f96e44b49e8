"""What a leader holds is a term, whatever its services are doing and whoever bears its name."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import asyncpg
import pytest
from interop_room import LANGUAGES, Language, Room
from river_program import GENEROUS_SECONDS


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
async def test_leader_renews_its_term_while_maintenance_waits(room: Room, language: Language) -> None:
    """
    leadership_renewal_under_slow_maintenance.

    A leader renews its term twice while a lock blocks its maintenance services.
    """
    holder = await asyncpg.connect(room.url)
    lock = holder.transaction()
    await lock.start()
    await holder.execute(f"LOCK TABLE {room.prefix}river_job IN SHARE ROW EXCLUSIVE MODE")
    async with room.working(language, language, leads=True):
        await room.until_leader(language)
        first = await _term(room)
        await _wait_blocked_by(room, holder)
        second = await _renewal_after(room, first)
        third = await _renewal_after(room, second)
        await lock.rollback()  # a stop waits for what services are at
    await holder.close()

    assert first["leader_id"] == second["leader_id"] == third["leader_id"] == language
    assert first["elected_at"] == second["elected_at"] == third["elected_at"]


@pytest.mark.parametrize("language", LANGUAGES)
async def test_client_does_not_resign_a_later_term_of_the_same_name(room: Room, language: Language) -> None:
    """leadership_same_client_id_term_replacement; a client that stops ends only its own term."""
    async with room.working(language, "same", leads=True) as member:
        await room.until_leader("same")
        await room.fetch(
            "UPDATE /* schema */river_leader SET elected_at = elected_at + interval '1 s', "
            "expires_at = expires_at + interval '1 s'"
        )
        other = await _term(room)
        await member.stop()
        left = await _term(room)

    assert left == other


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
async def test_client_does_not_renew_a_later_term_of_the_same_name(room: Room, language: Language) -> None:
    """
    leadership_same_client_id_term_replacement.

    The old leader bids, and is elected when the other term has expired.
    """
    async with room.working(language, "same", leads=True):
        await room.until_leader("same")
        await room.fetch(
            "UPDATE /* schema */river_leader SET elected_at = now() + interval '1 s', "
            "expires_at = now() + interval '8 s'"
        )
        other = await _term(room)

        async def is_another() -> dict[str, Any] | None:
            found = await room.fetch("SELECT * FROM /* schema */river_leader")
            return dict(found[0]) if found and found[0]["elected_at"] != other["elected_at"] else None

        assert (await room.until(is_another, "another term"))["elected_at"] >= other["expires_at"]


async def _term(room: Room) -> dict[str, Any]:
    [row] = await room.fetch("SELECT leader_id, elected_at, expires_at FROM /* schema */river_leader")
    return dict(row)


async def _renewal_after(room: Room, term: dict[str, Any]) -> dict[str, Any]:
    """Return the term when it has been renewed."""
    expires_at: datetime = term["expires_at"]

    async def is_renewed() -> dict[str, Any] | None:
        now = await _term(room)
        return now if now["expires_at"] > expires_at else None

    renewed: dict[str, Any] = await room.until(is_renewed, "a renewal")
    return renewed


async def _wait_blocked_by(room: Room, holder: asyncpg.Connection) -> None:
    """Return when a service waits for what a connection has locked."""
    sql = "SELECT FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))"
    async with asyncio.timeout(GENEROUS_SECONDS):
        while not await room.connection.fetch(sql, holder.get_server_pid()):
            pass
