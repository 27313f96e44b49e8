"""
Resumable steps: the parts of a job that are completed, over all of its attempts.

    river:resumable_step     the last completed step; a later attempt skips all steps up to it
    river:resumable_cursor   for each unfinished step, the cursor that it stored

Rule 1: steps run one after the other, each with a unique name. After a failed step no other begins, and the attempt
        fails, even if the worker catches the error.
Rule 2: progress is stored with the outcome, unless the attempt succeeds.
Rule 3: an attempt fails if it never calls the step at which it should resume.
Rule 4: a checkpoint is written in your transaction, and rolled back with it. After it, only later progress is stored with
        the outcome.

Source: River v0.51.2, resumable.go, resumable_step_tx.go, internal/riverplugin/plugin.go `ResumableMiddleware`.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NoReturn, cast

from millhand.core.errors import InvalidStep
from millhand.core.json_value import UNSTORABLE, Json, checked_json

if TYPE_CHECKING:
    from millhand.core.tx_types import Tx

STEP_KEY = "river:resumable_step"
CURSOR_KEY = "river:resumable_cursor"


class Steps:
    """
    The progress of one attempt, after the progress that earlier attempts stored in the job's `metadata`.

    Raises: InvalidStep if the stored progress is invalid.
    Concurrency: belongs to one attempt, on the event loop or in a thread; overlapping steps raise.
    """

    def __init__(self, metadata: Mapping[str, Json]) -> None:
        resumed, cursors = metadata.get(STEP_KEY), metadata.get(CURSOR_KEY)
        if isinstance(cursors, list):
            raise InvalidStep(
                f"stored cursors of a job must be an object, got {cursors!r}; make {CURSOR_KEY} null in its metadata"
            )
        self._completed: str | None = None  # the last completed step, if it is not stored yet
        self._cursors: dict[str, Json] = dict(cursors) if isinstance(cursors, dict) else {}
        self._error: BaseException | None = None
        self._failed_step = ""  # the step that raised `_error`
        self._is_changed = False  # whether the cursors differ from the stored ones
        self._has_ended = False
        self._begun_names: set[str] = set()
        self._resume_step = resumed if isinstance(resumed, str) else ""
        self._is_resumed = not self._resume_step  # whether the step to resume at was reached
        # These must run. If a step is completed, a stored cursor may be that of an older step.
        self._unfinished = sorted(self._cursors) if self._is_resumed else []
        self.active: str | None = None

    @contextlib.contextmanager
    def running(self, name: str, *, has_cursor: bool = False) -> Iterator[bool]:
        """Run the block as a step. Yields False if an earlier attempt has completed the step."""
        if not self._begin(name, has_cursor=has_cursor):
            yield False
            return
        try:
            yield True
        except BaseException as error:
            self._error, self._failed_step = error, name
            raise
        finally:
            self.active = None
        if self._error is not None:  # of a step that began within this one
            raise self._error
        self._completed = name
        if has_cursor and name in self._cursors:
            del self._cursors[name]
            self._is_changed = True

    def cursor(self, name: str) -> Json:
        """Return the cursor of a step; None if it has not set one."""
        return self._cursors.get(name)

    def set_cursor(self, name: str, value: Json) -> None:
        """Set the cursor of the current step. Raises: InvalidStep, ValueError."""
        self._cursors[name] = self.checked_cursor(name, value)
        self._is_changed = True

    def checked_cursor(self, name: str, value: Json) -> Json:
        """Return a copy of `value` as a cursor of the current step. Raises: InvalidStep, ValueError."""
        if self.active != name:
            raise InvalidStep(
                f"cursor of a resumable step must be used within it, got that of {name!r} after its end", name
            )
        return checked_json(f"cursor of step {name!r}", value)

    def checkpoint(self, cursors: Mapping[str, Json]) -> dict[str, Json]:
        """Return the metadata of a checkpoint. It stores the current step as completed, and `cursors` with the others."""
        if self.active is None:
            raise InvalidStep(
                "checkpoint must be made within a resumable step, got one outside; "
                "make it in the function that job.step calls"
            )
        if self._unfinished:
            raise InvalidStep(
                "checkpoint must come after the step that an earlier attempt left unfinished, "
                f"got step {self.active!r} before {self._unfinished[0]!r}",
                self.active,
            )
        return {STEP_KEY: self.active, CURSOR_KEY: {**self._cursors, **cursors} or None}

    def record_checkpoint(self, metadata: Mapping[str, Json]) -> None:
        """Record that `metadata` was written, so that it is not stored again with the outcome."""
        self._completed = None
        self._cursors = dict(metadata[CURSOR_KEY] or {})
        self._is_changed = False

    def end(self, error: BaseException | None) -> tuple[BaseException | None, dict[str, Json]]:
        """Return the error of the attempt, and the metadata to store. A second call returns no metadata."""
        if self._has_ended:
            return error, {}
        self._has_ended = True
        attempt_error = error or self._failure() or self._skipped_step()
        self._error = None  # its traceback refers to the job, which refers to this object
        return attempt_error, {} if attempt_error is None else self._updates()

    def _begin(self, name: str, *, has_cursor: bool) -> bool:
        failure = self._failure()
        if failure is not None:
            raise failure
        if not isinstance(name, str) or not name or UNSTORABLE.search(name):
            # It would be replaced, and the stored name would match no step.
            raise InvalidStep(
                f"name of a resumable step must be a text that PostgreSQL can store, got {name!r}"
            )
        if self.active is not None:
            self._fail(
                f"resumable step must not begin within another, got {name!r} within {self.active!r}; "
                "end one before the next, and await each",
                name,
            )
        if name in self._begun_names:
            self._fail(f"resumable step must have a name of its own, got {name!r} again", name)
        self._begun_names.add(name)
        if name in self._unfinished:
            if not has_cursor:
                self._fail(
                    f"resumable step {name!r} must have a cursor, because an earlier attempt stored one, "
                    "got a step without one; call job.step_cursor",
                    name,
                )
            self._unfinished.remove(name)
        if not self._is_resumed:
            if name != self._resume_step:
                return False
            self._completed, self._is_resumed = name, True
            # With a stored cursor, a checkpoint within the step stored it as completed, so it runs again.
            if not (has_cursor and name in self._cursors):
                return False
        self.active = name
        return True

    def _fail(self, message: str, name: str) -> NoReturn:
        self._error = InvalidStep(message, name)
        raise self._error

    def _failure(self) -> Exception | None:
        """Return the error of a failed step, or an InvalidStep if the worker caught a step's cancellation."""
        if self._error is None or isinstance(self._error, Exception):
            return self._error
        failure = InvalidStep(
            f"cancellation of resumable step {self._failed_step!r} must be raised again, got a worker that caught it",
            self._failed_step,
        )
        failure.__cause__ = self._error
        return failure

    def _skipped_step(self) -> InvalidStep | None:
        name: str | None = self._resume_step
        if self._is_resumed:
            name = self._unfinished[0] if self._unfinished else None
        if name is None:
            return None
        return InvalidStep(
            f"resumable step {name!r} must be called again, because an earlier attempt stopped there, "
            "got a worker that never called it; do not rename steps while jobs use them",
            name,
        )

    def _updates(self) -> dict[str, Json]:
        if self._unfinished:  # a later attempt would skip them
            return {}
        updates: dict[str, Json] = {}
        if self._is_changed:
            updates[CURSOR_KEY] = dict(self._cursors) or None
        if self._completed is not None:
            updates[STEP_KEY] = self._completed
        return updates


