"""
The exceptions that Millhand raises.

A message has the subject, the rule, the value that breaks it, and the remedy. Each of these is an attribute too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import ClassVar

UNIQUE_CONSTRAINT = "river_job_unique_idx"
NUM_IDS_NAMED = 10  # of an error's message
CHARACTERS_SHOWN = 20  # before and after one that is invalid
# PostgreSQL's codes for: no such table, column, type, function or schema.
_MISSING = frozenset({"42P01", "42703", "42704", "42883", "3F000"})
_OWN_OBJECT = re.compile(r"for (?:schema |(?:table|sequence|function) (?:river|millhand)_)")


class PicklableError(Exception):
    """An exception that can be copied and pickled although `__init__` takes other parameters than the message."""

    def __init_subclass__(cls) -> None:
        # Logs, pickles and tracebacks name an error as users import it.
        if cls.__module__ == __name__:
            cls.__module__ = "millhand"

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (type(self), self.args), vars(self)


class MillhandError(PicklableError):
    """The base class of all errors of this package."""


class ConfigError(MillhandError, ValueError):
    """A setting or a use of the API is invalid. Settings are checked when the configuration is made."""


class InvalidJob(MillhandError, ValueError):
    """Args or insert options break a rule of River's tables. Nothing was inserted."""


class InvalidBlob(MillhandError, ValueError):
    """Bytes that no blob can have, a key that no put made, or an object with other bytes than those that were put."""


class InvalidSecret(InvalidJob):
    """A secret cannot be written, encrypted or decrypted, as without its key, or after a change. Never shows the value."""


class InvalidWhere(MillhandError, ValueError):
    """PostgreSQL rejected a condition in SQL; `sql`, `reason` and `sqlstate` say which and why."""

    def __init__(self, sql: str, reason: str, sqlstate: str | None = None) -> None:
        remedy = "; a text is compared with texts, as in state::text = @state" if sqlstate == "42883" else ""
        super().__init__(f"where must be a condition that PostgreSQL takes, got {reason} in {sql!r}{remedy}")
        self.sql = sql
        self.reason = reason
        self.sqlstate = sqlstate


class InvalidStep(MillhandError, ValueError):
    """A resumable step was used wrongly or skipped. `step` is its name, or None if the name is invalid."""

    def __init__(self, message: str, step: str | None = None) -> None:
        super().__init__(message)
        self.step = step


class NotFound(MillhandError):
    """No row has the id or the name."""

    def __init__(self, subject: str, key: int | str) -> None:
        super().__init__(
            f"{subject} must exist, found none with {'id' if isinstance(key, int) else 'name'} {key!r}"
        )
        self.subject = subject
        self.key = key


class JobRunning(MillhandError):
    """The job is running, and a running job cannot be deleted."""

    def __init__(self, id: int) -> None:
        super().__init__(f"job must not be running to be deleted, got job {id} running; cancel it first")
        self.id = id


class JobNotWaiting(MillhandError):
    """The job does not wait for its time or for a fetch, so it cannot be snoozed."""

    def __init__(self, id: int, state: str) -> None:
        super().__init__(
            f"job must be available, scheduled, retryable or waiting for a slot to be snoozed, got job {id} {state}"
        )
        self.id = id
        self.state = state


class JobNotDiscarded(MillhandError):
    """The job of a dead letter was retried by other means, so its dead letter cannot be retried."""

    def __init__(self, id: int, state: str) -> None:
        super().__init__(
            f"job must be discarded or deleted to be retried from its dead letter, got job {id} {state}; "
            f"to run it again, use client.jobs.retry({id})"
        )
        self.id = id
        self.state = state


class JobNotRunning(MillhandError):
    """The attempt no longer runs, because its job was rescued, retried or finalized meanwhile. Nothing was written."""

    def __init__(
        self, id: int, attempt: int, state: str, *, remedy: str = "roll your transaction back"
    ) -> None:
        super().__init__(
            f"attempt must be running to write its job, got attempt {attempt} of job {id}, which is {state}; {remedy}"
        )
        self.id = id
        self.attempt = attempt
        self.state = state


class FlowCancelled(MillhandError):
    """The flow of a running job is cancelled, so the job adds no tasks to it. Nothing was inserted."""

    def __init__(self, id: int) -> None:
        super().__init__(
            f"flow must not be cancelled while a job adds tasks, got flow {id} cancelled; return, or raise JobCancel"
        )
        self.id = id


class JobEnded(MillhandError):
    """
    A job that a caller awaited did not complete. The base class of `JobFailed` and `JobCancelled`.

    `last_error` is the text of the job's last error, and None if it has none.
    """

    _end: ClassVar[str] = "ended"

    def __init__(self, id: int, kind: str, *, num_attempts: int, error: str | None) -> None:
        attempts = "1 attempt" if num_attempts == 1 else f"{num_attempts} attempts"
        reason = "" if error is None else f": {error}"
        super().__init__(f"job {id} of kind {kind!r} must complete, got {self._end} after {attempts}{reason}")
        self.id = id
        self.kind = kind
        self.num_attempts = num_attempts
        self.last_error = error


