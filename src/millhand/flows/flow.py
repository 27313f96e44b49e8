"""
The values of flows: jobs that wait for jobs.

A flow is a graph of tasks, each of them a job. It is built in memory and inserted whole, in one transaction. A task can wait
for tasks that were added before it, so no graph has a circle.

A join is a set of tasks that others wait for. Tasks that wait for the same set share its join.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, TypeVar, get_args

import msgspec

from millhand.core.errors import InvalidJob
from millhand.core.insert_opts import InsertOpts, InsertParams
from millhand.core.job import JobId, JobRow, JobState, Json
from millhand.core.json_value import UNSTORABLE

if TYPE_CHECKING:
    from millhand.core.args.codec import JobArgs
    from millhand.core.insert_opts import Insertable

When: TypeAlias = Literal["completed", "ended", "failed"]
"""How the tasks that a task waits for must end."""

WHENS: Sequence[When] = get_args(When)
TaskT = TypeVar("TaskT", bound="FlowTask")

NAME_CHARACTERS_MAX = 255
# A task that waits for more tasks than this does not list them in its metadata.
DEPS_MAX = 100
# The metadata of tasks has the names of River Pro, so that River UI shows them. Its own ids are letters and digits.
FLOW_ID_KEY = "workflow_id"
FLOW_NAME_KEY = "workflow_name"
TASK_KEY = "task"
DEPS_KEY = "deps"
SKIPPED_KEY = "millhand:skipped"
RESERVED_KEYS = frozenset({FLOW_ID_KEY, FLOW_NAME_KEY, TASK_KEY, DEPS_KEY, "workflow_staged_at"})


class FlowState(enum.StrEnum):
    """
    The states of a flow.

    It is `running` until its last task has ended. Then it is `cancelled` if it was cancelled, `failed` if a task failed,
    and `completed` otherwise.
    """

    CANCELLED = "cancelled"
    COMPLETED = "completed"
    FAILED = "failed"
    RUNNING = "running"


class TaskState(enum.StrEnum):
    """
    The states of a task.

    It is `waiting` for other tasks, or `released`: its job is worked like any other. It has `completed`, has `failed` if its
    job was cancelled, discarded or deleted, or was `skipped`.
    """

    COMPLETED = "completed"
    FAILED = "failed"
    RELEASED = "released"
    SKIPPED = "skipped"
    WAITING = "waiting"


class RetryMode(enum.StrEnum):
    """Which tasks a retry of a flow runs again: all, the failed ones, or these and all that wait for them."""

    ALL = "all"
    FAILED_ONLY = "failed_only"
    FAILED_AND_DOWNSTREAM = "failed_and_downstream"


class FlowRow(msgspec.Struct, frozen=True):
    """
    A flow as the database keeps it. Instants are aware.

    Attributes:
        num_open: How many tasks have not ended.
        num_failed: How many tasks have failed: their jobs were cancelled, discarded or deleted.
        num_skipped: How many tasks were skipped, because no task failed for which they would have run.
        ended_at: When the last task ended.
    """

    id: int
    name: str
    num_tasks: int
    num_open: int
    num_failed: int
    num_skipped: int
    created_at: datetime
    cancelled_at: datetime | None
    ended_at: datetime | None

    @property
    def state(self) -> FlowState:
        """The state of the flow."""
        if self.ended_at is None:
            return FlowState.RUNNING
        if self.cancelled_at is not None:
            return FlowState.CANCELLED
        return FlowState.FAILED if self.num_failed else FlowState.COMPLETED


class TaskRow(msgspec.Struct, frozen=True):
    """
    A task of a flow as the database keeps it.

    Attributes:
        name: The task's name; its job's id if the job was deleted.
        job: The job, or None if it was deleted.
        deps: The names of the tasks that it waits for; empty if there are more than 100.
        when: How these must end; None for a task that waits for none.
    """

    job_id: JobId
    name: str
    state: TaskState
    job: JobRow | None
    deps: Sequence[str] = ()
    when: When | None = None


class FlowTask:
    """
    A task that was added to a flow. `after=` takes it.

    Attributes:
        flow: The flow.
        job_id: The id of its job, once the flow was inserted.
        name: Its name in the flow.
        place: How many tasks, or groups of them, were added before it.
    """

    __slots__ = ("flow", "job_id", "name", "place")

    def __init__(self, flow: Flow, place: int, name: str) -> None:
        self.flow = flow
        self.job_id: JobId | None = None
        self.name = name
        self.place = place

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


class FlowTasks(FlowTask):
    """Tasks that were added together. `after=` takes them as a whole. Each is named `NAME.1`, `NAME.2` and so on."""

    __slots__ = ()


After: TypeAlias = FlowTask | Iterable["After"]
"""A task, tasks that were added together, or a list of them."""


@dataclass(slots=True)
class Entry:
    """A task of a flow that is to be inserted, or tasks that were added together."""

    task: FlowTask
    jobs: Iterable[Any] | AsyncIterable[Any]
    after: frozenset[int]
    when: When | None
    is_many: bool


class Plan(NamedTuple):
    """
    The joins of a flow.

    Attributes:
        num_joins: How many joins there are, numbered from 0.
        after: For each entry, the join that it waits for, or None.
        member_of: For each entry, the joins that it is part of.
    """

    num_joins: int
    after: Sequence[int | None]
    member_of: Sequence[Sequence[int]]


class Flow:
    """
    A graph of jobs that wait for each other. Build it with `add`, and insert it with `client.insert_flow`.

        flow = Flow("invoice 17")
        lines = [flow.add(PriceLine(17, number)) for number in range(40)]
        flow.add(SumUp(17), after=lines)
        await client.insert_flow(flow)

    Args:
        name: A title for lists. It need not be unique.

    Raises: InvalidJob for a name that is empty or too long.
    """

    def __init__(self, name: str) -> None:
        self.name = checked_name("flow", name)
        self.entries: list[Entry] = []
        self.is_inserted = False
        self._names: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"Flow({self.name!r})"

    def add(
        self,
        args: JobArgs,
        opts: InsertOpts | None = None,
        *,
        after: After = (),
        when: When = "completed",
        name: str | None = None,
    ) -> FlowTask:
        """
        Add a task.

        Args:
            args: As for `client.insert`.
            opts: As for `client.insert`. The job cannot be unique or pending.
            after: The tasks that it waits for; none by default.
            when: `completed`: it runs when all of them have completed, and is cancelled if one has failed. `ended`: it
                runs when all have ended. `failed`: it runs as soon as one has failed, and is skipped if none does.
            name: Its name in the flow; by default its kind, numbered if it is taken.

        Raises: InvalidJob.
        """
        kind = getattr(args, "kind", None)
        kind = kind if isinstance(kind, str) and kind else "task"
        return self._add([(args, opts)], FlowTask, kind, after, when, name)

    def add_many(
        self,
        jobs: Iterable[Insertable] | AsyncIterable[Insertable],
        *,
        after: After = (),
        when: When = "completed",
        name: str | None = None,
    ) -> FlowTasks:
        """
        Add many tasks that wait for the same ones. Others can wait for all of them together.

        `jobs` is read when the flow is inserted, so a generator of a million jobs takes little memory.

        Args:
            jobs: Args, or pairs of args and options, as for `client.insert_many_fast`.
            after: As for `add`.
            when: As for `add`.
            name: The first part of their names; by default `tasks`.

        Raises: InvalidJob.
        """
        if not isinstance(jobs, Iterable | AsyncIterable) or hasattr(jobs, "kind"):
            raise InvalidJob(f"jobs must be a list of args, got {jobs!r}; write flow.add(…) for one job")
        return self._add(jobs, FlowTasks, "tasks", after, when, name)

    def _add(
        self,
        jobs: Iterable[Any] | AsyncIterable[Any],
        handle: type[TaskT],
        kind: str,
        after: After,
        when: When,
        name: str | None,
    ) -> TaskT:
        if when not in WHENS:
            raise InvalidJob(f"when must be one of {', '.join(WHENS)}, got {when!r}")
        places = frozenset(self._places(after))
        if not places and when != "completed":
            raise InvalidJob(f"when must have tasks to wait for, got {when!r} without after")
        task = handle(self, len(self.entries), self._new_name(kind, name))
        is_many = issubclass(handle, FlowTasks)
        self.entries.append(Entry(task, jobs, places, when if places else None, is_many))
        return task

    def _places(self, after: After) -> set[int]:
        if isinstance(after, FlowTask):
            if after.flow is not self:
                raise InvalidJob(
                    f"after must be tasks of flow {self.name!r}, got {after!r} of {after.flow!r}"
                )
            return {after.place}
        if not isinstance(after, Iterable) or isinstance(after, str | bytes | Mapping):
            raise InvalidJob(
                f"after must be a task, or a list of tasks, got {after!r}; write after=flow.add(…)"
            )
        found: set[int] = set()
        for one in after:
            # Not a call for each: layers of a thousand tasks have a million edges.
            if isinstance(one, FlowTask) and one.flow is self:
                found.add(one.place)
            else:
                found |= self._places(one)
        return found

    def _new_name(self, kind: str, name: str | None) -> str:
        if name is not None:
            if checked_name("task", name) in self._names:
                raise InvalidJob(f"name must be unique in its flow, got {name!r} twice")
            self._names[name] = 1
            return name
        number = self._names[kind] = self._names.get(kind, 0) + 1
        found = kind if number == 1 else f"{kind}_{number}"
        if number > 1 and found in self._names:  # an explicit name
            return self._new_name(kind, None)
        self._names.setdefault(found, 1)
        return found


def entries_to_insert(flow: Flow) -> Sequence[Entry]:
    """Return the entries of a flow, once. Raises: InvalidJob for a flow without tasks, or one that was inserted."""
    if not isinstance(flow, Flow):
        raise InvalidJob(f"flow must be a Flow, got {flow!r}; write Flow(name)")
    if not flow.entries:
        raise InvalidJob(f"flow must have at least one task, got {flow!r} with none; write flow.add(…)")
    if flow.is_inserted:
        raise InvalidJob(f"flow must be inserted once, got {flow!r} again; build another Flow")
    flow.is_inserted = True
    return flow.entries


def plan(entries: Sequence[Entry]) -> Plan:
    """Return the joins of a flow: one for each set of entries that others wait for."""
    joins: dict[frozenset[int], int] = {}
    after = [joins.setdefault(entry.after, len(joins)) if entry.after else None for entry in entries]
    member_of: list[list[int]] = [[] for _ in entries]
    for places, join in joins.items():
        for place in places:
            member_of[place].append(join)
    return Plan(len(joins), after, member_of)


def task_params(
    params: InsertParams, flow_id: int, flow_name: str, task_name: str, deps: Sequence[str], *, waits: bool
) -> InsertParams:
    """
    Return the row of a task's job: with the names of River Pro in its metadata, and pending if it waits.

    Raises: InvalidJob for a job that is unique, is pending already, or has metadata of these names.
    """
    if params.unique_key is not None:
        raise InvalidJob(
            f"a task must not be unique, got kind {params.kind!r}: a duplicate would belong to two flows; "
            "write InsertOpts(unique=UniqueOpts())"
        )
    if params.state is JobState.PENDING:
        raise InvalidJob(f"a task must not be pending, got kind {params.kind!r}; write after=…")
    metadata: dict[str, Json] = (
        {} if params.encoded_metadata == "{}" else msgspec.json.decode(params.encoded_metadata)
    )
    if taken := RESERVED_KEYS.intersection(metadata):
        raise InvalidJob(f"metadata of a task must not use the keys of flows, got {min(taken)!r}")
    metadata |= {FLOW_ID_KEY: str(flow_id), FLOW_NAME_KEY: flow_name, TASK_KEY: task_name}
    if deps:
        metadata[DEPS_KEY] = list(deps)
    return msgspec.structs.replace(
        params,
        encoded_metadata=msgspec.json.encode(metadata).decode(),
        state=JobState.PENDING if waits else params.state,
    )


def is_task(metadata: Mapping[str, Json]) -> bool:
    """Return whether a job may be a task of a flow. River Pro's ids of workflows have letters."""
    id = metadata.get(FLOW_ID_KEY)
    return isinstance(id, str) and id.isdecimal()


def checked_name(subject: str, name: object) -> str:
    """Return the name of a flow or task. Raises: InvalidJob for one that is empty or too long."""
    if not isinstance(name, str) or not 0 < len(name) <= NAME_CHARACTERS_MAX:
        raise InvalidJob(f"name of a {subject} must be 1 to {NAME_CHARACTERS_MAX} characters, got {name!r}")
    if UNSTORABLE.search(name):
        raise InvalidJob(f"name of a {subject} must be a text that PostgreSQL can store, got {name!r}")
    return name