class Cursor:
    """
    How far a resumable step has come: any JSON value, such as the last id that it has processed.

    It can be used only within its step.
    """

    __slots__ = ("_name", "_save", "_steps")

    def __init__(
        self, steps: Steps, name: str, save: Callable[[Mapping[str, Json], Tx], Awaitable[None]]
    ) -> None:
        self._name = name
        self._save = save
        self._steps = steps

    def __repr__(self) -> str:
        return f"Cursor(step={self._name!r}, value={self.value!r})"

    @property
    def value(self) -> Json:
        """The last value set, by this attempt or an earlier one; None if there is none."""
        return self._steps.cursor(self._name)

    def set(self, value: Json) -> None:
        """
        Set how far the step has come. It is stored when the attempt ends, unless the step has completed.

        Raises: ValueError if it does not encode to JSON; InvalidStep after the step.
        """
        self._steps.set_cursor(self._name, value)

    async def checkpoint(self, value: Json, *, tx: Tx) -> None:
        """
        Set how far the step has come, and store it through your connection `tx`, together with the step's work.

        Raises: as `set` and `Job.checkpoint`.
        Source: River v0.51.2, resumable_step_tx.go `ResumableSetStepCursorTx`.
        """
        await self._save({self._name: self._steps.checked_cursor(self._name, value)}, tx)


def has_progress(metadata: Mapping[str, Json]) -> bool:
    """Return whether an earlier attempt has stored progress in a job's metadata."""
    return STEP_KEY in metadata or CURSOR_KEY in metadata


def require_awaitable(name: str, returned: object) -> Awaitable[None]:
    """Return what a step's function returned. Raises: InvalidStep if it cannot be awaited."""
    if inspect.isawaitable(returned):
        return cast("Awaitable[None]", returned)
    raise InvalidStep(
        f"resumable step {name!r} must be a coroutine function, got a plain one; "
        "in a worker that is a plain function, call job.step_sync",
        name,
    )


def require_not_coroutine(name: str, returned: object) -> None:
    """Raise InvalidStep if what a plain step's function returned is a coroutine."""
    if inspect.iscoroutine(returned):
        returned.close()
        raise InvalidStep(
            f"resumable step {name!r} must be a plain function, got a coroutine function; "
            "in a worker that is a coroutine function, await job.step",
            name,
        )
