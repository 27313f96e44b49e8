"""How a job is inserted: options, their precedence, and the row that comes of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from millhand.args.codec import RawArgs, encode_args, encode_many, encode_object, kind_of
from millhand.errors import InvalidJob
from millhand.job import CANCEL_MARK, RESERVED_METADATA_PREFIX, JobRow, JobState, Json
from millhand.unique import UniqueOpts, states_mask, unique_key

MAX_ATTEMPTS_DEFAULT = 25
MAX_ATTEMPTS_MAX = 32_767  # the column is a smallint
PRIORITY_DEFAULT = 1
PRIORITY_MAX = 4
QUEUE_BYTES_MAX = 64
QUEUE_DEFAULT = "default"
TAG_BYTES_MAX = 255

# River's pattern, without the nested repetition that makes Python's `re` exponential; to be used with fullmatch.
QUEUE_RE = re.compile(r"[a-z0-9]+(?:[_|\-][a-z0-9]+)*", re.ASCII)
TAG_RE = re.compile(r"\w[\w\-]+\w", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class InsertOpts:
    """
    Options of one insert, or of all inserts of a kind; None means "not said here".

    Precedence, option by option: this insert, then the args class's `insert_opts`, then the client's defaults. Tags,
    metadata and `unique` replace those of the class as a whole: `tags=[]` is for none, `UniqueOpts()` for not unique.
    A job with `scheduled_at` waits for the scheduler, even if the instant has passed. A pending one waits for you.

    Units: `scheduled_at` is an aware instant; `priority` is 1 (first) … 4; `max_attempts` counts executions.
    Raises: InvalidJob, when made.
    Source: River v0.51.2, insert_opts.go.
    """

    max_attempts: int | None = None
    metadata: Mapping[str, Json] | None = None
    pending: bool = False
    priority: int | None = None
    queue: str | None = None
    scheduled_at: datetime | None = None
    tags: Sequence[str] | None = None
    unique: UniqueOpts | None = None

    def __post_init__(self) -> None:
        if self.max_attempts is not None:
            _check_number("max_attempts", self.max_attempts, MAX_ATTEMPTS_MAX)
        if self.priority is not None:
            _check_number("priority", self.priority, PRIORITY_MAX)
        if self.queue is not None:
            fault = queue_name_fault(self.queue)
            if fault is not None:
                raise InvalidJob(f"queue {fault}")
        if self.scheduled_at is not None:
            _check_instant(self.scheduled_at)
        if self.tags is not None:
            _check_tags(self.tags)
        if self.metadata is not None:
            _check_metadata(self.metadata)
        if self.unique is not None and not isinstance(self.unique, UniqueOpts):
            raise InvalidJob(
                f"unique must be UniqueOpts, got {self.unique!r}; write UniqueOpts(by_args=True)"
            )


class InsertParams(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """
    A row about to be inserted: every option decided, every rule checked.

    `encoded_args` and `encoded_metadata` are JSON texts of objects. `created_at` and `scheduled_at` are aware instants,
    or None for the database's own clock. `unique_states` is River's mask of 8 bits as a number, 0x01 for available.
    """

    kind: str
    encoded_args: str
    max_attempts: int
    encoded_metadata: str
    priority: int
    queue: str
    state: JobState
    created_at: datetime | None = None
    scheduled_at: datetime | None = None
    tags: tuple[str, ...] = ()
    unique_key: bytes | None = None
    unique_states: int | None = None


class InsertResult(msgspec.Struct, frozen=True, gc=False):
    """What an insert gave: the new row, or the row that was there already if the job was skipped as a duplicate."""

    job: JobRow
    unique_skipped_as_duplicate: bool = False


_NOTHING_SAID = InsertOpts()


def insert_params(
    args: object,
    opts: InsertOpts | None = None,
    *,
    now: datetime,
    default_max_attempts: int = MAX_ATTEMPTS_DEFAULT,
) -> InsertParams:
    """Decide every option of an insert, as `insert_params_many`."""
    return insert_params_many([(args, opts)], now=now, default_max_attempts=default_max_attempts)[0]


def insert_params_many(
    jobs: Sequence[tuple[object, InsertOpts | None]],
    *,
    now: datetime,
    default_max_attempts: int = MAX_ATTEMPTS_DEFAULT,
) -> list[InsertParams]:
    """
    Decide every option of inserts; what is the same for jobs of one class and with the same options is decided once.

    A job for now keeps `created_at` and `scheduled_at` None, so that the database's clock says them, the one that
    fetches go by; River's clients write their own. `now` only decides the period of a unique job.

    Raises: InvalidJob naming the option, the rule and the value.
    Source: River v0.51.2, client.go `insertParamsFromConfigArgsAndOptions`.
    """
    texts = encode_many([args for args, _ in jobs])
    alike = None if texts is None else _alike(jobs, default_max_attempts)
    if texts is not None and alike is not None:
        return [replace(alike, encoded_args=text) for text in texts]
    known: dict[tuple[object, int, int], _Decided] = {}
    many = []
    for index, (args, opts) in enumerate(jobs):
        of_class = class_opts(args)
        same = (args.kind if isinstance(args, RawArgs) else type(args), id(opts), id(of_class))
        decided = known.get(same)
        if decided is None:
            decided = known[same] = _decided(kind_of(args), opts, of_class, default_max_attempts)
        text = encode_args(args) if texts is None else texts[index]
        params = replace(decided.params, encoded_args=text)
        many.append(params if decided.unique is None else _keyed(params, decided.unique, args, now))
    return many


def _alike(
    jobs: Sequence[tuple[object, InsertOpts | None]], default_max_attempts: int
) -> InsertParams | None:
    """Return what all jobs have in common, if nothing but their args is different; args are of classes."""
    args, opts = jobs[0]
    # Kept, and not looked at in passing: what a property makes anew each time may get the place of what it made before.
    of_classes = [getattr(args, "insert_opts", None) for args, _ in jobs]
    if callable(of_classes[0]) or not (  # a method may answer each job differently
        len({type(args) for args, _ in jobs}) == 1
        and len({id(opts) for _, opts in jobs}) == 1
        and len(set(map(id, of_classes))) == 1
    ):
        return None
    decided = _decided(kind_of(args), opts, class_opts(args), default_max_attempts)
    return decided.params if decided.unique is None else None


class _Decided(NamedTuple):
    """What is decided without looking at args; `of_class` is kept so that nothing else gets its id."""

    params: InsertParams
    unique: UniqueOpts | None
    of_class: InsertOpts | None


def _decided(
    kind: str, opts: InsertOpts | None, of_class: InsertOpts | None, default_max_attempts: int
) -> _Decided:
    said, its = opts or _NOTHING_SAID, of_class or _NOTHING_SAID
    metadata = said.metadata if said.metadata is not None else its.metadata
    scheduled_at = said.scheduled_at or its.scheduled_at
    tags = said.tags if said.tags is not None else its.tags
    unique = said.unique if said.unique is not None else its.unique
    params = InsertParams(
        kind=kind,
        encoded_args="",
        max_attempts=said.max_attempts or its.max_attempts or default_max_attempts,
        encoded_metadata=_encoded_metadata(metadata) if metadata else "{}",
        priority=said.priority or its.priority or PRIORITY_DEFAULT,
        queue=said.queue or its.queue or QUEUE_DEFAULT,
        state=_state(scheduled_at, is_pending=said.pending or its.pending),
        scheduled_at=scheduled_at,
        tags=tuple(tags or ()),
        unique_states=states_mask(unique.states) if unique is not None and unique.is_active else None,
    )
    return _Decided(params, unique if params.unique_states is not None else None, of_class)


def _keyed(params: InsertParams, unique: UniqueOpts, args: object, now: datetime) -> InsertParams:
    key = unique_key(
        unique,
        kind=params.kind,
        encoded_args=params.encoded_args,
        queue=params.queue,
        scheduled_at=params.scheduled_at or now,
        args_type=type(args),
    )
    return replace(params, unique_key=key)


def class_opts(args: object) -> InsertOpts | None:
    """
    Return the options that an args class says of itself: an attribute `insert_opts`, or a method of that name.

    Raises: InvalidJob if it is something else.
    """
    found: Any = getattr(args, "insert_opts", None)
    if found is None or isinstance(args, RawArgs):
        return None
    if callable(found):
        found = found()
    if found is None or isinstance(found, InsertOpts):
        return found
    raise InvalidJob(f"insert_opts of {type(args).__qualname__} must be InsertOpts, got {found!r}")


def queue_name_fault(queue: object) -> str | None:
    """Return what is wrong with the name of a queue, as the rest of a sentence that begins with its field; or None."""
    if (
        not isinstance(queue, str)
        or not QUEUE_RE.fullmatch(queue)  # first, for then it is ASCII, a byte each
        or len(queue) > QUEUE_BYTES_MAX
    ):
        return (
            f"must be 1 to {QUEUE_BYTES_MAX} lower-case letters and digits, joined by single '_', '-' or '|', "
            f"got {queue!r}"
        )
    return None


def _state(scheduled_at: datetime | None, *, is_pending: bool) -> JobState:
    if is_pending:
        return JobState.PENDING
    return JobState.AVAILABLE if scheduled_at is None else JobState.SCHEDULED


def _check_number(name: str, number: object, largest: int) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= largest:
        raise InvalidJob(f"{name} must be between 1 and {largest:,}, got {number!r}")


def _check_instant(scheduled_at: object) -> None:
    if not isinstance(scheduled_at, datetime) or scheduled_at.tzinfo is None:
        raise InvalidJob(
            f"scheduled_at must be a datetime with a time zone, got {scheduled_at!r}; write datetime.now(UTC) + …"
        )


def _check_tags(tags: Sequence[str]) -> None:
    if isinstance(tags, str):
        raise InvalidJob(f"tags must be a list of texts, got {tags!r}; write [{tags!r}]")
    for tag in tags:
        if not isinstance(tag, str) or len(tag) > TAG_BYTES_MAX or not TAG_RE.fullmatch(tag):
            raise InvalidJob(
                f"tags must be 3 to {TAG_BYTES_MAX} ASCII letters, digits, '_' and '-', with no '-' at the ends, "
                f"got {tag!r}"
            )


def _check_metadata(metadata: Mapping[str, Json]) -> None:
    if not isinstance(metadata, Mapping):
        raise InvalidJob(f"metadata must be a JSON object, got {metadata!r}")
    for key in metadata:
        if str(key).startswith(RESERVED_METADATA_PREFIX) or key == CANCEL_MARK:
            raise InvalidJob(
                f"metadata must not use the keys {RESERVED_METADATA_PREFIX}… and {CANCEL_MARK}, got {key!r}; "
                "River keeps them for itself"
            )


def _encoded_metadata(metadata: Mapping[str, Json]) -> str:
    try:
        plain = msgspec.to_builtins(dict(metadata), builtin_types=(datetime,), str_keys=True)
    except (TypeError, ValueError) as error:
        raise InvalidJob(f"metadata must be encodable as JSON, got: {error}") from error
    return encode_object(plain, "metadata")