class JobFailed(JobEnded):
    """A job that a caller awaited was discarded: its last attempt failed."""

    _end = "discarded"


class JobCancelled(JobEnded):
    """A job that a caller awaited was cancelled."""

    _end = "cancelled"


class JobNotEnded(MillhandError):
    """The job still waits or runs, so it has no result yet."""

    def __init__(self, id: int, state: str) -> None:
        super().__init__(
            f"job must have ended to have a result, got job {id} {state}; await client.jobs.wait({id}, timeout=…)"
        )
        self.id = id


class WaitTimeout(MillhandError, TimeoutError):
    """Awaited jobs did not end in time. They continue. `ids` are theirs."""

    def __init__(
        self, ids: Sequence[int], seconds: float, num_awaited: int, *, in_transaction: bool = False
    ) -> None:
        is_one = num_awaited == 1
        if is_one:
            text = f"job {ids[0]} must end within {seconds:g} s, got no end; "
        else:
            named = ", ".join(map(str, ids[:NUM_IDS_NAMED])) + (", …" if len(ids) > NUM_IDS_NAMED else "")
            text = f"jobs must end within {seconds:g} s, got no end of {len(ids):,} of {num_awaited:,}: {named}; "
        if in_transaction:
            text += "your transaction is open, and no worker sees what it inserts, so commit and then look again with "
        else:
            text += f"{'it continues' if is_one else 'they continue'}, so look again with "
        text += f"client.jobs.{f'wait({ids[0]}' if is_one else 'wait_many(error.ids'}, timeout=…)"
        super().__init__(text)
        self.ids = tuple(ids)
        self.seconds = seconds


class TooManyWaits(MillhandError):
    """A client awaits as many jobs as it may. Nothing was inserted."""

    def __init__(self, num_max: int) -> None:
        super().__init__(
            f"a client must await at most {num_max:,} jobs at once, got more; wait in fewer tasks"
        )
        self.num_max = num_max


class InvalidOutput(MillhandError, ValueError):
    """A job has no output, or one that does not decode as the type that the caller expects."""


class UniqueConflict(MillhandError):
    """Another job holds the unique key that this change needs. `id` is None for a job of a bulk insert."""

    def __init__(self, id: int | None, constraint: str = UNIQUE_CONSTRAINT) -> None:
        what, remedy = ("a job", "; insert_many skips duplicates") if id is None else (f"job {id}", "")
        super().__init__(
            f"unique key must be free, got {what} in conflict with another job ({constraint}){remedy}"
        )
        self.id = id
        self.constraint = constraint


class UnknownKind(MillhandError):
    """No worker is registered for a kind."""

    def __init__(self, kind: str, known_kinds: Collection[str]) -> None:
        known = ", ".join(map(repr, sorted(known_kinds))) or "none"
        super().__init__(f"no worker is registered for kind {kind!r}; known kinds: {known}")
        self.kind = kind
        self.known_kinds = tuple(sorted(known_kinds))


class SchemaError(MillhandError):
    """The database's schema does not have the version that this release needs; `missing` lists the missing ones."""

    def __init__(
        self,
        schema: str,
        *,
        expected: int,
        found: int | None,
        line: str = "main",
        missing: Sequence[int] = (),
    ) -> None:
        option = f" --schema {schema}" if schema not in ("", "public") else ""
        name = repr(schema or "of the search path")
        if found is None and line == "main":
            fault = f"Millhand's tables are missing in schema {name} (this release needs version {expected} of line main)"
        else:
            state = _schema_state(found, expected, missing)
            fault = f"schema {name} {state} of line {line!r}, this release needs {expected}"
        super().__init__(f"{fault}; run: millhand migrate up{option}")
        self.schema = schema
        self.expected = expected
        self.found = found
        self.line = line
        self.missing = tuple(missing)


class MigrationError(MillhandError):
    """A migration failed. The schema is as it was before the failed step."""


class OperationTimeout(MillhandError, TimeoutError):
    """
    An operation did not answer within its deadline.

    `is_away` is True if the log has reported an outage, or the event loop was blocked.
    """

    is_away = False

    def __init__(self, operation: str, seconds: float) -> None:
        super().__init__(f"{operation} must answer within {seconds:g} s, got no answer")
        self.operation = operation
        self.seconds = seconds


