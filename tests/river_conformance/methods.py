"""The methods of the adapter, with their capabilities and params, and the handshake that names them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from millhand.db.schema.migrator import LINE_MAIN, migrations
from millhand.version import VERSION
from river_conformance import controls, jobs, lifecycle, queues, raw, schema, transactions
from river_conformance import params as p
from river_conformance.normalized import Normalized
from river_conformance.session import PREFIX, Session

ADAPTER_VERSION = 18
PROTOCOL_REVISION = 1
FULL_PROFILE = "postgres-full-v1"


class Method(NamedTuple):
    """A method: its params, and the function that answers."""

    params: type[p.Params]
    call: Callable[[Session, Any], Awaitable[Normalized]]


async def handshake(session: Session, params: p.Params) -> Normalized:
    """Describe the adapter. Methods are those that it has; a capability needs all of its methods."""
    profile = session.settings.profile or FULL_PROFILE
    methods = sorted(methods_of(profile))
    given_name = session.settings.given_name
    return {
        "adapter_version": ADAPTER_VERSION,
        "backend": "postgres",
        "capabilities": list(PROFILES[profile].capabilities),
        "implementation": "python",
        "implementation_version": VERSION,
        "methods": methods,
        "migration_lines": {LINE_MAIN: migrations()[-1].version},
        "profile": profile,
        "protocol_revision": PROTOCOL_REVISION,
        **({} if given_name is None else {"application_name": given_name}),
    }


METHODS: Mapping[str, Method] = {
    "barrier_create": Method(p.BarrierParams, lifecycle.barrier_create),
    "barrier_release": Method(p.BarrierParams, lifecycle.barrier_release),
    "benchmark_enqueue": Method(p.BenchmarkParams, jobs.benchmark_enqueue),
    "cancel": Method(p.JobParams, jobs.cancel),
    "clock_set": Method(p.ClockParams, controls.clock_set),
    "connection_count": Method(p.Params, raw.connection_count),
    "cron_next": Method(p.CronParams, controls.cron_next),
    "delete": Method(p.JobParams, jobs.delete),
    "delete_many": Method(p.DeleteManyParams, jobs.delete_many),
    "fault_disconnect_application": Method(p.ApplicationParams, raw.fault_disconnect_application),
    "fault_disconnect_listeners": Method(p.Params, lifecycle.fault_disconnect_listeners),
    "fault_expire_leader": Method(p.Params, raw.fault_expire_leader),
    "get": Method(p.GetParams, jobs.get),
    "handshake": Method(p.Params, handshake),
    "insert": Method(p.InsertParams, jobs.insert),
    "insert_many": Method(p.InsertManyParams, jobs.insert_many),
    "leader": Method(p.Params, schema.leader),
    "list": Method(p.ListParams, jobs.list_jobs),
    "listener_count": Method(p.Params, lifecycle.listener_count),
    "migrate": Method(p.MigrateParams, schema.migrate),
    "queue_add": Method(p.QueueAddParams, lifecycle.queue_add),
    "queue_get": Method(p.QueueParams, queues.queue_get),
    "queue_list": Method(p.QueueListParams, queues.queue_list),
    "queue_pause": Method(p.QueueParams, queues.queue_pause),
    "queue_remove": Method(p.QueueParams, lifecycle.queue_remove),
    "queue_resume": Method(p.QueueParams, queues.queue_resume),
    "queue_update": Method(p.QueueUpdateParams, queues.queue_update),
    "raw_finalize": Method(p.FinalizeParams, raw.raw_finalize),
    "raw_insert_exact_json": Method(p.ExactJsonParams, raw.raw_insert_exact_json),
    "raw_insert_full_row": Method(p.Params, raw.raw_insert_full_row),
    "raw_insert_no_notify": Method(p.NoNotifyParams, raw.raw_insert_no_notify),
    "raw_job_exact_json": Method(p.JobParams, raw.raw_job_exact_json),
    "raw_job_row": Method(p.JobParams, raw.raw_job_row),
    "raw_job_timestamps": Method(p.JobParams, raw.raw_job_timestamps),
    "request_resign": Method(p.ResignParams, schema.request_resign),
    "reset": Method(p.SchemaParams, schema.reset),
    "retry": Method(p.JobParams, jobs.retry),
    "retry_delay": Method(p.RetryDelayParams, controls.delay_of_retry),
    "rng_seed": Method(p.SeedParams, controls.rng_seed),
    "runtime_stats": Method(p.Params, lifecycle.runtime_stats),
    "start": Method(p.StartParams, lifecycle.start),
    "stop": Method(p.StopParams, lifecycle.stop),
    "tx_begin": Method(p.HandleParams, transactions.tx_begin),
    "tx_cancel": Method(p.TxJobParams, jobs.cancel),
    "tx_commit": Method(p.HandleParams, transactions.tx_commit),
    "tx_delete": Method(p.TxJobParams, jobs.delete),
    "tx_delete_many": Method(p.TxDeleteManyParams, jobs.delete_many),
    "tx_fail": Method(p.HandleParams, transactions.tx_fail),
    "tx_get": Method(p.TxJobParams, jobs.get),
    "tx_insert": Method(p.TxInsertParams, jobs.tx_insert),
    "tx_insert_many": Method(p.TxInsertManyParams, jobs.insert_many),
    "tx_list": Method(p.TxListParams, jobs.list_jobs),
    "tx_queue_get": Method(p.TxQueueParams, queues.queue_get),
    "tx_queue_list": Method(p.TxQueueListParams, queues.queue_list),
    "tx_queue_pause": Method(p.TxQueueParams, queues.queue_pause),
    "tx_queue_resume": Method(p.TxQueueParams, queues.queue_resume),
    "tx_queue_update": Method(p.TxQueueUpdateParams, queues.queue_update),
    "tx_retry": Method(p.TxJobParams, jobs.retry),
    "tx_rollback": Method(p.HandleParams, transactions.tx_rollback),
    "tx_update": Method(p.TxUpdateParams, jobs.update),
    "unique_key": Method(p.UniqueKeyParams, controls.key_of),
    "update": Method(p.UpdateParams, jobs.update),
    "wait": Method(p.WaitParams, lifecycle.wait),
    "work": Method(p.WorkParams, lifecycle.work),
}

# The capabilities of the profile postgres-full-v1.
CAPABILITIES = (
    "barriers",
    "cancel",
    "custom_schema",
    "deterministic_controls",
    "extensions",
    "fault_injection",
    "get",
    "insert",
    "job_crud",
    "leadership",
    "lifecycle",
    "maintenance",
    "migrate",
    "notifications",
    "periodic_jobs",
    "poll_only",
    "queues",
    "reset",
    "resumable_jobs",
    "retry",
    "scheduler",
    "subscriptions",
    "transactions",
    "unique_jobs",
    "work",
)


class Profile(NamedTuple):
    """A part of the contract that a harness may ask for by name."""

    capabilities: tuple[str, ...]
    methods: frozenset[str]


PROFILES: Mapping[str, Profile] = {
    "insert-only-v1": Profile(
        capabilities=("insert", "lifecycle", "transactions", "unique_jobs"),
        methods=frozenset(
            {
                "handshake",
                "insert",
                "insert_many",
                "tx_begin",
                "tx_commit",
                "tx_insert",
                "tx_insert_many",
                "tx_rollback",
                "unique_key",
            }
        ),
    ),
    FULL_PROFILE: Profile(capabilities=CAPABILITIES, methods=frozenset(METHODS)),
}


def methods_of(profile: str) -> Mapping[str, Method]:
    """Return the methods of a profile; all, if none is named. Raises: ValueError for an unknown one."""
    if not profile:
        return METHODS
    if profile not in PROFILES:
        names = " or ".join(PROFILES)
        raise ValueError(f"{PREFIX}PROFILE must be {names}, or empty for all methods, got {profile!r}")
    return {name: METHODS[name] for name in PROFILES[profile].methods}
