"""
Millhand: a background worker for Python teams on PostgreSQL and S3, wire-compatible with River.

`__all__` is the public API. Each name is imported when it is first used, so `import millhand` is fast.
"""

from typing import TYPE_CHECKING

from millhand.core.lazy_exports import lazy_exports
from millhand.version import VERSION

if TYPE_CHECKING:
    from millhand.blob_store import BlobStore
    from millhand.client import Client
    from millhand.core.archive import Archive
    from millhand.core.args.codec import JobArgs, RawArgs
    from millhand.core.args.secret_fields import Secret
    from millhand.core.args.secret_keys import SecretKeys
    from millhand.core.blob import Blob
    from millhand.core.client_row import ClientRow, ClientState
    from millhand.core.clock import Clock, SystemClock
    from millhand.core.config import Config, QueueConfig, StuckJob
    from millhand.core.errors import (
        AttemptCancelled,
        ConfigError,
        ConnectionLost,
        DriverError,
        FlowCancelled,
        InvalidBlob,
        InvalidJob,
        InvalidOutput,
        InvalidSecret,
        InvalidStep,
        InvalidText,
        InvalidWhere,
        JobCancel,
        JobCancelled,
        JobEnded,
        JobFailed,
        JobNotDiscarded,
        JobNotEnded,
        JobNotRunning,
        JobNotWaiting,
        JobRunning,
        JobSignal,
        JobSnooze,
        JobTimeout,
        MigrationError,
        MillhandError,
        NotFound,
        NotStarted,
        OperationTimeout,
        PoolClosed,
        SchemaError,
        TooManyWaits,
        UniqueConflict,
        UnknownKind,
        WaitTimeout,
    )
    from millhand.core.event import Event, EventKind, JobEvent, JobStatistics
    from millhand.core.hooks import AttemptFailure, ErrorHandler, FetchMetric, Hook, Middleware
    from millhand.core.insert_opts import InsertOpts, InsertParams, InsertResult
    from millhand.core.job import AttemptError, ClientId, JobId, JobRow, JobState
    from millhand.core.job_flow import JobFlow
    from millhand.core.limit import Limit, PartitionStatus, QueueLimit, Rate
    from millhand.core.periodic import PeriodicJob, Schedule, cron, every, never
    from millhand.core.queue import QueueRow
    from millhand.core.result import result_of
    from millhand.core.retry import ConstantRetryPolicy, DefaultRetryPolicy, RetryPolicy
    from millhand.core.schedule import JobSchedule, ScheduleRow
    from millhand.core.step import Cursor
    from millhand.core.tx_types import SyncTx, Tx
    from millhand.core.unique import Unique, UniqueOpts
    from millhand.core.worker import NO_TIMEOUT, Workers
    from millhand.core.worker_job import Job
    from millhand.db.schema.migrator import Migrator
    from millhand.dead_jobs.dead_job import DeadJob, DeadJobFilters, DeadJobPage
    from millhand.engine.control import JobPage
    from millhand.engine.store.job_list import JobFilters, SortField
    from millhand.engine.store.where import Where
    from millhand.engine.subscription import Subscription
    from millhand.flows.flow import (
        Flow,
        FlowRow,
        FlowState,
        FlowTask,
        FlowTasks,
        RetryMode,
        TaskRow,
        TaskState,
    )
    from millhand.observe.job_log import JobLog
    from millhand.sync_client import SyncClient
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "millhand.core.args.codec": "JobArgs RawArgs",
            "millhand.core.args.secret_fields": "Secret",
            "millhand.core.args.secret_keys": "SecretKeys",
            "millhand.core.blob": "Blob",
            "millhand.core.archive": "Archive",
            "millhand.blob_store": "BlobStore",
            "millhand.client": "Client",
            "millhand.core.clock": "Clock SystemClock",
            "millhand.core.config": "Config QueueConfig StuckJob",
            "millhand.engine.control": "JobPage",
            "millhand.dead_jobs.dead_job": "DeadJob DeadJobFilters DeadJobPage",
            "millhand.core.errors": (
                "AttemptCancelled ConfigError ConnectionLost DriverError FlowCancelled InvalidBlob InvalidJob "
                "InvalidOutput InvalidSecret InvalidStep InvalidText InvalidWhere JobCancel JobCancelled JobEnded "
                "JobFailed JobNotDiscarded JobNotEnded JobNotRunning JobNotWaiting JobRunning JobSignal "
                "JobSnooze JobTimeout MigrationError MillhandError NotFound NotStarted OperationTimeout "
                "PoolClosed SchemaError TooManyWaits UniqueConflict UnknownKind WaitTimeout"
            ),
            "millhand.core.event": "Event EventKind JobEvent JobStatistics",
            "millhand.core.client_row": "ClientRow ClientState",
            "millhand.flows.flow": "Flow FlowRow FlowState FlowTask FlowTasks RetryMode TaskRow TaskState",
            "millhand.core.hooks": "AttemptFailure ErrorHandler FetchMetric Hook Middleware",
            "millhand.core.insert_opts": "InsertOpts InsertParams InsertResult",
            "millhand.core.job": "AttemptError ClientId JobId JobRow JobState",
            "millhand.core.worker_job": "Job",
            "millhand.core.limit": "Limit PartitionStatus QueueLimit Rate",
            "millhand.db.schema.migrator": "Migrator",
            "millhand.observe.job_log": "JobLog",
            "millhand.core.periodic": "PeriodicJob Schedule cron every never",
            "millhand.core.schedule": "JobSchedule ScheduleRow",
            "millhand.core.queue": "QueueRow",
            "millhand.core.result": "result_of",
            "millhand.core.retry": "ConstantRetryPolicy DefaultRetryPolicy RetryPolicy",
            "millhand.core.job_flow": "JobFlow",
            "millhand.engine.subscription": "Subscription",
            "millhand.core.step": "Cursor",
            "millhand.engine.store.job_list": "JobFilters SortField",
            "millhand.engine.store.where": "Where",
            "millhand.sync_client": "SyncClient",
            "millhand.core.tx_types": "SyncTx Tx",
            "millhand.core.unique": "Unique UniqueOpts",
            "millhand.core.worker": "NO_TIMEOUT Workers",
        },
    )


