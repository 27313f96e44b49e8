"""Changes of periodic jobs: a run before its time."""

from __future__ import annotations

from millhand.engine.store.periodic_job import PeriodicJobId, PeriodicRun
from millhand.schedules.run_now import run_periodic_job
from millhand.shells.web.change import Changed, ChangeRequest, record

ORPHAN_CLEANUP = "orphan_cleanup"


async def run_periodic(request: ChangeRequest) -> Changed:
    """Insert a run of a periodic job. Raises: NoRun; MillhandError if one waits or runs."""
    return await _run(request, str(request.path["name"]))


async def run_orphan_cleanup(request: ChangeRequest) -> Changed:
    """Insert a run of the orphan cleanup, once a worker ran it. Raises: as `run_periodic`."""
    return await _run(request, ORPHAN_CLEANUP)


async def _run(request: ChangeRequest, name: str) -> Changed:
    user = request.user

    def is_allowed(source: PeriodicRun | PeriodicJobId) -> bool:
        return user.sees(queue=source.queue, kind=source.kind) and not (
            name == ORPHAN_CLEANUP and user.is_limited  # it is of all rows
        )

    async with request.database.driver.pool.begin() as tx:
        job = await run_periodic_job(tx, name, is_allowed=is_allowed)
        done = Changed(
            action="run", subject=f"job {job.id}", num_jobs=1, ids=(job.id,), path=f"/jobs/{job.id}"
        )
        await record(tx, request, done, {"periodic_job": name, "kind": job.kind, "queue": job.queue})
    return done
