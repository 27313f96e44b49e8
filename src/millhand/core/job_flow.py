"""The flow of a running job as the job sees it: `job.flow`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    from millhand.core.args.codec import JobArgs
    from millhand.core.insert_opts import Insertable, InsertOpts
    from millhand.core.job import JobId, Json
    from millhand.core.result import ResultType

T = TypeVar("T")


class JobFlow:
    """
    The flow of which a running job is a task; `job.flow`.

    Concurrency: belongs to one attempt. The methods ending in `_sync` are for a plain function, which runs in a thread.
    """

    @property
    def id(self) -> int:
        """The flow's id."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """The flow's name."""
        raise NotImplementedError

    async def add(self, args: JobArgs, opts: InsertOpts | None = None, *, name: str | None = None) -> JobId:
        """
        Add a task to the flow at once, and return the id of its job.

        Tasks that wait for this job wait for the added one too. The added one waits for none. A client may work it before
        this attempt ends.

        An attempt that repeats the adds of an earlier one inserts nothing twice: its n-th add returns the job of the earlier
        n-th add. So add the same tasks in the same order in each attempt.

        Args:
            args: As for `client.insert`.
            opts: As for `client.insert`. The job cannot be unique or pending.
            name: Its name in the flow; by default `KIND.ID.N`, with the id of this job and the number of the add.

        Raises:
            InvalidJob, UnknownKind: For the job itself, or if an earlier attempt added another kind or name here.
            FlowCancelled: If the flow is cancelled.
            JobNotRunning: If this attempt no longer has the job.
            DriverError: If the database rejects the insert.
        """
        raise NotImplementedError

    async def add_many(self, jobs: Iterable[Insertable], *, name: str | None = None) -> list[JobId]:
        """
        Add tasks to the flow at once, all or none, and return the ids of their jobs, in order.

        Each of `jobs` is args, or a pair of args and options; none adds nothing. All of them are in memory at once. For
        repeated attempts, each counts as one add. `name` is the first part of their names, `NAME.1`, `NAME.2` and so on; by
        default they are named as by `add`. Raises: as `add`.
        """
        raise NotImplementedError

    @overload
    async def outputs(self, kind: str | type | None = None, *, returns: type[T]) -> list[T]: ...
    @overload
    async def outputs(self, kind: str | type | None = None, *, returns: ResultType = None) -> list[Json]: ...
    async def outputs(self, kind: str | type | None = None, *, returns: ResultType = None) -> list[Any]:
        """
        Return the outputs that the tasks recorded which this job waited for, in the order of the ids of their jobs.

        Only tasks that completed and recorded an output are in it. Those that such a task added are in it too.

        Args:
            kind: Only outputs of this kind: its name, or the class of its args.
            returns: The type that each output is decoded as; see `result_of`. None returns plain JSON values.

        Raises: InvalidOutput for one that does not decode, or if the job of a completed task was deleted, of whatever kind;
        ConfigError if nothing can be decoded into `returns`; InvalidJob for a class without a kind; DriverError.
        """
        raise NotImplementedError

    def add_sync(self, args: JobArgs, opts: InsertOpts | None = None, *, name: str | None = None) -> JobId:
        """Add a task in a worker that is a plain function, as `add` does. Raises: as that; ConfigError in an event loop."""
        raise NotImplementedError

    def add_many_sync(self, jobs: Iterable[Insertable], *, name: str | None = None) -> list[JobId]:
        """Add tasks in a worker that is a plain function, as `add_many` does. Raises: as `add_sync`."""
        raise NotImplementedError

    @overload
    def outputs_sync(self, kind: str | type | None = None, *, returns: type[T]) -> list[T]: ...
    @overload
    def outputs_sync(self, kind: str | type | None = None, *, returns: ResultType = None) -> list[Json]: ...
    def outputs_sync(self, kind: str | type | None = None, *, returns: ResultType = None) -> list[Any]:
        """Return outputs in a worker that is a plain function, as `outputs` does. Raises: as that and `add_sync`."""
        raise NotImplementedError
