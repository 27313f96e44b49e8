"""Verdicts about the database server: what it is, what it is set to, and what holds it up."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import timedelta

from millhand.core.number_text import counted, duration, percent
from millhand.doctor.fleet_verdict import has_many_dead_rows
from millhand.doctor.sql_text import literal, qualified, quoted, schema_option
from millhand.doctor.store import IndexState, OpenTransaction, ServerState
from millhand.shells.doctor.finding import Finding, Found, Level, Unseen

LONG_TRANSACTION = timedelta(minutes=5)
# An unused slot that holds the rows of so many transactions. A slot has no age before PostgreSQL 17.
SLOT_TRANSACTIONS = 1_000_000
# Millhand's own limit of most statements is ten seconds.
STATEMENT_SECONDS_MIN = 10.0
CONNECTIONS_SHARE = 0.8
NOTIFICATIONS_SHARE = 0.5
# PostgreSQL refuses writes at some 2.14 thousand million.
AGE_HARMFUL, AGE_BROKEN = 1_200_000_000, 2_000_000_000
BLOATED_BYTES = 64 * 2**20
FIND_FORGOTTEN = (
    "SELECT pid, usename, xact_start FROM pg_stat_activity WHERE state LIKE 'idle in transaction%';"
)
# An entry of a B-tree has a state, a queue's name and an instant; one of GIN has every word of a job's args.
ENTRY_BYTES = {"btree": 400, "gin": 4_000}


def server_findings(server: ServerState) -> Found:
    """Judge what the server is and is set to."""
    found = []
    if server.is_standby:
        found.append(
            Finding(
                level=Level.BROKEN,
                subject=f"database {server.database}",
                found="The server is a standby, which accepts no writes.",
                effect="No job can be inserted, fetched or completed.",
                remedy="Name all servers in DATABASE_URL, and add ?target_session_attrs=read-write to it.",
            )
        )
    if not server.has_fsync:
        found.append(
            Finding(
                level=Level.BROKEN,
                subject="setting fsync",
                found="fsync is off.",
                effect="A crash of the server may lose jobs, or the whole database.",
                remedy="Turn it on, as an administrator:",
                commands=("ALTER SYSTEM SET fsync = on;", "SELECT pg_reload_conf();"),
            )
        )
    if server.encoding != "UTF8":
        found.append(
            Finding(
                level=Level.HARMFUL,
                subject=f"database {server.database}",
                found=f"The encoding of the database is {server.encoding}, not UTF8.",
                effect="A job with a character that the encoding lacks is refused, or blocks its queue.",
                remedy=f"Create another database, and move the tables of {server.database} with pg_dump:",
                commands=("createdb --encoding UTF8 --template template0 NAME",),
            )
        )
    if 0 < server.statement_timeout_seconds < STATEMENT_SECONDS_MIN:
        found.append(
            Finding(
                level=Level.HARMFUL,
                subject="setting statement_timeout",
                found=f"statement_timeout is {duration(server.statement_timeout_seconds)} for role {server.role}.",
                effect="PostgreSQL cancels statements of a busy worker, which may take ten seconds.",
                remedy="Give the role a longer one:",
                commands=(f"ALTER ROLE {quoted(server.role)} SET statement_timeout = '15s';",),
            )
        )
    return found


def connection_findings(server: ServerState) -> Found:
    """Judge how many connections are left."""
    if server.num_connections <= CONNECTIONS_SHARE * server.connections_max:
        return []
    return [
        Finding(
            level=Level.HARMFUL,
            subject="connections",
            found=f"{server.num_connections:,} of {counted(server.connections_max, 'connection')} are taken.",
            effect="When all are taken, workers and applications cannot connect.",
            remedy="Lower pool_size in [database] of millhand.toml, or put a pooler in front of the applications. Or raise "
            "the limit, and restart the server:",
            commands=(f"ALTER SYSTEM SET max_connections = {2 * server.connections_max};",),
        )
    ]


def notification_findings(server: ServerState) -> Found:
    """Judge how full the queue of notifications is. When it is full, a commit of an insert fails."""
    if server.notification_share < NOTIFICATIONS_SHARE:
        return []
    return [
        Finding(
            level=Level.HARMFUL,
            subject="notifications",
            found=f"The queue of notifications is {percent(server.notification_share)} full.",
            effect="When it is full, no transaction that inserts a job can commit.",
            remedy="A session that listens stays in a transaction. Find it, and end it with pg_terminate_backend:",
            commands=(FIND_FORGOTTEN,),
        )
    ]


def age_findings(server: ServerState) -> Found:
    """Judge how many transactions are left until PostgreSQL stops to accept writes."""
    if server.transaction_age < AGE_HARMFUL:
        return []
    is_near = server.transaction_age >= AGE_BROKEN
    return [
        Finding(
            level=Level.BROKEN if is_near else Level.HARMFUL,
            subject=f"database {server.database}",
            found=f"The oldest row is {server.transaction_age:,} transactions old.",
            effect="PostgreSQL stops to accept writes at 2,100,000,000.",
            remedy="End old transactions, and drop unused replication slots. Then freeze old rows:",
            commands=(f"vacuumdb --freeze {shlex.quote(server.database)}",),
        )
    ]


def autovacuum_findings(
    server: ServerState, options: Mapping[str, str] | None, *, num_dead: int, num_live: int
) -> Found:
    """Judge whether dead rows of the job table are removed. `options` are the table's own."""
    found = []
    effect = "Dead rows stay, and every fetch reads them."
    table = qualified(server.schema, "river_job")
    if not server.has_autovacuum:
        found.append(
            Finding(
                level=Level.BROKEN,
                subject="setting autovacuum",
                found="autovacuum or track_counts is off.",
                effect=effect,
                remedy="Turn both on, as an administrator:",
                commands=(
                    "ALTER SYSTEM SET autovacuum = on;",
                    "ALTER SYSTEM SET track_counts = on;",
                    "SELECT pg_reload_conf();",
                ),
            )
        )
    if (options or {}).get("autovacuum_enabled", "true") in ("false", "off", "no", "0"):
        found.append(
            Finding(
                level=Level.BROKEN,
                subject="table river_job",
                found="autovacuum is off for river_job.",
                effect=effect,
                remedy="Turn it on, as the owner:",
                commands=(f"ALTER TABLE {table} RESET (autovacuum_enabled);",),
            )
        )
    if has_many_dead_rows(num_dead=num_dead, num_live=num_live):
        found.append(
            Finding(
                level=Level.HARMFUL,
                subject="table river_job",
                found=f"river_job has {num_dead:,} dead rows beside {num_live:,} live ones.",
                effect="Fetches read dead rows, and become slow.",
                remedy="End what server.transactions finds. Then remove dead rows, and let PostgreSQL do it earlier:",
                commands=(f"VACUUM {table};", f"millhand migrate tune{schema_option(server.schema)}"),
            )
        )
    return found