__version__ = VERSION

# fmt: off
__all__ = [
    "NO_TIMEOUT", "Archive", "AttemptCancelled", "AttemptError", "AttemptFailure", "Blob", "BlobStore", "Client", "ClientId",
    "ClientRow", "ClientState", "Clock", "Config", "ConfigError", "ConnectionLost", "ConstantRetryPolicy", "Cursor",
    "DeadJob", "DeadJobFilters", "DeadJobPage", "DefaultRetryPolicy", "DriverError", "ErrorHandler", "Event",
    "EventKind", "FetchMetric", "Flow", "FlowCancelled", "FlowRow", "FlowState", "FlowTask", "FlowTasks",
    "Hook", "InsertOpts", "InsertParams", "InsertResult", "InvalidBlob", "InvalidJob", "InvalidOutput", "InvalidSecret",
    "InvalidStep", "InvalidText", "InvalidWhere", "Job", "JobArgs", "JobCancel", "JobCancelled", "JobEnded", "JobEvent",
    "JobFailed", "JobFilters", "JobFlow", "JobId", "JobLog", "JobNotDiscarded", "JobNotEnded", "JobNotRunning",
    "JobNotWaiting", "JobPage", "JobRow", "JobRunning", "JobSchedule", "JobSignal", "JobSnooze", "JobState",
    "JobStatistics", "JobTimeout", "Limit", "Middleware", "MigrationError", "Migrator", "MillhandError",
    "NotFound", "NotStarted", "OperationTimeout", "PartitionStatus", "PeriodicJob", "PoolClosed", "QueueConfig",
    "QueueLimit", "QueueRow", "Rate", "RawArgs", "RetryMode", "RetryPolicy", "Schedule", "ScheduleRow",
    "SchemaError", "Secret", "SecretKeys", "SortField", "StuckJob", "Subscription", "SyncClient", "SyncTx",
    "SystemClock", "TaskRow", "TaskState", "TooManyWaits", "Tx", "Unique", "UniqueConflict", "UniqueOpts",
    "UnknownKind", "WaitTimeout", "Where", "Workers", "__version__", "cron", "every", "never", "result_of",
]
# fmt: on
