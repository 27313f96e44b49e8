"""The worker of the load tests: it does what a job's plan demands and writes a journal."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

from chaos_journal import Journal
from chaos_plan import act_of

from millhand.errors import JobCancel, JobSnooze
from millhand.job import Job

ChaoticJob = Job[dict[str, Any]]


class Boom(Exception):
    """The error that a plan raises."""


class ChaosWorker:
    """Works in a thread or on the loop, and writes the beginning and end of each attempt."""

    def __init__(self, journal: Journal, retry: timedelta) -> None:
        self._journal = journal
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
        return act

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
