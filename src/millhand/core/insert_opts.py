"""Insert options, their precedence, and the row that they result in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

import msgspec
from msgspec.structs import replace

from millhand.core.args.codec import JobArgs, RawArgs, encode_args, encode_many, kind_of_value
from millhand.core.args.go_json import encode_object, nesting_error
from millhand.core.args.secret_fields import encrypt_args, secret_field_names, unique_args
from millhand.core.args.secret_keys import SecretKeys
from millhand.core.checks import check_number
from millhand.core.errors import InvalidJob
from millhand.core.job import CANCEL_REQUESTED_KEY, RESERVED_METADATA_PREFIX, JobRow, JobState, Json
from millhand.core.unique import UniqueOpts, counted_paths, states_mask, unique_key, unique_text

T = TypeVar("T")

MAX_ATTEMPTS_DEFAULT = 25
MAX_ATTEMPTS_MAX = 32_767  # the column is a smallint
PRIORITY_DEFAULT = 1
PRIORITY_MAX = 4
QUEUE_BYTES_MAX = 64
QUEUE_DEFAULT = "default"
TAG_BYTES_MAX = 255

# The column of each field of InsertParams, in the statements and in COPY.
INSERT_COLUMNS: Mapping[str, str] = MappingProxyType(
    {
        "args": "encoded_args",
        "created_at": "created_at",
        "kind": "kind",
        "max_attempts": "max_attempts",
        "metadata": "encoded_metadata",
        "priority": "priority",
        "queue": "queue",
        "scheduled_at": "scheduled_at",
        "state": "state",
        "tags": "tags",
    }
)
UNIQUE_COLUMNS = ("unique_key", "unique_states")

# River's pattern without the nested repetition that makes Python's `re` exponential; use it with `fullmatch`.
QUEUE_RE = re.compile(r"[a-z0-9]+(?:[_|\-][a-z0-9]+)*", re.ASCII)
TAG_RE = re.compile(r"\w[\w\-]+\w", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class InsertOpts:
    """
    Options of one insert, or of all inserts of a kind. None leaves an option unset.

    Each option is taken from this insert, else from the args class's `insert_opts`, else from the client's defaults.
    Tags, metadata and `unique` replace those of the class as a whole: write `tags=[]` for none, and `UniqueOpts()` for
    a job that is not unique.

    Args:
        max_attempts: How often the job is attempted at most; 25 by default.
        metadata: A JSON object, kept with the job. Keys that begin with `river:` are reserved.
        pending: Insert the job in state `pending`, in which it waits until your code makes it available.
        priority: 1 (first, the default) to 4.
        queue: The queue's name; `default` by default.
        scheduled_at: The aware instant before which the job is not worked. The scheduler makes the job available, even
            if the instant has passed already.
        tags: Labels for lists and filters.
        unique: What makes the job a duplicate of another; by default nothing does.

    Raises: InvalidJob if an option breaks a rule of River's tables.
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
            check_number("max_attempts", self.max_attempts, MAX_ATTEMPTS_MAX, InvalidJob)
        if self.priority is not None:
            check_number("priority", self.priority, PRIORITY_MAX, InvalidJob)
        if self.queue is not None:
            fault = queue_name_error(self.queue)
            if fault is not None:
                raise InvalidJob(f"queue {fault}")
        at = self.scheduled_at
        if at is not None and (not isinstance(at, datetime) or at.tzinfo is None):
            raise InvalidJob(
                f"scheduled_at must be a datetime with a time zone, got {at!r}; write datetime.now(UTC) + …"
            )
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
    A row that is about to be inserted, with every option resolved and every rule checked.

    Attributes:
        created_at: An aware instant, or None for the database's clock.
        scheduled_at: An aware instant, or None for the database's clock.
        unique_states: River's mask of 8 bits as a number; 0x01 is `available`.
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


class SecretArgs(msgspec.Struct, frozen=True):
    """
    The keys of a client, and the secret fields of the kinds that its workers work.

    `names_by_kind` is for `RawArgs`, which have no class with marks.
    """

    keys: SecretKeys | None = None
    names_by_kind: Mapping[str, tuple[str, ...]] = {}

    def names_of(self, args: object, kind: str) -> tuple[str, ...]:
        """Return the names of the secret fields of an args value."""
        return (
            self.names_by_kind.get(kind, ())
            if isinstance(args, RawArgs)
            else secret_field_names(cast(Any, type(args)))
        )


NO_SECRETS = SecretArgs()


