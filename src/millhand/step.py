"""
Resumable steps: which parts of a job are done, over all of its attempts.

    river:resumable_step     the last step that is done; a later attempt leaves out all steps up to it
    river:resumable_cursor   step → how far it came, of steps that were left half-way

Rule 1: steps come one after the other, each under a name of its own. After one that failed none is begun, and whatever
        the worker does then, its attempt fails.
Rule 2: progress is stored with the outcome of an attempt that does not succeed: an error, a snooze, an interruption.
Rule 3: an attempt that never came to where an earlier one had left off has not done the job, and fails.
Rule 4: a checkpoint belongs to the transaction that it was made in, and goes with its rollback; from then on only what
        came after it is stored with the outcome.

Source: River v0.51.2, resumable.go, resumable_step_tx.go, internal/riverplugin/plugin.go `ResumableMiddleware`.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import NoReturn, cast

from millhand.errors import InvalidStep
from millhand.json_value import Json, checked_json

STEP_KEY = "river:resumable_step"
CURSOR_KEY = "river:resumable_cursor"

# What PostgreSQL cannot store would be replaced, and the name never be met again.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class Steps:
    """
    The progress of one attempt, on top of what earlier ones have stored in a job's `metadata`.

    Raises: InvalidStep if what is stored cannot be progress.
    Concurrency: belongs to one attempt, wherever that runs; steps that overlap are refused.
    """

    __slots__ = (
        "_completed",
        "_cursors",
        "_error",
        "_failed",
        "_is_changed",
        "_is_met",
        "_is_over",
        "_left",
        "_names",
        "_resumed",
        "active",
    )

    def __init__(self, metadata: Mapping[str, Json]) -> None:
        resumed, cursors = metadata.get(STEP_KEY), metadata.get(CURSOR_KEY)
        if isinstance(cursors, list):
            raise InvalidStep(
                f"stored cursors of a job must be an object, got {cursors!r}; make {CURSOR_KEY} null in its metadata"
            )
        self._completed: str | None = None  # the last step that was completed or met, and is not stored yet
        self._cursors: dict[str, Json] = dict(cursors) if isinstance(cursors, dict) else {}
        self._error: BaseException | None = None
        self._failed = ""  # the step that raised it
        self._is_changed = False  # whether the cursors are not as they are stored
        self._is_over = False
        self._names: set[str] = set()
        self._resumed = resumed if isinstance(resumed, str) else ""
        self._is_met = not self._resumed
        # Cursors without a step that is done: none of their steps may be missed. Beside one they may be old ones.
        self._left = sorted(self._cursors) if self._is_met else []
        self.active: str | None = None

    @contextlib.contextmanager
    def running(self, name: str, *, has_cursor: bool = False) -> Iterator[bool]:
        """Run what is inside as a step: yields whether it is to be run, or was by an earlier attempt."""
        if not self._begin(name, has_cursor=has_cursor):
            yield False
            return
        try:
            yield True
        except BaseException as error:
            self._error, self._failed = error, name
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
        """Return how far a step came; None if it has not begun."""
        return self._cursors.get(name)

    def set_cursor(self, name: str, value: Json) -> None:
        """Remember how far the step that runs has come."""
        self._cursors[name] = self.checked_cursor(name, value)
        self._is_changed = True

    def checked_cursor(self, name: str, value: Json) -> Json:
        """Return a copy of the cursor of the step that runs. Raises: InvalidStep, ValueError."""
        if self.active != name:
            raise InvalidStep(
                f"cursor of a resumable step must be used within it, got that of {name!r}, which is over",
                name,
            )
        return checked_json(f"cursor of step {name!r}", value)

    def checkpoint(self, cursors: Mapping[str, Json]) -> dict[str, Json]:
        """Return what is to be stored in a transaction now: the step that runs as done, and all cursors, these too."""
        if self.active is None:
            raise InvalidStep(
                "checkpoint must be made within a resumable step, got none that runs; "
                "make it in the function that job.step calls"
            )
        if self._left:
            raise InvalidStep(
                "checkpoint must come after the step that an earlier attempt has left half-way, "
                f"got step {self.active!r} before {self._left[0]!r}",
                self.active,
            )
        return {STEP_KEY: self.active, CURSOR_KEY: {**self._cursors, **cursors} or None}

    def record_checkpoint(self, metadata: Mapping[str, Json]) -> None:
        """Leave what was written to its transaction."""
        self._completed = None
        self._cursors = dict(metadata[CURSOR_KEY] or {})
        self._is_changed = False

    def end(self, error: BaseException | None) -> tuple[BaseException | None, dict[str, Json]]:
        """Return how the attempt ended, and what is to be stored of its progress; the first time that is asked."""
        if self._is_over:
            return error, {}
        self._is_over = True
        ended_with = error or self._failure() or self._missed()
        self._error = None  # an error knows its frames, which know the job
        return ended_with, {} if ended_with is None else self._updates()

    def _begin(self, name: str, *, has_cursor: bool) -> bool:
        failure = self._failure()
        if failure is not None:
            raise failure
        _check_name(name)
        if self.active is not None:
            self._fail(
                f"resumable step must not begin within another, got {name!r} within {self.active!r}; "
                "end one before the next, and await each",
                name,
            )
        if name in self._names:
            self._fail(f"resumable step must have a name of its own, got {name!r} again", name)
        self._names.add(name)
        if name in self._left:
            if not has_cursor:
                self._fail(
                    f"resumable step {name!r} must have a cursor, for an earlier attempt has left one, "
                    "got a step without; use job.step_cursor",
                    name,
                )
            self._left.remove(name)
        if not self._is_met:
            if name != self._resumed:
                return False
            self._completed, self._is_met = name, True
            if not (has_cursor and name in self._cursors):
                return False
        self.active = name
        return True

    def _fail(self, words: str, name: str) -> NoReturn:
        self._error = InvalidStep(words, name)
        raise self._error

    def _failure(self) -> Exception | None:
        """Return what a step has failed of; a cancellation of it, which the worker has caught, in words of ours."""
        if self._error is None or isinstance(self._error, Exception):
            return self._error
        failure = InvalidStep(
            f"resumable step {self._failed!r} must be done before anything after it, got it cancelled and not raised "
            "again",
            self._failed,
        )
        failure.__cause__ = self._error
        return failure

    def _missed(self) -> InvalidStep | None:
        name = self._resumed if not self._is_met else self._left[0] if self._left else None
        if name is None:
            return None
        return InvalidStep(
            f"resumable step {name!r} must be in the worker, where an earlier attempt has left off, "
            "got a worker that never came to it; keep the names of steps while jobs are under way",
            name,
        )

    def _updates(self) -> dict[str, Json]:
        if self._left:  # to go on from here would leave them out for ever
            return {}
        updates: dict[str, Json] = {}
        if self._is_changed:
            updates[CURSOR_KEY] = dict(self._cursors) or None
        if self._completed is not None:
            updates[STEP_KEY] = self._completed
        return updates


class Cursor:
    """
    How far a step has come, in its own terms: any JSON value, such as the last id that was done.

    Concurrency: belongs to its step; of no use when that is over.
    """

    __slots__ = ("_name", "_save", "_steps")

    def __init__(
        self, steps: Steps, name: str, save: Callable[[Mapping[str, Json], object], Awaitable[None]]
    ) -> None:
        self._name = name
        self._save = save
        self._steps = steps

    def __repr__(self) -> str:
        return f"Cursor(step={self._name!r}, value={self.value!r})"

    @property
    def value(self) -> Json:
        """What was set last, by this attempt or an earlier one; None if nothing was."""
        return self._steps.cursor(self._name)

    def set(self, value: Json) -> None:
        """
        Set how far the step has come. It is stored when the attempt ends, unless the step is done by then.

        Raises: ValueError if it does not encode to JSON; InvalidStep when the step is over.
        """
        self._steps.set_cursor(self._name, value)

    async def checkpoint(self, value: Json, *, tx: object) -> None:
        """
        Set how far the step has come, and store it in `tx`, a connection of yours, together with what you did there.

        Raises: as `set` and `Job.checkpoint`.
        Source: River v0.51.2, resumable_step_tx.go `ResumableSetStepCursorTx`.
        """
        await self._save({self._name: self._steps.checked_cursor(self._name, value)}, tx)


def has_progress(metadata: Mapping[str, Json]) -> bool:
    """Whether an earlier attempt has stored progress there."""
    return STEP_KEY in metadata or CURSOR_KEY in metadata


def require_awaitable(name: str, returned: object) -> Awaitable[None]:
    """Return what a step's function returned, if that can be awaited. Raises: InvalidStep."""
    if inspect.isawaitable(returned):
        return cast("Awaitable[None]", returned)
    raise InvalidStep(
        f"resumable step {name!r} must be a coroutine function, got a plain one; "
        "in a worker that is a plain function call job.step_sync",
        name,
    )


def require_not_coroutine(name: str, returned: object) -> None:
    """Check that a step's function has done its work when it returned. Raises: InvalidStep."""
    if inspect.iscoroutine(returned):
        returned.close()
        raise InvalidStep(
            f"resumable step {name!r} must be a plain function, got a coroutine function; "
            "in a worker that is a coroutine function await job.step",
            name,
        )


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name or _UNSTORABLE.search(name):
        raise InvalidStep(f"name of a resumable step must be a text that PostgreSQL can store, got {name!r}")
