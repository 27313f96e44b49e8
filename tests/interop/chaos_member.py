"""
A working Millhand client in its own process, for the load test that kills it.

    python chaos_member.py URL SETTINGS

SETTINGS is the JSON of the operation `chaos` of River's program. Prints "started", and stops when standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "chaos"))  # what is shared with the other load test
from chaos_journal import Journal
from chaos_plan import THREAD_KIND
from chaos_worker import ChaosWorker

from millhand.client import Client
from millhand.core.config import Config, QueueConfig
from millhand.core.limit import Limit
from millhand.core.retry import ConstantRetryPolicy
from millhand.core.worker import Workers


def chaos_config(settings: dict[str, Any]) -> Config:
    """Return the configuration that `startChaos` makes in River's program."""
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
        prefer_other_leaders=False,  # so that leaders of both languages sweep
        heartbeat_interval=None,
        queues={
            name: QueueConfig(max_workers=number, limit=_limit(settings, name))
            for name, number in settings["queues"].items()
        },
        rescue_stuck_jobs_after=timedelta(seconds=settings["rescue_seconds"]),
        schema=settings["schema"],
        workers=workers,
    )


def _limit(settings: dict[str, Any], queue: str) -> Limit | None:
    fields = settings["limits"].get(queue)
    return None if fields is None else Limit.from_json(fields)


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
