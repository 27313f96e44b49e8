"""
The test kit for tests that are plain functions: the names of `millhand.testing`, for a `SyncClient`.

Workers that are plain functions run in the test's thread and transaction, of Django, SQLAlchemy or psycopg. On Django's
connection, the open `atomic` block is used without a `tx`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from millhand.client import Client
from millhand.core.args.codec import RawArgs, TypedArgs
from millhand.core.errors import ConfigError
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import JobRow, Json
from millhand.db.driver.run_sync import run_sync
from millhand.sync_client import SyncClient
from millhand.testing import inserted, travel
from millhand.testing.calling_thread import CallingThread, CallingThreadDriver, SyncTestClient
from millhand.testing.client_override import OverrideDriver, ensure_override, override_client
from millhand.testing.clock import ManualClock
from millhand.testing.drain import MAX_JOBS, Counts, Drained
from millhand.testing.drain import drain as drain_async
from millhand.testing.drain import work_one as work_one_async
from millhand.testing.work import Worked
from millhand.testing.work import work as work_async
from millhand.testing.work import work_again as work_again_async

if TYPE_CHECKING:
    from millhand.core.tx_types import SyncTx

__all__ = [
    "Counts",
    "Drained",
    "ManualClock",
    "TimeTravel",
    "Worked",
    "drain",
    "require_inserted",
    "require_many_inserted",
    "require_not_inserted",
    "time_travel",
    "work",
    "work_again",
    "work_one",
]

T = TypeVar("T")


def require_inserted(
    client: SyncClient, args: object, /, *, tx: SyncTx | None = None, **columns: object
) -> JobRow:
    """Return the one job that matches, as `millhand.testing.require_inserted` does."""
    return run_sync(inserted.require_inserted(client, args, tx=tx, **columns))


def require_many_inserted(
    client: SyncClient, *expected: object, tx: SyncTx | None = None
) -> Sequence[JobRow]:
    """Return all jobs of the expected kinds, as `millhand.testing.require_many_inserted` does."""
    return run_sync(inserted.require_many_inserted(client, *expected, tx=tx))


def require_not_inserted(
    client: SyncClient, args: object, /, *, tx: SyncTx | None = None, **columns: object
) -> None:
    """Return if no job matches, as `millhand.testing.require_not_inserted` does."""
    run_sync(inserted.require_not_inserted(client, args, tx=tx, **columns))


def work(
    client: SyncClient,
    args: TypedArgs | RawArgs,
    opts: InsertOpts | None = None,
    *,
    tx: SyncTx | None = None,
    after_step: str | None = None,
    cursors: Mapping[str, Json] | None = None,
) -> Worked:
    """Insert a job and work it at once, as `millhand.testing.work` does."""
    return _run(
        client,
        tx,
        lambda job_client: work_async(job_client, args, opts, after_step=after_step, cursors=cursors),
    )


def work_again(client: SyncClient, job: JobRow, *, tx: SyncTx | None = None) -> Worked:
    """Work an existing job, as `millhand.testing.work_again` does."""
    return _run(client, tx, lambda job_client: work_again_async(job_client, job))


def work_one(
    client: SyncClient, *queues: str, tx: SyncTx | None = None, raise_failures: bool = False
) -> Worked | None:
    """Fetch the next due job and work it, as `millhand.testing.work_one` does."""
    return _run(
        client, tx, lambda job_client: work_one_async(job_client, *queues, raise_failures=raise_failures)
    )


def drain(
    client: SyncClient,
    *queues: str,
    tx: SyncTx | None = None,
    max_jobs: int = MAX_JOBS,
    raise_failures: bool = False,
    with_retryable: bool = False,
    with_scheduled: bool = False,
) -> Drained:
    """Work jobs until none is due, as `millhand.testing.drain` does."""
    return _run(
        client,
        tx,
        lambda job_client: drain_async(
            job_client,
            *queues,
            max_jobs=max_jobs,
            raise_failures=raise_failures,
            with_retryable=with_retryable,
            with_scheduled=with_scheduled,
        ),
    )


class TimeTravel:
    """Moves the clock of one `SyncClient`, as `millhand.testing.TimeTravel` does; made by `time_travel`."""

    def __init__(self, time_travel: travel.TimeTravel, caller: CallingThread) -> None:
        self._caller = caller
        self._travel = time_travel
        self.clock = time_travel.clock

    def now(self) -> datetime:
        """Return the instant of the client's clock, in UTC."""
        return self.clock.now()

    def advance(self, duration: timedelta = timedelta(0), /, **units: Unpack[travel.TimeUnits]) -> None:
        """Let time pass without working jobs. Raises: ValueError for a negative duration."""
        self._caller.run(lambda: self._travel.advance(duration, **units))

    def advance_to(self, instant: datetime) -> None:
        """Let time pass until an instant, as `advance` does. Raises: ValueError for a past or naive one."""
        self._caller.run(lambda: self._travel.advance_to(instant))

    def work_for(
        self,
        duration: timedelta = timedelta(0),
        /,
        *queues: str,
        raise_failures: bool = False,
        **units: Unpack[travel.TimeUnits],
    ) -> Drained:
        """Let time pass while the client works each job when it is due. Raises: as `advance` and `drain`."""
        return self._caller.run(
            lambda: self._travel.work_for(duration, *queues, raise_failures=raise_failures, **units)
        )

    def work_until(self, instant: datetime, /, *queues: str, raise_failures: bool = False) -> Drained:
        """Let time pass until an instant, as `work_for` does. Raises: as `advance_to` and `drain`."""
        return self._caller.run(
            lambda: self._travel.work_until(instant, *queues, raise_failures=raise_failures)
        )


