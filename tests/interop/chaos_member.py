"""
A working client of ours in a process of its own, for the load test, which kills it.

    python chaos_member.py URL SETTINGS

SETTINGS is what River's side is told by its operation `chaos`, as JSON. Says "started", and stops when standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from chaos_journal import Journal
from chaos_plan import THREAD_KIND, act_of
from scripted_worker import Boom

from millhand.client import Client
from millhand.config import Config
from millhand.errors import JobCancel, JobSnooze
from millhand.job import Job
from millhand.retry import ConstantRetryPolicy
from millhand.worker import Workers

ChaoticJob = Job[dict[str, Any]]


class ChaosWorker:
    """Works in a thread or on the loop, and writes down when it began and when it ended."""

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
        finally:
            self._note("end", job, act)

    def _begin(self, job: ChaoticJob) -> str:
        act = act_of(job.args, job.attempt, _snoozes(job))
        self._note("begin", job, act)
        return act

    def _note(self, what: str, job: ChaoticJob, act: str) -> None:
        self._journal.note(what, job.id, job.attempt, _snoozes(job), act)

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


def chaos_config(settings: dict[str, Any]) -> Config:
    """Return the twin of what `startChaos` makes in River's program."""
    retry = timedelta(seconds=settings["retry_seconds"])
    worker = ChaosWorker(Journal(Path(settings["journal"])), retry)
    workers = Workers()
    for kind in settings["kinds"]:
        work = worker.work_in_thread if kind == THREAD_KIND else worker.work_on_loop
        workers.add(kind=kind, retry=ConstantRetryPolicy(retry))(work)
    return Config(
        client_id=settings["id"],
        fetch_cooldown=timedelta(milliseconds=10),
        job_timeout=timedelta(seconds=settings["job_timeout_seconds"]),
        lead_last=False,  # so that leaders of both languages sweep
        queues=settings["queues"],
        rescue_stuck_jobs_after=timedelta(seconds=settings["rescue_seconds"]),
        schema=settings["schema"],
        workers=workers,
    )


async def main(url: str, settings: str) -> None:
    logging.disable(logging.CRITICAL)  # that jobs fail is what they are there for
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, ended.set)
    config = chaos_config(json.loads(settings))
    async with Client(url, config):
        print(json.dumps({"event": "started", "client": config.client_id}), flush=True)
        await ended.wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
