"""
A worker that plays a script, as River's side of these tests does: the args say what an attempt is to do.

    {"do": [["output", 5], ["hold"], ["fail", "boom"]]}

Each act is a verb and what it needs; an attempt without acts left completes. `hold` waits to be released; if it is
cancelled instead, the script goes on behind it, or, if nothing follows, the cancellation does.
"""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import timedelta
from typing import Any

import scripted_steps
from river_program import EventLog
from scripted_steps import ScriptedSteps

from millhand.core.errors import JobCancel, JobSnooze
from millhand.core.job import JobRow
from millhand.core.retry import ConstantRetryPolicy, DefaultRetryPolicy
from millhand.core.worker import Workers
from millhand.core.worker_job import Job

logger = logging.getLogger("interop.script")

Act = list[Any]
_BY_DEFAULT = DefaultRetryPolicy()
# River's side asks the script how long an attempt may take, ours the kind: jobs of kind "brief" say both.
BRIEF = timedelta(seconds=0.05)


class Boom(Exception):
    """The error that a script raises."""


class ScriptedWorkers:
    """The workers of one client. `executed` has its attempts in the order in which they started."""

    def __init__(self, client_id: str, events: EventLog, *, is_quiet: bool, url: str = "") -> None:
        self.executed: list[dict[str, int]] = []
        self._client_id = client_id
        self._held: dict[int, asyncio.Event] = {}
        self._is_quiet = is_quiet
        self._steps = ScriptedSteps(url, self._play, self._record)
        self._events = events

    def workers(self, kinds: tuple[str, ...], aliases: dict[str, list[str]]) -> Workers:
        """Return a registry whose workers run the script of their job."""
        workers = Workers()
        for kind in kinds:
            timeout = BRIEF if kind == "brief" else None
            workers.add(kind=kind, aliases=aliases.get(kind, ()), retry=ScriptedRetry(), timeout=timeout)(
                self
            )
        return workers

    def release(self, id: int) -> None:
        """Continue an attempt that holds."""
        self._held.pop(id).set()

    async def work(self, job: Job[dict[str, Any]]) -> None:
        row = job.row
        self.executed.append({"job": row.id, "attempt": row.attempt, "priority": row.priority})
        if not self._is_quiet:
            self._record("begun", job, attempt=job.attempt, kind=job.kind, args=job.args)
        await self._play(job, job.args["do"])

    async def _play(self, job: Job[dict[str, Any]], acts: list[Act]) -> None:
        for index, (verb, *rest) in enumerate(acts):
            if verb == "hold":
                try:
                    await self._hold(job)
                except asyncio.CancelledError:
                    self._record("context_done", job)
                    if index == len(acts) - 1:
                        raise
            elif verb in scripted_steps.VERBS:
                await self._steps.act(job, verb, rest)
            else:
                self._act(job, verb, [_unescaped(value) for value in rest])

    async def _hold(self, job: Job[dict[str, Any]]) -> None:
        released = self._held[job.id] = asyncio.Event()
        self._record("held", job)
        await released.wait()

    def _act(self, job: Job[dict[str, Any]], verb: str, rest: list[Any]) -> None:
        match verb, rest:
            case ("fail" | "panic", [text]):
                raise Boom(text)
            case ("fail_before", [attempt]):
                if job.attempt < attempt:
                    raise Boom("too early")
            case ("snooze", [seconds]):
                raise JobSnooze(timedelta(seconds=seconds))
            case ("snooze_times", [times, seconds]):
                if job.metadata.get("snoozes", 0) < times:
                    raise JobSnooze(timedelta(seconds=seconds))
            case ("cancel", [text]):
                raise JobCancel(text)
            case ("output", [value]):
                job.record_output(value)
            case ("metadata", [key, value]):
                job.set_metadata(key, value)
            case ("log", [text]):
                logger.info(text)
            case ("timeout" | "retry_in", _):
                pass
            case _:
                raise AssertionError(f"verb must be one that this worker knows, got {verb!r}")

    def _record(self, event: str, job: Job[dict[str, Any]], **fields: object) -> None:
        self._events.record({"event": event, "client": self._client_id, "job": job.id, **fields})


def _unescaped(value: Any) -> Any:
    """Return what no args can hold, U+0000 and half characters, where the inside of a JSON string stands for it."""
    return json.loads(f'"{value["escaped"]}"') if isinstance(value, dict) and "escaped" in value else value


class ScriptedRetry:
    """Retries at the script's time, or else like River."""

    def next_retry_at(self, job: JobRow, *, now: Any) -> Any:
        for verb, *rest in job.args.get("do", ()) if isinstance(job.args, dict) else ():
            if verb == "retry_in":
                return ConstantRetryPolicy(timedelta(seconds=rest[0])).next_retry_at(job, now=now)
        return _BY_DEFAULT.next_retry_at(job, now=now)
