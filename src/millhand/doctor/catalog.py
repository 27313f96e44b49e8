"""All checks: their names, what each asks, and what it finds; and how they run, one after the other."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import msgspec

from millhand.core.errors import DriverError, MillhandError
from millhand.core.sqlstate import INSUFFICIENT_PRIVILEGE
from millhand.doctor import ask_bucket, ask_database, ask_fleet
from millhand.doctor.context import Context
from millhand.doctor.store import ServerState
from millhand.shells.doctor.finding import CheckResult, Found, Report, Unseen, result_of
from millhand.storage import StoreError

# A table, column or type that does not exist.
UNDEFINED = ("42P01", "42703", "42704", "3F000")


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """
    One check. A name is an area and a subject, `queues.unworked`.

    `asks` is what it looks at, and `finds` what it finds, by level, for the reference page. `ask` is called only if its
    area applies: `bucket` with a store in the settings, `deploy` with a configuration.
    """

    name: str
    asks: str
    finds: str
    ask: Callable[[Context], Awaitable[Found]]

    @property
    def area(self) -> str:
        """The first part of the name."""
        return self.name.partition(".")[0]

    def applies(self, context: Context) -> bool:
        """Return whether there is something to check."""
        if self.area == "bucket":
            return context.store is not None
        return self.area != "deploy" or context.deployed is not None


async def run_checks(context: Context, checks: Sequence[Check]) -> Report:
    """Run the checks that apply, and return what they found. Raises: MillhandError without an answer of the database."""
    started_at = time.perf_counter()
    server = await context.server.get()
    results = [await _run(check, context) for check in checks if check.applies(context)]
    return Report(
        database=server.database,
        role=server.role,
        server=server.version,
        took=timedelta(seconds=time.perf_counter() - started_at),
        results=tuple(results),
    )


async def _run(check: Check, context: Context) -> CheckResult:
    try:
        return result_of(check.name, await check.ask(context))
    except MillhandError as error:
        return result_of(check.name, [_unseen(error, await context.server.get())])
    except Exception as error:  # noqa: BLE001 - a fault of one check must not take the findings of the others
        fault = Unseen(
            reason=f"The check failed: {type(error).__name__}: {error}.",
            remedy="Run the other checks with --only, and report this one as a fault of Millhand.",
        )
        return result_of(check.name, [fault])


def _unseen(error: MillhandError, server: ServerState) -> Unseen:
    """Return why a check could not ask."""
    if server.is_standby:  # the tables of leaders are not logged, so a standby has none of their rows
        return Unseen(reason="A standby cannot answer it.", remedy="See server.settings.")
    if isinstance(error, DriverError) and error.sqlstate == INSUFFICIENT_PRIVILEGE:
        return Unseen(
            reason=f"The role may not look: {error.reason}.",
            remedy="Ask as the owner of the tables, or grant the role to read them:",
            commands=("millhand migrate sql --grants",),
        )
    if isinstance(error, DriverError) and error.sqlstate in UNDEFINED:
        return Unseen(
            reason="The schema is not complete.",
            remedy="See what is missing:",
            commands=("millhand doctor --only schema",),
        )
    reason = error.reason if isinstance(error, DriverError | StoreError) else str(error)
    fault, _, remedy = reason.partition("; ")
    remedy = f"{remedy[0].upper()}{remedy[1:]}." if remedy else "Run it again."
    return Unseen(reason=f"There was no answer: {fault}.", remedy=remedy)


CHECKS = (
    Check(
        name="schema.version",
        asks="the applied migrations of both lines",
        finds="broken: a version of line `main` is missing; harmful: one of line `millhand`; "
        "notable: a newer release applied one",
        ask=ask_database.schema_version,
    ),
    Check(
        name="schema.tables",
        asks="the tables that the applied migrations create",
        finds="broken: one is missing",
        ask=ask_database.schema_tables,
    ),
    Check(
        name="schema.indexes",
        asks="the indexes that the applied migrations create, but for missing tables",
        finds="broken: a unique index, or the index of fetches, is missing or invalid; harmful: another one, or "
        "what a rebuild left; notable: an index of searches, also if you dropped it with `millhand migrate tune`",
        ask=ask_database.schema_indexes,
    ),
    Check(
        name="roles.privileges",
        asks="the rights of the role, as `millhand migrate sql --grants` grants them",
        finds="broken: a worker, inserter or feeder lacks one, or the role has none; notable: a reader lacks one",
        ask=ask_database.roles_privileges,
    ),
    Check(
        name="server.settings",
        asks="recovery, `fsync`, the encoding, `statement_timeout`",
        finds="broken: a standby, or `fsync` off; harmful: not UTF8, or a `statement_timeout` below 10 s",
        ask=ask_database.server_settings,
    ),
    Check(
        name="server.connections",
        asks="connections to the server, and their limit",
        finds="harmful: more than 80 % are taken",
        ask=ask_database.server_connections,
    ),
    Check(
        name="server.notifications",
        asks="how full the queue of `NOTIFY` is",
        finds="harmful: half full",
        ask=ask_database.server_notifications,
    ),
    Check(
        name="server.transaction_age",
        asks="the age of the oldest row in transactions",
        finds="broken: 2,000,000,000; harmful: 1,200,000,000",
        ask=ask_database.server_age,
    ),
    Check(
        name="server.autovacuum",
        asks="`autovacuum`, the parameters of `river_job`, and its dead rows",
        finds="broken: autovacuum is off; harmful: more than 100,000 dead rows, and ten times as many as live ones",
        ask=ask_database.server_autovacuum,
    ),
    Check(
        name="server.transactions",
        asks="open and prepared transactions, and unused replication slots",
        finds="harmful: one keeps old rows for 5 minutes, or a slot those of 1,000,000 transactions",
        ask=ask_database.server_transactions,
    ),
    Check(
        name="server.bloat",
        asks="the sizes of indexes, and their entries",
        finds="harmful: more than 64 MiB, and 400 bytes for an entry, or 4,000 in an index of words",
        ask=ask_database.server_bloat,
    ),
    Check(
        name="connection.pooler",
        asks="whether another process of the server answers while other sessions hold transactions",
        finds="broken: a pooler in transaction mode without `poll_only`, or one in statement mode",
        ask=ask_database.connection_pooler,
    ),
    Check(
        name="connection.latency",
        asks="the median of 11 round trips",
        finds="harmful: more than 20 ms",
        ask=ask_database.connection_latency,
    ),
    Check(
        name="connection.clock",
        asks="the clocks of this machine and of the database",
        finds="notable: more than 5 s apart",
        ask=ask_database.connection_clock,
    ),
    Check(
        name="fleet.leader",
        asks="both leader roles, and the clients",
        finds="broken: clients work, and a role has been vacant for 30 s",
        ask=ask_fleet.fleet_leader,
    ),
    Check(
        name="fleet.unresponsive",
        asks="the heartbeats of clients, and their running jobs",
        finds="harmful: one became unresponsive within 15 minutes, and jobs are marked as running there; "
        "notable: one without running jobs",
        ask=ask_fleet.fleet_unresponsive,
    ),
    Check(
        name="fleet.versions",
        asks="the versions of the clients that work",
        finds="notable: there are several",
        ask=ask_fleet.fleet_versions,
    ),
    Check(
        name="fleet.periodic",
        asks="the runs of periodic jobs that were inserted at regular times",
        finds="harmful: two intervals have passed since the last one",
        ask=ask_fleet.fleet_periodic,
    ),
    Check(
        name="fleet.history",
        asks="the end of the history",
        finds="notable: 10 minutes ago while there are jobs",
        ask=ask_fleet.fleet_history,
    ),
    Check(
        name="queues.unworked",
        asks="due jobs by queue, and the queues that clients work",
        finds="broken: jobs are due, and no client works their queue",
        ask=ask_fleet.queues_unworked,
    ),
    Check(
        name="queues.paused",
        asks="pauses of queues with due jobs",
        finds="harmful: for an hour; notable: shorter",
        ask=ask_fleet.queues_paused,
    ),
    Check(
        name="queues.halted",
        asks="halted partitions of limits",
        finds="broken: jobs wait in one that was halted a day ago; harmful: jobs wait; notable: none does",
        ask=ask_fleet.queues_halted,
    ),
    Check(
        name="queues.held",
        asks="held partitions of limits in which jobs wait",
        finds="harmful: a job has waited there for an hour; notable: one is held for another hour",
        ask=ask_fleet.queues_held,
    ),
    Check(
        name="queues.behind",
        asks="how long the oldest due job has waited, compared with the same hours of a week, and with ten minutes ago",
        finds="harmful: ten times as long as usual, or the queue grows by more than its clients work in a minute",
        ask=ask_fleet.queues_behind,
    ),
    Check(
        name="kinds.unknown",
        asks="the kinds of the first due jobs of each queue, and those that its clients know",
        finds="broken: jobs of a kind are due, and no client of the queue knows it",
        ask=ask_fleet.kinds_unknown,
    ),
    Check(
        name="kinds.failing",
        asks="failed attempts of ten minutes by kind, compared with the same hours of a week",
        finds="harmful: half of them fail, and three times as many as usual; notable: fewer",
        ask=ask_fleet.kinds_failing,
    ),
    Check(
        name="jobs.overdue",
        asks="scheduled and retryable jobs that are due",
        finds="broken: one was due a minute ago",
        ask=ask_fleet.jobs_overdue,
    ),
    Check(
        name="jobs.slow",
        asks="running jobs, compared with their kind",
        finds="notable: one runs for 20 times as long as 95 of 100 do, and for a minute",
        ask=ask_fleet.jobs_slow,
    ),
    Check(
        name="jobs.stranded",
        asks="running jobs, and the clients that run them",
        finds="harmful: the client has been gone for 5 minutes, or is unknown and the attempt is two hours old",
        ask=ask_fleet.jobs_stranded,
    ),
    Check(
        name="jobs.discarded",
        asks="jobs that were discarded within a day, by kind",
        finds="notable: there are some",
        ask=ask_fleet.jobs_discarded,
    ),
    Check(
        name="jobs.cleanup",
        asks="the age of the oldest completed job that is no task of a flow",
        finds="harmful: an hour older than the `completed_job_retention` of a leader in Python",
        ask=ask_fleet.jobs_cleanup,
    ),
    Check(
        name="flows.stuck",
        asks="the oldest running flows, with up to 1,000,000 tasks together",
        finds="broken: for 10 minutes no job of a flow has ended, and none is available, scheduled, retryable or "
        "running, or waits for a slot; harmful: the same, and one waits in a halted partition",
        ask=ask_fleet.flows_stuck,
    ),
    Check(
        name="bucket.access",
        asks="whether the credentials list the store, and put, get and delete an object below `.millhand/doctor/`",
        finds="broken: they cannot list or get; harmful: they cannot put or delete; notable: the same in mode `report`",
        ask=ask_bucket.bucket_access,
    ),
    Check(
        name="bucket.versioning",
        asks="the versioning of the bucket",
        finds="harmful: versions that the credentials cannot see; notable: suspended",
        ask=ask_bucket.bucket_versioning,
    ),
    Check(
        name="bucket.lifecycle",
        asks="the lifecycle rules of the bucket",
        finds="broken: one deletes objects before `quarantine_for`; notable: the same in mode `report`",
        ask=ask_bucket.bucket_lifecycle,
    ),
    Check(
        name="bucket.binding",
        asks="the marker in the bucket, and its row",
        finds="harmful: the bucket is bound to another database, or the database is older than the bucket",
        ask=ask_bucket.bucket_binding,
    ),
    Check(
        name="bucket.cleanup",
        asks="the last run of the orphan cleanup that has ended",
        finds="harmful: it failed, or a guard aborted it",
        ask=ask_bucket.bucket_cleanup,
    ),
    Check(
        name="bucket.clock",
        asks="the clocks of the store and of the database",
        finds="harmful: more than `max_clock_skew` apart; notable: more than 5 s",
        ask=ask_bucket.bucket_clock,
    ),
    Check(
        name="deploy.kinds",
        asks="the args of all queued jobs, decoded as the configuration of `--deploy` does it",
        finds="broken: a queued job has no worker, or its args do not fit",
        ask=ask_fleet.deploy_kinds,
    ),
    Check(
        name="deploy.periodic",
        asks="the last runs of the periodic jobs of the configuration of `--deploy`",
        finds="harmful: one was due twice since its last run, and since a client leads",
        ask=ask_fleet.deploy_periodic,
    ),
)
