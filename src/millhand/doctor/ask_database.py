"""The checks of the schema, the server and the connection: each asks the database, and returns a verdict."""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime, timedelta

from millhand.core.errors import DriverError, OperationTimeout
from millhand.db.index import table_get_options
from millhand.db.schema.migrator import lines, migrations
from millhand.doctor import connection_checks, schema_checks, server_checks
from millhand.doctor.context import Context
from millhand.doctor.store import (
    doctor_get_backend,
    doctor_get_clock,
    doctor_list_rights,
    doctor_list_transactions,
)
from millhand.engine.store.client import client_ping
from millhand.shells.doctor.finding import Found

NUM_ROUND_TRIPS = 11
# A pooler has few processes for many sessions, and may give the same one again by chance.
NUM_OTHER_SESSIONS = 3
# A pooler lets a session wait when its connections are taken.
POOLER_SECONDS = 2.0


async def schema_version(context: Context) -> Found:
    applied, server = await context.applied.get(), await context.server.get()
    return [
        finding
        for line in lines()
        for finding in schema_checks.version_findings(
            line,
            applied=applied.get(line, ()),
            known=[migration.version for migration in migrations(line)],
            schema=server.schema,
        )
    ]


async def schema_tables(context: Context) -> Found:
    declared = schema_checks.declared_tables(await context.applied.get())
    return schema_checks.table_findings(
        declared, await context.tables.get(), (await context.server.get()).schema
    )


async def schema_indexes(context: Context) -> Found:
    applied, server, tables = (
        await context.applied.get(),
        await context.server.get(),
        await context.tables.get(),
    )
    declared = [one for one in schema_checks.declared_indexes(applied, context.schema) if one.table in tables]
    return schema_checks.index_findings(declared, await context.indexes.get(), server.schema)


async def roles_privileges(context: Context) -> Found:
    states = await context.executor.run(doctor_list_rights(schema_checks.all_rights()))
    purpose = "worker" if context.deployed is not None else None
    rights = schema_checks.held(states, purpose=purpose)
    return schema_checks.right_findings(rights, await context.server.get()) if states else []


async def server_settings(context: Context) -> Found:
    return server_checks.server_findings(await context.server.get())


async def server_connections(context: Context) -> Found:
    return server_checks.connection_findings(await context.server.get())


async def server_notifications(context: Context) -> Found:
    return server_checks.notification_findings(await context.server.get())


async def server_age(context: Context) -> Found:
    return server_checks.age_findings(await context.server.get())


async def server_autovacuum(context: Context) -> Found:
    figures = (await context.fleet.get()).figures
    options = await context.executor.run(table_get_options("river_job"))
    return server_checks.autovacuum_findings(
        await context.server.get(), options, num_dead=figures.num_dead, num_live=figures.num_live
    )


async def server_transactions(context: Context) -> Found:
    query = doctor_list_transactions(
        age=server_checks.LONG_TRANSACTION, num_transactions=server_checks.SLOT_TRANSACTIONS
    )
    found = await context.executor.run(query)
    return server_checks.transaction_findings(await context.server.get(), found)


async def server_bloat(context: Context) -> Found:
    return server_checks.bloat_findings(await context.indexes.get(), (await context.server.get()).schema)


async def connection_pooler(context: Context) -> Found:
    """While other sessions are in transactions, ask whether the same process of the server still answers this one."""
    query = doctor_get_backend().within(POOLER_SECONDS)
    own, others, is_refused = {await context.executor.run(query)}, set[int](), False
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(NUM_OTHER_SESSIONS):
            try:
                other = await stack.enter_async_context(context.other_session())
            except (DriverError, OperationTimeout):
                break  # no connection is left; what was seen until here counts
            try:
                transaction = await stack.enter_async_context(other.begin())
                others.add(await transaction.run(query))
                if own.isdisjoint(others):  # else the pooler may have no other connection for this session
                    own.add(await context.executor.run(query))
            except OperationTimeout:
                break
            except DriverError:
                is_refused = True
            if is_refused or len(own) > 1 or not own.isdisjoint(others):
                break
    return connection_checks.pooler_findings(
        own, others, is_poll_only=context.is_poll_only, is_refused=is_refused
    )


async def connection_latency(context: Context) -> Found:
    round_trips = []
    for _ in range(NUM_ROUND_TRIPS):
        started_at = time.perf_counter()
        await context.executor.run(client_ping())
        round_trips.append(timedelta(seconds=time.perf_counter() - started_at))
    return connection_checks.latency_findings(round_trips)


async def connection_clock(context: Context) -> Found:
    before = datetime.now(UTC)
    there = await context.executor.run(doctor_get_clock())
    after = datetime.now(UTC)
    ahead = before - there if before > there else min(after - there, timedelta(0))
    return connection_checks.clock_findings(ahead)
