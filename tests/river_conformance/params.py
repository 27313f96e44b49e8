"""
The params of each method, as the contract describes them.

An unknown param, a missing one, null, and a value out of range raise `msgspec.ValidationError`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from millhand.core.job import JobState

Id = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Instant = Annotated[datetime, Meta(tz=True)]
Positive = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[int, Meta(ge=0)]
Retention = Annotated[int, Meta(ge=-1)]
Text = Annotated[str, Meta(min_length=1)]
Seed = Annotated[int, Meta(ge=0)]
SEED_MAX = 2**64 - 1  # msgspec's own limits have 63 bits

Behavior = Literal[
    "",
    "barrier_output",
    "barrier_wait",
    "cancel",
    "cancel_error",
    "cancel_panic",
    "cooperative_cancel",
    "discard",
    "error",
    "ignored_cancel",
    "output",
    "panic",
    "resumable",
    "resumable_cursor",
    "resumable_duplicate",
    "sleep",
    "snooze_once",
    "snooze_then_cancel",
    "transactional_complete",
]


class Params(Struct, kw_only=True, forbid_unknown_fields=True):
    """Params of a method without any."""


class HandleParams(Params, kw_only=True):
    """The handle of a transaction."""

    handle: Text


class UniqueParams(Params, kw_only=True):
    by_args: bool = False
    by_period_ms: NotNegative = 0
    by_queue: bool = False
    by_state: list[JobState] = []
    exclude_kind: bool = False


class OptsParams(Params, kw_only=True):
    max_attempts: Positive | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    pending: bool = False
    priority: int = 0
    queue: str = ""
    scheduled_at: Instant | UnsetType = UNSET
    tags: list[str] | UnsetType = UNSET
    unique: UniqueParams | UnsetType = UNSET


class JobToInsert(Params, kw_only=True):
    behavior: Behavior = ""
    duration_ms: NotNegative = 0
    message: str = ""
    opts: OptsParams = field(default_factory=OptsParams)


class InsertParams(JobToInsert, kw_only=True):
    schema: str = ""


class TxInsertParams(HandleParams, kw_only=True):
    job: JobToInsert


class InsertManyParams(Params, kw_only=True):
    jobs: list[JobToInsert]


class TxInsertManyParams(InsertManyParams, kw_only=True):
    handle: Text


class BenchmarkParams(Params, kw_only=True):
    jobs: Positive


class JobParams(Params, kw_only=True):
    id: Id


class TxJobParams(JobParams, kw_only=True):
    handle: Text


class GetParams(JobParams, kw_only=True):
    schema: str = ""


class UpdateParams(JobParams, kw_only=True):
    """`output` is any JSON value; unset changes nothing."""

    output: Any = UNSET


class TxUpdateParams(UpdateParams, kw_only=True):
    handle: Text


class DeleteManyParams(Params, kw_only=True):
    all: bool = False
    ids: list[Id] = []
    kinds: list[str] = []
    limit: Positive | UnsetType = UNSET
    queues: list[str] = []
    states: list[JobState] = []


class TxDeleteManyParams(DeleteManyParams, kw_only=True):
    handle: Text


class ListParams(Params, kw_only=True):
    after: Text | UnsetType = UNSET
    direction: Literal["asc", "desc"] = "asc"
    ids: list[Id] = []
    kinds: list[str] = []
    limit: Positive | UnsetType = UNSET
    metadata: dict[str, Any] = {}
    order_by: Literal["finalized_at", "id", "scheduled_at", "time"] = "id"
    priorities: list[int] = []
    queues: list[str] = []
    states: list[JobState] = []
    tags_all: list[str] = []
    tags_any: list[str] = []


class TxListParams(ListParams, kw_only=True):
    handle: Text


class QueueParams(Params, kw_only=True):
    name: Text


class TxQueueParams(QueueParams, kw_only=True):
    handle: Text


class QueueListParams(Params, kw_only=True):
    limit: Positive | UnsetType = UNSET


class TxQueueListParams(QueueListParams, kw_only=True):
    handle: Text


class QueueUpdateParams(QueueParams, kw_only=True):
    metadata: dict[str, Any] = {}


class TxQueueUpdateParams(QueueUpdateParams, kw_only=True):
    handle: Text


class ResignParams(Params, kw_only=True):
    handle: Text | UnsetType = UNSET


class SchemaParams(Params, kw_only=True):
    schema: str = ""


class MigrateParams(SchemaParams, kw_only=True):
    direction: Literal["down", "up"] = "up"
    dry_run: bool = False
    max_steps: Positive | UnsetType = UNSET
    target_version: int = 0


class ClockParams(Params, kw_only=True):
    now: Instant


class SeedParams(Params, kw_only=True):
    seed: Seed

    def __post_init__(self) -> None:
        if self.seed > SEED_MAX:
            raise ValueError(f"seed must be at most {SEED_MAX}, got {self.seed}")


class RetryDelayParams(Params, kw_only=True):
    error_count: Positive
    job_id: int


class CronParams(Params, kw_only=True):
    count: Positive
    expression: str
    start: Instant = field(name="from")


class KeyOptions(Params, kw_only=True):
    by_args: bool
    by_period_nanos: NotNegative
    by_queue: bool
    exclude_kind: bool
    by_state: list[JobState] = []


class UniqueKeyParams(Params, kw_only=True):
    """`args` is the text of any JSON value. The fields from `expected_error` on are the caller's notes."""

    args: Raw
    kind: Literal[
        "conformance_all_args",
        "conformance_dotted_selected_args",
        "conformance_numeric_boundaries",
        "conformance_selected_args",
        "conformance_simple",
    ]
    now: Instant
    options: KeyOptions
    queue: str
    scheduled_at: Instant | None = None
    selected_unique_components: list[list[str]] = []
    expected_error: Literal["rejected"] | UnsetType = UNSET
    expected_sha256: str | UnsetType = UNSET
    expected_state_mask: int | UnsetType = UNSET
    name: str | UnsetType = UNSET
    selected_unique_paths: list[str] | None = None