def transaction_findings(server: ServerState, transactions: Sequence[OpenTransaction]) -> Found:
    """Judge which transactions keep dead rows. Without a right, PostgreSQL shows no sessions of other roles."""
    found: list[Finding | Unseen] = [_transaction_finding(server, one) for one in transactions]
    if not server.sees_sessions:
        found.append(
            Unseen(
                reason=f"Role {server.role} cannot see the transactions of other roles.",
                remedy="Ask as the owner, or let the role see them:",
                commands=(f"GRANT pg_read_all_stats TO {quoted(server.role)};",),
            )
        )
    return found


def _transaction_finding(server: ServerState, one: OpenTransaction) -> Finding:
    effect = "Rows of finished jobs that died since stay in the table, and fetches become slow."
    age = duration(one.seconds)
    if one.what == "slot":
        return Finding(
            level=Level.HARMFUL,
            subject=f"replication slot {one.name}",
            found=f"Replication slot {one.name} is unused, and keeps old rows.",
            effect=effect,
            remedy="Connect its standby, or drop the slot:",
            commands=(f"SELECT pg_drop_replication_slot({literal(one.name)});",),
        )
    if one.what == "prepared":
        return Finding(
            level=Level.HARMFUL,
            subject=f"prepared transaction {one.name}",
            found=f"A transaction that {one.role} prepared waits for its commit for {age}.",
            effect=effect,
            remedy="Commit it, or roll it back:",
            commands=(f"ROLLBACK PREPARED {literal(one.name)};",),
        )
    return Finding(
        level=Level.HARMFUL,
        subject=f"session {one.pid}",
        found=f"A transaction of {one.role} ({one.name or 'no application name'}, {one.state}) is open for {age}.",
        effect=effect,
        remedy="End its session, and let PostgreSQL end such sessions by itself:",
        commands=(
            f"SELECT pg_terminate_backend({one.pid});",
            f"ALTER DATABASE {quoted(server.database)} SET idle_in_transaction_session_timeout = '5min';",
        ),
    )


def bloat_findings(indexes: Sequence[IndexState], schema: str | None) -> Found:
    """Judge which indexes are much larger than their entries need. An index without counted entries is not judged."""
    return [
        Finding(
            level=Level.HARMFUL,
            subject=f"index {one.name}",
            found=f"Index {one.name} takes {one.num_bytes / 2**20:,.0f} MiB for "
            f"{counted(one.num_entries, 'entry', 'entries')}.",
            effect="Fetches and inserts read more pages than they need.",
            remedy="Rebuild it, as the owner:",
            commands=(f"REINDEX INDEX CONCURRENTLY {qualified(schema, one.name)};",),
        )
        for one in indexes
        if one.is_valid and not one.is_in_work and _is_bloated(one)
    ]


def _is_bloated(one: IndexState) -> bool:
    limit = ENTRY_BYTES.get(one.method)
    return limit is not None and one.num_bytes > max(BLOATED_BYTES, limit * one.num_entries)
