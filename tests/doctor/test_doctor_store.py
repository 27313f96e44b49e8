"""Statements about the server, the session and the catalog."""

from __future__ import annotations

from datetime import timedelta

from factory import NOW, insert_job
from millhand.core.job import JobState
from millhand.db.driver.protocol import Executor
from millhand.doctor.store import (
    DiscardedKind,
    RightState,
    doctor_get_backend,
    doctor_get_clock,
    doctor_get_server,
    doctor_list_discarded,
    doctor_list_indexes,
    doctor_list_rights,
    doctor_list_transactions,
)


async def test_server_and_session_describe_themselves(tx: Executor) -> None:
    """The owner of the test's database sees a primary server with UTF8, and its own process and time."""
    server = await tx.run(doctor_get_server())
    indexes = {one.name: one for one in await tx.run(doctor_list_indexes())}

    assert (server.schema, server.encoding, server.is_standby) == ("public", "UTF8", False)
    assert (server.can_use_schema, server.sees_sessions) == (True, True)
    assert 0 < server.num_connections < server.connections_max
    assert await tx.run(doctor_get_clock()) > server.at
    assert await tx.run(doctor_get_backend()) not in {
        one.pid for one in await tx.run(doctor_list_transactions(age=timedelta(0), num_transactions=10**6))
    }
    assert (indexes["river_job_args_index"].table, indexes["river_job_args_index"].method) == (
        "river_job",
        "gin",
    )
    assert {(one.is_valid, one.is_in_work) for one in indexes.values()} == {(True, False)}


async def test_rights_are_of_tables_columns_and_sequences_that_exist(tx: Executor) -> None:
    """A table, a column or a sequence that does not exist has no row; the owner has every other right."""
    wanted = [
        ("river_job", "", "UPDATE"),
        ("river_job", "kind", "INSERT"),
        ("river_job_id_seq", "", "USAGE"),
        ("river_job", "no_such_column", "INSERT"),
        ("no_such_table", "", "SELECT"),
    ]

    assert await tx.run(doctor_list_rights(wanted)) == [
        RightState(*right, is_held=True) for right in wanted[:3]
    ]


async def test_discarded_jobs_are_counted_by_kind(tx: Executor) -> None:
    """Only discarded jobs since an instant count, the most frequent kind first."""
    for kind, ago in (("a", 1), ("b", 1), ("b", 2), ("b", 9)):
        at = NOW - timedelta(hours=ago)
        await insert_job(tx, JobState.DISCARDED, kind=kind, finalized_at=at)
    await insert_job(tx, JobState.CANCELLED, kind="c", finalized_at=NOW)

    found = await tx.run(doctor_list_discarded(since=NOW - timedelta(hours=5)))

    assert found == [DiscardedKind("b", 2), DiscardedKind("a", 1)]
