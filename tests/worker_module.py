"""A user's module with configurations, for the tests of `millhand worker`."""

from __future__ import annotations

WORKER_MODULE = """
from datetime import timedelta

from millhand import Config, RawArgs, Workers, every
workers = Workers()

@workers.add(kind="noop")
async def noop() -> None: ...

config = Config(workers=workers, queues={"default": 10})
def make(): return config
def fail(): raise LookupError("no settings")
def other(): return 3
idle = Config()
queueless = Config(workers=workers)
daily = every(timedelta(1), RawArgs("nop", "{}"), id="daily")
periodic = Config(workers=workers, queues={"default": 10}, periodic_jobs=[daily])
number = 3
"""