class InsertResult(msgspec.Struct, frozen=True, gc=False):
    """
    The result of one insert.

    Attributes:
        job: The new row, or the existing row if the job was skipped.
        unique_skipped_as_duplicate: Whether the job was skipped because another job has its unique key.
    """

    job: JobRow
    unique_skipped_as_duplicate: bool = False


Insertable: TypeAlias = JobArgs | tuple[JobArgs, InsertOpts | None]
"""An element of `insert_many`: args, or args with options."""

_NO_OPTS = InsertOpts()


def as_pairs(jobs: Iterable[Insertable]) -> list[tuple[JobArgs, InsertOpts | None]]:
    """Return each job as args and options. Raises: as `jobs_in`."""
    return [job if isinstance(job, tuple) else (job, None) for job in jobs_in(jobs)]


def jobs_in(jobs: Iterable[T]) -> Iterator[T]:
    """Return an iterator over `jobs`. Raises: InvalidJob if they are not iterable, or are the args of one job."""
    try:
        iterator = iter(jobs)
    except TypeError:
        iterator = None
    if iterator is None or hasattr(jobs, "kind"):  # one can iterate over the fields of a pydantic model
        name = (jobs if isinstance(jobs, type) else type(jobs)).__name__
        one = f"{name}(…)" if hasattr(jobs, "kind") else "args"
        raise InvalidJob(f"jobs must be a list of args, got {name}; write [{one}]")
    return iterator


def insert_params_many(
    jobs: Sequence[tuple[object, InsertOpts | None]],
    *,
    now: datetime,
    default_max_attempts: int = MAX_ATTEMPTS_DEFAULT,
    secrets: SecretArgs = NO_SECRETS,
) -> list[InsertParams]:
    """
    Resolve every option of inserts, once for jobs of one class with the same options.

    A job for now keeps `created_at` and `scheduled_at` None: the database's clock sets them, because fetches compare
    them with it. River's clients write their own clock's. `now` only decides the period of a unique job.

    Secret fields are encrypted with the keys of `secrets`.

    Raises: InvalidJob naming the option, the rule and the value.
    Source: River v0.51.2, client.go `insertParamsFromConfigArgsAndOptions`.
    """
    texts = encode_many(_args_in(jobs))
    shared = None if texts is None else _shared_params(jobs, default_max_attempts)
    if texts is not None and shared is not None:
        return [replace(shared, encoded_args=text) for text in texts]
    known: dict[tuple[object, int, int], _ResolvedOpts] = {}
    many = []
    for index, (args, opts) in enumerate(jobs):
        class_opts = opts_of_class(args)
        key = (args.kind if isinstance(args, RawArgs) else type(args), id(opts), id(class_opts))
        resolved = known.get(key)
        if resolved is None:
            resolved = known[key] = _resolve_opts(kind_of_value(args), opts, class_opts, default_max_attempts)
        text = encode_args(args) if texts is None else texts[index]
        params = replace(resolved.params, encoded_args=text)
        # Classes with secret fields have no texts by now.
        names = secrets.names_of(args, params.kind) if texts is None else ()
        if resolved.unique is not None:
            counted = (
                params if not names else _with_unique_args(params, resolved.unique, args, names, secrets)
            )
            params = replace(params, unique_key=_unique_key(counted, resolved.unique, args, now))
        if names:
            text = encrypt_args(
                text, names, params.kind, secrets.keys, keeps_encrypted=isinstance(args, RawArgs)
            )
            params = replace(params, encoded_args=text)
        many.append(params)
    return many


def _args_in(jobs: Sequence[tuple[object, InsertOpts | None]]) -> list[object]:
    try:
        return [args for args, _ in jobs]
    except ValueError:  # a tuple of another length; no user's code runs here
        length = next(len(job) for job in jobs if len(job) != len(("args", "opts")))
        raise InvalidJob(
            f"a job must be args, or a pair of args and InsertOpts, got a tuple of {length}"
        ) from None


def _shared_params(
    jobs: Sequence[tuple[object, InsertOpts | None]], default_max_attempts: int
) -> InsertParams | None:
    """Return the params that all jobs share, or None if they differ in more than their args."""
    args, opts = jobs[0]
    # A list keeps the values alive: a property that makes new options each time could otherwise reuse an id.
    of_classes = [getattr(args, "insert_opts", None) for args, _ in jobs]
    if callable(of_classes[0]) or not (  # a method may return different options for each job
        len({type(args) for args, _ in jobs}) == 1
        and len({id(opts) for _, opts in jobs}) == 1
        and len(set(map(id, of_classes))) == 1
    ):
        return None
    resolved = _resolve_opts(kind_of_value(args), opts, opts_of_class(args), default_max_attempts)
    return resolved.params if resolved.unique is None else None


