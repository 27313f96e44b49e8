"""The worker of the load tests: it does what a job's plan demands and writes a journal."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from chaos_journal import Journal
from chaos_plan import act_of

from millhand.client import Client
from millhand.core.errors import JobCancel, JobSnooze
from millhand.core.event import EventKind, JobEvent
from millhand.core.worker_job import Job
from millhand.engine.subscription import Subscription

ChaoticJob = Job[dict[str, Any]]
NUM_EVENTS_MAX = 100_000
SINCE = datetime(1970, 1, 1, tzinfo=UTC)
STORED = (
    EventKind.JOB_CANCELLED,
    EventKind.JOB_COMPLETED,
    EventKind.JOB_FAILED,
    EventKind.JOB_INTERRUPTED,
    EventKind.JOB_SNOOZED,
)


class Boom(Exception):
    """The error that a plan raises."""


class ChaosWorker:
    """
    Works in a thread or on the loop, and writes the beginning and end of each attempt.

    With `notes_stored`, it also writes when its client has stored an outcome.
    """

    def __init__(self, journal: Journal, retry: timedelta, *, notes_stored: bool = False) -> None:
        self._journal = journal
        self._notes_stored = notes_stored
        self._noting: asyncio.Task[None] | None = None
        self._retry = retry

    def work_in_thread(self, job: ChaoticJob) -> None:
        act = self._begin(job)
        try:
            time.sleep(job.args["work_ms"] / 1000)
            self._end(act)
        finally:
            self._note("end", job, act)

    async def work_on_loop(self, job: ChaoticJob) -> None:
        act = self._begin(job)
        try:
            if act == "hold":
                await asyncio.Event().wait()
            await asyncio.sleep(job.args["work_ms"] / 1000)
            self._end(act)
        except asyncio.CancelledError:
            act = "give_way"
            raise
        finally:
            self._note("end", job, act)

    def _begin(self, job: ChaoticJob) -> str:
        act = act_of(job.args, job.attempt, _snoozes(job))
        self._note("begin", job, act)
        client = job.client
        if self._notes_stored and self._noting is None and client is not None:
            # The loop runs this before it can handle the end of the attempt.
            client.loop.call_soon_threadsafe(self._note_stored, client)
        return act

    def _note_stored(self, client: Client) -> None:
        """Subscribe to the events of stored outcomes, once."""
        if self._noting is None:
            events = client.subscribe(*STORED, buffer_size=NUM_EVENTS_MAX)
            self._noting = asyncio.get_running_loop().create_task(self._note_events(events))

    async def _note_events(self, events: Subscription[JobEvent]) -> None:
        async for event in events:
            row = event.job
            if row.attempted_at is None or (row.errors and "Rescuer" in row.errors[-1].error):
                continue  # the job was rescued, and this outcome changed nothing
            token = (row.attempted_at - SINCE) // timedelta(microseconds=1)
            self._journal.note("stored", row.id, row.attempt, 0, event.kind.value, token)

    def _note(self, what: str, job: ChaoticJob, act: str) -> None:
        self._journal.note(what, job.id, job.attempt, _snoozes(job), act, job.fencing_token)

    def _end(self, act: str) -> None:
        match act:
            case "fail" | "panic":
                raise Boom("boom")
            case "snooze":
                raise JobSnooze(self._retry)
            case "cancel":
                raise JobCancel("enough")


def _snoozes(job: ChaoticJob) -> int:
    """Return how often the job was snoozed before this attempt."""
    snoozes: int = job.metadata.get("snoozes", 0)
    return snoozes
