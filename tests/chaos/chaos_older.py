"""
The settings of a worker of the last release: `millhand worker chaos_older:config`.

That release knows no limits, flows and kept schedules, so its worker works two queues without them.
It can lead: then limits, flows and schedules wait until a worker of this release leads.
"""

from __future__ import annotations

import os
from pathlib import Path

from chaos_base import MAX_WORKERS, PERIODIC_JOB, SteppedClock, chaos_workers
from chaos_plan import KINDS, QUEUES, RETRIED_KIND

from millhand.core.config import Config


def config() -> Config:
    """Return the settings of this process."""
    return Config(
        clock=SteppedClock(Path(os.environ["CHAOS_CLOCK"])),
        heartbeat_interval=None,
        periodic_jobs=[PERIODIC_JOB],
        queues=dict.fromkeys(QUEUES[1:], MAX_WORKERS),
        workers=chaos_workers(Path(os.environ["CHAOS_JOURNAL"]), (*KINDS, RETRIED_KIND), notes_stored=False),
    )