class DriverError(MillhandError):
    """
    The database rejected an operation. The driver's own error is the cause.

    `retryable` is True if the same operation may succeed later. `sqlstate` and `constraint` are PostgreSQL's.
    """

    def __init__(
        self,
        operation: str,
        reason: str,
        *,
        retryable: bool = False,
        sqlstate: str | None = None,
        constraint: str | None = None,
    ) -> None:
        # A statement of Millhand's has a name; the operation of an application's statement is its text.
        needs_grants = sqlstate == "42501" and operation.isidentifier() and _OWN_OBJECT.search(reason)
        remedy = "; grant the rights that `millhand migrate sql --grants` prints" if needs_grants else ""
        super().__init__(f"{operation} must succeed, got {reason}{remedy}")
        self.operation = operation
        self.reason = reason
        self.retryable = retryable
        self.sqlstate = sqlstate
        self.constraint = constraint

    @property
    def is_missing(self) -> bool:
        """Whether the database lacks something that the operation names, as between a migration down and up."""
        return self.sqlstate in _MISSING


class InvalidText(DriverError, ValueError):
    """
    A text, such as a name or a filter, has a character that PostgreSQL cannot store. Nothing was written.

    `subject` is the parameter of the operation.
    """

    def __init__(self, operation: str, subject: str, text: str, at: int) -> None:
        what = "the character U+0000" if text[at] == "\x00" else "half a surrogate pair"
        near = text[max(0, at - CHARACTERS_SHOWN) : at + CHARACTERS_SHOWN]
        super().__init__(operation, f"{what} in {subject}", sqlstate="22021")
        rule = f"must not hold {what}, which PostgreSQL cannot store"
        self.args = (f"{subject} of {operation} {rule}, got {near!r} at {at}; leave it out",)
        self.subject = subject


# PostgreSQL's codes for a write in a read-only transaction, and, as a lost connection, for an unlogged table of a standby.
READ_ONLY = "25006"
UNLOGGED = "0A000"


class ConnectionLost(DriverError):
    """
    The connection broke, could not be made, or reached a server that accepts no writes.

    The operation may or may not have happened. `is_away` is True if the log has reported an outage.
    """

    is_away = False

    def __init__(self, operation: str, reason: str, *, sqlstate: str | None = None) -> None:
        super().__init__(operation, reason, retryable=True, sqlstate=sqlstate)

    @property
    def is_read_only(self) -> bool:
        """Whether the server answered as a standby does, which accepts no writes: then nothing was written."""
        return self.sqlstate in (READ_ONLY, UNLOGGED)


class PoolClosed(DriverError):
    """The pool was closed by its owner while Millhand needed it."""


class NotStarted(ConfigError, PoolClosed):
    """A client, or a driver, was used before its start or after its stop."""

    def __init__(self, *, is_sync: bool = False) -> None:
        DriverError.__init__(self, "connect", "a client that is not started")
        ways = (
            "`with SyncClient(…) as client` or `client.start()`"
            if is_sync
            else "`async with Client(…) as client` or `await client.start()`"
        )
        self.args = (f"client must be started before it is used, got one that is not; write {ways}",)

    @classmethod
    def by_stop(cls, id: int) -> NotStarted:
        """Return the error of a wait for a job that the stop of its client ended."""
        error = cls()
        text = f"client must run until job {id} ends, got a stop of the client; the job continues, so look again with "
        error.args = (f"{text}client.jobs.wait({id}, timeout=…) of another client",)
        return error


class JobTimeout(MillhandError, TimeoutError):
    """An attempt ran longer than its worker's timeout."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"attempt must end within {seconds:g} s, got its timeout")
        self.seconds = seconds


class AttemptCancelled(BaseException):
    """
    `Job.check_cancel_requested` raises it in a plain function whose attempt was cancelled.

    Like `asyncio.CancelledError`, it is no `Exception`, so that `except Exception` does not catch it.
    """

    __module__ = "millhand"


class JobSignal(PicklableError):
    """The base class of what a worker raises to end its attempt in another way than success or failure; not an error."""


class JobCancel(JobSignal):
    """Cancels the job for good. `reason`, a text or an exception, is kept in the job's errors."""

    def __init__(self, reason: str | BaseException | None = None) -> None:
        super().__init__("" if reason is None else str(reason))
        self.reason = reason


class JobSnooze(JobSignal):
    """
    Runs the job again after `delay`, without counting the attempt.

    With `hold_partition`, no other job of its partition starts until then. Use it when an API rejects the calls of one
    tenant for a while. It has no effect if the job's queue has no limit. Raises: ValueError for a negative delay.
    """

    def __init__(self, delay: timedelta, *, hold_partition: bool = False) -> None:
        if delay < timedelta(0):
            raise ValueError(f"snooze delay must not be negative, got {delay!r}")
        super().__init__(f"snoozed for {delay.total_seconds():g} s")
        self.delay = delay
        self.hold_partition = hold_partition


def _restore(cls: type[PicklableError], args: tuple[object, ...]) -> PicklableError:
    error = cls.__new__(cls)
    error.args = args
    return error


def _schema_state(found: int | None, expected: int, missing: Sequence[int]) -> str:
    if found is None:
        return "has no migrations"
    if found < expected or not missing:
        return f"is at migration {found}"
    return f"lacks migration {', '.join(map(str, missing))}"


def error_type(error: BaseException) -> str:
    """Return the qualified name of the error's class, without `builtins`."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
