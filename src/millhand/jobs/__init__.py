"""
Jobs that most applications need. They use only the public API.

    workers = Workers()
    periodic_jobs = [add_orphan_cleanup(workers, executor, store, config)]

Each client with queues also has the heartbeat; see `Config.heartbeat_interval`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from millhand.core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from millhand.engine.heartbeat import Heartbeat
    from millhand.jobs.orphan_cleanup import OrphanCleanup, add_orphan_cleanup
    from millhand.jobs.orphan_restore import OrphanRestore
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "millhand.engine.heartbeat": "Heartbeat",
            "millhand.jobs.orphan_cleanup": "OrphanCleanup add_orphan_cleanup",
            "millhand.jobs.orphan_restore": "OrphanRestore",
        },
    )

__all__ = ["Heartbeat", "OrphanCleanup", "OrphanRestore", "add_orphan_cleanup"]