@contextlib.contextmanager
def time_travel(
    client: SyncClient, *, tx: SyncTx | None = None, now: datetime | None = None
) -> Iterator[TimeTravel]:
    """Give a client a clock that stands still until the test moves it, as `millhand.testing.time_travel` does."""
    clock = ManualClock(client.config.clock.now() if now is None else now)
    tx = _open_transaction(client, tx)
    with _kept_open(tx), override_client(client, clock, tx), CallingThread() as caller:
        yield TimeTravel(travel.TimeTravel(_job_client(client, caller), clock), caller)


def _run(client: SyncClient, tx: SyncTx | None, call: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
    tx = _open_transaction(client, tx)
    with _kept_open(tx), run_sync(ensure_override(client, tx)), CallingThread() as caller:
        job_client = _job_client(client, caller)
        return caller.run(lambda: call(job_client))


def _job_client(client: SyncClient, caller: CallingThread) -> Client:
    """Return a client with the settings of `client`, which is overridden, and with statements in the calling thread."""
    driver = client._driver  # noqa: SLF001 - the driver to wrap
    if not isinstance(driver, OverrideDriver):
        raise TypeError(f"client must be overridden, got {driver!r}")
    return SyncTestClient(CallingThreadDriver(driver, caller), client.config)


def _open_transaction(client: SyncClient, tx: SyncTx | None) -> SyncTx | None:
    """Return `tx`, or Django's connection in an `atomic` block. Raises: ConfigError for a connection outside of one."""
    if tx is not None:
        if getattr(tx, "in_atomic_block", True):
            return tx
        raise ConfigError(
            "Django's connection must be in a transaction, got one that commits each statement; leave tx out, and "
            "what is worked is committed too"
        )
    alias = getattr(client._driver, "alias", None)  # noqa: SLF001 - as above
    if alias is None:
        return None
    from django.db import connections  # noqa: PLC0415 - which the driver has imported

    return connections[alias] if connections[alias].in_atomic_block else None


@contextlib.contextmanager
def _kept_open(tx: SyncTx | None) -> Iterator[None]:
    if type(tx).__module__.partition(".")[0] != "django":
        yield
        return
    from millhand.db.driver.django_executor import is_kept_open, keep_open  # noqa: PLC0415 - as above

    with contextlib.nullcontext() if is_kept_open(tx) else keep_open(tx):
        yield