class NoNotifyParams(JobToInsert, kw_only=True):
    kind: Text = "conformance_echo"


class ExactJsonParams(Params, kw_only=True):
    """`metadata_json` is the text of a JSON object."""

    id: Id | UnsetType = UNSET
    metadata_json: str | UnsetType = UNSET


class FinalizeParams(JobParams, kw_only=True):
    state: Literal["completed", "discarded"]
    metadata: dict[str, Any] | UnsetType = UNSET


class ApplicationParams(Params, kw_only=True):
    application_name: Annotated[str, Meta(pattern="^river-conformance-")]


class BarrierParams(Params, kw_only=True):
    name: Text


class StartParams(Params, kw_only=True):
    """Retentions of -1 keep jobs for ever."""

    client_id: Text
    cancelled_job_retention_ms: Retention | UnsetType = UNSET
    claim_barrier: Text | UnsetType = UNSET
    completed_job_retention_ms: Retention | UnsetType = UNSET
    discarded_job_retention_ms: Retention | UnsetType = UNSET
    elect_interval_ms: Positive | UnsetType = UNSET
    error_handler_cancel: bool = False
    fetch_poll_interval_ms: Positive | UnsetType = UNSET
    instrumented: bool = False
    job_cleaner_interval_ms: Positive | UnsetType = UNSET
    job_stuck_threshold_ms: Positive | UnsetType = UNSET
    job_timeout_disabled: bool = False
    job_timeout_ms: Positive | UnsetType = UNSET
    leader_election_disabled: bool = False
    max_workers: Positive | UnsetType = UNSET
    periodic_run_on_start: bool = False
    periodic_unique: bool = False
    poll_only: bool = False
    queue: Text = "default"
    queue_cleaner_interval_ms: Positive | UnsetType = UNSET
    reindexer_index_names: list[Text] | UnsetType = UNSET
    reindexer_interval_ms: Positive | UnsetType = UNSET
    rescue_after_ms: Positive | UnsetType = UNSET
    rescuer_interval_ms: Positive | UnsetType = UNSET
    retry_delay_ms: NotNegative | UnsetType = UNSET
    scheduler_interval_ms: Positive | UnsetType = UNSET
    schema: str = ""


class StopParams(Params, kw_only=True):
    cancel: bool = False


class WaitParams(JobParams, kw_only=True):
    states: list[JobState] = []


class WorkParams(JobParams, kw_only=True):
    client_id: Text | UnsetType = UNSET
    schema: str = ""


class QueueAddParams(QueueParams, kw_only=True):
    max_workers: Positive | UnsetType = UNSET
