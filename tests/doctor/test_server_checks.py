"""Verdicts about the server: each fault is found, and a sound server has none."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from doctor_worlds import named

from millhand.doctor.server_checks import (
    age_findings,
    autovacuum_findings,
    bloat_findings,
    connection_findings,
    notification_findings,
    server_findings,
    transaction_findings,
)
from millhand.doctor.store import IndexState, OpenTransaction, ServerState
from millhand.shells.doctor.finding import Finding, Unseen

SOUND = ServerState(
    database="shop",
    role="shop_worker",
    schema="jobs",
    version="18.1",
    at=datetime(2026, 11, 27, tzinfo=UTC),
    is_standby=False,
    encoding="UTF8",
    has_fsync=True,
    has_autovacuum=True,
    statement_timeout_seconds=0.0,
    num_connections=20,
    connections_max=97,
    can_use_schema=True,
    sees_sessions=True,
    notification_share=0.0,
    transaction_age=3_000,
)
MIB = 2**20


def server(**faults: Any) -> ServerState:
    return msgspec.structs.replace(SOUND, **faults)


def index(num_bytes: int, num_entries: int, method: str = "btree", **given: bool) -> IndexState:
    flags = {"is_valid": True, "is_in_work": False, **given}
    return IndexState(
        "river_job", "river_job_kind", method, **flags, num_bytes=num_bytes, num_entries=num_entries
    )


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ({}, []),
        ({"is_standby": True}, [("broken", "database shop")]),
        ({"has_fsync": False}, [("broken", "setting fsync")]),
        ({"encoding": "SQL_ASCII"}, [("harmful", "database shop")]),
        ({"statement_timeout_seconds": 9.9}, [("harmful", "setting statement_timeout")]),
        ({"statement_timeout_seconds": 10.0}, []),
        ({"num_connections": 77}, []),
        ({"num_connections": 78}, [("harmful", "connections")]),
        ({"notification_share": 0.49}, []),
        ({"notification_share": 0.5}, [("harmful", "notifications")]),
        ({"transaction_age": 1_199_999_999}, []),
        ({"transaction_age": 1_200_000_000}, [("harmful", "database shop")]),
        ({"transaction_age": 2_000_000_000}, [("broken", "database shop")]),
        ({"has_autovacuum": False}, [("broken", "setting autovacuum")]),
    ],
)
def test_faults_of_the_server_are_found(faults: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    """Each fault of the server is found by one check, with its level; a sound server has none."""
    state = server(**faults)

    found = [
        *server_findings(state),
        *connection_findings(state),
        *notification_findings(state),
        *age_findings(state),
        *autovacuum_findings(state, {}, num_dead=0, num_live=0),
        *transaction_findings(state, []),
    ]

    assert named(found) == expected


@pytest.mark.parametrize(
    ("options", "num_dead", "num_live", "levels"),
    [
        (None, 0, 0, []),
        ({"autovacuum_enabled": "true"}, 100_000, 0, []),
        ({"autovacuum_enabled": "false"}, 0, 0, ["broken"]),
        ({"autovacuum_enabled": "off"}, 100_001, 1, ["broken", "harmful"]),
        ({}, 100_001, 10_001, []),
    ],
)
def test_dead_rows_that_stay_are_found(
    options: dict[str, str] | None, num_dead: int, num_live: int, levels: list[str]
) -> None:
    """A table without autovacuum is broken, and many dead rows beside few live ones are harmful."""
    found = autovacuum_findings(SOUND, options, num_dead=num_dead, num_live=num_live)

    assert [level for level, _ in named(found)] == levels


def test_open_transactions_are_named_with_the_statement_that_ends_them() -> None:
    """A session, a prepared transaction and a slot each have their own statement, with names quoted."""
    found = transaction_findings(
        SOUND,
        [
            OpenTransaction("session", 4711, "report", "bi", "idle in transaction", 600.0),
            OpenTransaction("prepared", None, "shop", "it's", None, 900.0),
            OpenTransaction("slot", None, None, "old_standby", None, None),
        ],
    )

    assert [one.commands[0] for one in found] == [
        "SELECT pg_terminate_backend(4711);",
        "ROLLBACK PREPARED 'it''s';",
        "SELECT pg_drop_replication_slot('old_standby');",
    ]
    assert [one.found for one in found if isinstance(one, Finding)] == [
        "A transaction of report (bi, idle in transaction) is open for 10 min.",
        "A transaction that shop prepared waits for its commit for 15 min.",
        "Replication slot old_standby is unused, and keeps old rows.",
    ]


def test_hidden_sessions_are_not_taken_for_none() -> None:
    """A role that sees no sessions of others gets `cannot see`, and the statement that lets it see them."""
    [one] = transaction_findings(server(sees_sessions=False), [])

    assert one == Unseen(
        reason="Role shop_worker cannot see the transactions of other roles.",
        remedy="Ask as the owner, or let the role see them:",
        commands=('GRANT pg_read_all_stats TO "shop_worker";',),
    )


@pytest.mark.parametrize(
    ("state", "is_found"),
    [
        (index(64 * MIB, 0), False),
        (index(64 * MIB + 1, 0), True),
        (index(400 * MIB, MIB), False),
        (index(400 * MIB + 1, MIB), True),
        (index(400 * MIB, MIB, "gin"), False),
        (index(4_000 * MIB + 1, MIB, "gin"), True),
        (index(999 * MIB, 1, "brin"), False),
        (index(999 * MIB, 1, is_valid=False), False),
        (index(999 * MIB, 1, is_in_work=True), False),
    ],
)
def test_bloated_indexes_are_found(state: IndexState, *, is_found: bool) -> None:
    """An index is bloated above 64 MiB and so many bytes an entry, unless it is invalid or being rebuilt."""
    found = bloat_findings([state], "jobs")

    assert [one.commands for one in found] == (
        [('REINDEX INDEX CONCURRENTLY "jobs".river_job_kind;',)] if is_found else []
    )
