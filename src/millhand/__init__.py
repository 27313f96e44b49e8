"""
Millhand: a background worker for Python teams on PostgreSQL and S3, wire-compatible with River.

`__all__` is the public API. Each name is imported when it is first used, so `import millhand` is fast.
"""

from typing import TYPE_CHECKING

from millhand.lazy_exports import lazy_exports
from millhand.version import VERSION

if TYPE_CHECKING:
    from millhand.archive import Archive
    from millhand.args.codec import JobArgs, RawArgs
    from millhand.args.secret_fields import Secret
    from millhand.args.secret_keys import SecretKeys
    from millhand.blob import Blob
    from millhand.blob_store import BlobStore
    from millhand.client import Client
    from millhand.client_row import ClientRow, ClientState
    from millhand.clock import Clock, SystemClock
    from millhand.config import Config, QueueConfig, StuckJob
    from millhand.control import JobPage
    from millhand.dead_job import DeadJob, DeadJobFilters, DeadJobPage
    from millhand.errors import (
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
    from millhand.event import Event, EventKind, JobEvent, JobStatistics
    from millhand.flow import Flow, FlowRow, FlowState, FlowTask, FlowTasks, RetryMode, TaskRow, TaskState
    from millhand.hooks import AttemptFailure, ErrorHandler, FetchMetric, Hook, Middleware
    from millhand.insert_opts import InsertOpts, InsertParams, InsertResult
    from millhand.job import AttemptError, ClientId, Job, JobId, JobRow, JobState
    from millhand.limit import Limit, PartitionStatus, QueueLimit, Rate
    from millhand.observe.job_log import JobLog
    from millhand.periodic import PeriodicJob, Schedule, cron, every, never
    from millhand.queue import QueueRow
    from millhand.result import result_of
    from millhand.retry import ConstantRetryPolicy, DefaultRetryPolicy, RetryPolicy
    from millhand.runtime.job_flow import JobFlow
    from millhand.runtime.subscription import Subscription
    from millhand.schedule import JobSchedule, ScheduleRow
    from millhand.schema.migrator import Migrator
    from millhand.step import Cursor
    from millhand.store.job_list import JobFilters, SortField
    from millhand.store.where import Where
    from millhand.sync_client import SyncClient
    from millhand.tx_types import SyncTx, Tx
    from millhand.unique import Unique, UniqueOpts
    from millhand.worker import NO_TIMEOUT, Workers
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "millhand.args.codec": "JobArgs RawArgs",
            "millhand.args.secret_fields": "Secret",
            "millhand.args.secret_keys": "SecretKeys",
            "millhand.blob": "Blob",
            "millhand.archive": "Archive",
            "millhand.blob_store": "BlobStore",
            "millhand.client": "Client",
            "millhand.clock": "Clock SystemClock",
            "millhand.config": "Config QueueConfig StuckJob",
            "millhand.control": "JobPage",
            "millhand.dead_job": "DeadJob DeadJobFilters DeadJobPage",
            "millhand.errors": (
                "AttemptCancelled ConfigError ConnectionLost DriverError FlowCancelled InvalidBlob InvalidJob "
                "InvalidOutput InvalidSecret InvalidStep InvalidText InvalidWhere JobCancel JobCancelled JobEnded "
                "JobFailed JobNotDiscarded JobNotEnded JobNotRunning JobNotWaiting JobRunning JobSignal "
                "JobSnooze JobTimeout MigrationError MillhandError NotFound NotStarted OperationTimeout "
                "PoolClosed SchemaError TooManyWaits UniqueConflict UnknownKind WaitTimeout"
            ),
            "millhand.event": "Event EventKind JobEvent JobStatistics",
            "millhand.client_row": "ClientRow ClientState",
            "millhand.flow": "Flow FlowRow FlowState FlowTask FlowTasks RetryMode TaskRow TaskState",
            "millhand.hooks": "AttemptFailure ErrorHandler FetchMetric Hook Middleware",
            "millhand.insert_opts": "InsertOpts InsertParams InsertResult",
            "millhand.job": "AttemptError ClientId Job JobId JobRow JobState",
            "millhand.limit": "Limit PartitionStatus QueueLimit Rate",
            "millhand.schema.migrator": "Migrator",
            "millhand.observe.job_log": "JobLog",
            "millhand.periodic": "PeriodicJob Schedule cron every never",
            "millhand.schedule": "JobSchedule ScheduleRow",
            "millhand.queue": "QueueRow",
            "millhand.result": "result_of",
            "millhand.retry": "ConstantRetryPolicy DefaultRetryPolicy RetryPolicy",
            "millhand.runtime.job_flow": "JobFlow",
            "millhand.runtime.subscription": "Subscription",
            "millhand.step": "Cursor",
            "millhand.store.job_list": "JobFilters SortField",
            "millhand.store.where": "Where",
            "millhand.sync_client": "SyncClient",
            "millhand.tx_types": "SyncTx Tx",
            "millhand.unique": "Unique UniqueOpts",
            "millhand.worker": "NO_TIMEOUT Workers",
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