class _ResolvedOpts(NamedTuple):
    """What the options decide without the args. `class_opts` is kept alive so that its id is not reused."""

    params: InsertParams
    unique: UniqueOpts | None
    class_opts: InsertOpts | None


def _resolve_opts(
    kind: str, opts: InsertOpts | None, class_opts: InsertOpts | None, default_max_attempts: int
) -> _ResolvedOpts:
    if opts is not None and not isinstance(opts, InsertOpts):
        raise InvalidJob(f"opts must be InsertOpts, got {opts!r}; write InsertOpts(queue=…)")
    first, second = opts or _NO_OPTS, class_opts or _NO_OPTS
    metadata = first.metadata if first.metadata is not None else second.metadata
    scheduled_at = first.scheduled_at or second.scheduled_at
    tags = first.tags if first.tags is not None else second.tags
    unique = first.unique if first.unique is not None else second.unique
    state = JobState.AVAILABLE if scheduled_at is None else JobState.SCHEDULED
    params = InsertParams(
        kind=kind,
        encoded_args="",
        max_attempts=first.max_attempts or second.max_attempts or default_max_attempts,
        encoded_metadata=_encoded_metadata(metadata) if metadata else "{}",
        priority=first.priority or second.priority or PRIORITY_DEFAULT,
        queue=first.queue or second.queue or QUEUE_DEFAULT,
        state=JobState.PENDING if first.pending or second.pending else state,
        scheduled_at=scheduled_at,
        tags=tuple(tags or ()),
        unique_states=states_mask(unique.states) if unique is not None and unique.is_active else None,
    )
    return _ResolvedOpts(params, unique if params.unique_states is not None else None, class_opts)


def _with_unique_args(
    params: InsertParams, unique: UniqueOpts, args: object, names: Sequence[str], secrets: SecretArgs
) -> InsertParams:
    """Return params whose args have texts that only a key can compute in place of the secret fields that are compared."""
    if not unique.by_args:
        return params
    paths = counted_paths(unique.by_args, type(args))
    for path in paths:
        if path[0] in names and len(path) > 1:
            raise InvalidJob(
                f"by_args must name a secret field as a whole, got {'.'.join(path)!r} of kind {params.kind!r}; write "
                f"{path[0]!r}"
            )
    compared = [name for name in names if not paths or (name,) in paths]
    return replace(params, encoded_args=unique_args(params.encoded_args, compared, params.kind, secrets.keys))


def _unique_key(params: InsertParams, unique: UniqueOpts, args: object, now: datetime) -> bytes:
    text = unique_text(
        unique,
        kind=params.kind,
        encoded_args=params.encoded_args,
        queue=params.queue,
        scheduled_at=params.scheduled_at or now,
        args_type=type(args),
    )
    return unique_key(text)


def opts_of_class(args: object) -> InsertOpts | None:
    """
    Return the `insert_opts` of an args value, an attribute or a method of its class; None if it has none.

    Raises: InvalidJob if they are not InsertOpts.
    """
    found: Any = getattr(args, "insert_opts", None)
    if found is None or isinstance(args, RawArgs):
        return None
    if callable(found):
        found = found()
    if found is None or isinstance(found, InsertOpts):
        return found
    raise InvalidJob(f"insert_opts of {type(args).__qualname__} must be InsertOpts, got {found!r}")


def queue_name_error(queue: object) -> str | None:
    """Return an error text without its subject if `queue` is no valid name, else None."""
    # The pattern comes before the length, because it makes sure that each character is a byte.
    if isinstance(queue, str) and QUEUE_RE.fullmatch(queue) and len(queue) <= QUEUE_BYTES_MAX:
        return None
    return (
        f"must be 1 to {QUEUE_BYTES_MAX} lower-case letters and digits, joined by single '_', '-' or '|', "
        f"got {queue!r}"
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
        if str(key).startswith(RESERVED_METADATA_PREFIX) or key == CANCEL_REQUESTED_KEY:
            raise InvalidJob(
                f"metadata must not use the keys {RESERVED_METADATA_PREFIX}… and {CANCEL_REQUESTED_KEY}, got {key!r}; "
                "River keeps them for itself"
            )


def _encoded_metadata(metadata: Mapping[str, Json]) -> str:
    try:
        plain = msgspec.to_builtins(dict(metadata), builtin_types=(datetime,), str_keys=True)
    except (TypeError, ValueError) as error:
        raise InvalidJob(f"metadata must be encodable as JSON, got: {error}") from error
    except RecursionError as error:
        raise nesting_error("metadata", metadata) from error
    return encode_object(plain, "metadata")
