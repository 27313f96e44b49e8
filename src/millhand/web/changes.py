"""The list of all changes. Their routes, and the tests of access, are made of it."""

from __future__ import annotations

from millhand.web import bulk_changes, job_changes, orphan_restores, periodic_changes, queue_changes
from millhand.web.change import Change
from millhand.web.user import Role

CHANGES: tuple[Change, ...] = (
    Change("/jobs/{id:int}/retry", Role.OPERATOR, job_changes.retry_job),
    Change("/jobs/{id:int}/cancel", Role.OPERATOR, job_changes.cancel_job),
    Change("/jobs/{id:int}/snooze", Role.OPERATOR, job_changes.snooze_job),
    Change("/jobs/{id:int}/delete", Role.ADMIN, job_changes.delete_job),
    Change("/jobs/{id:int}/copy", Role.ADMIN, job_changes.copy_job),
    Change("/jobs/insert", Role.ADMIN, job_changes.insert_job),
    Change("/jobs/selected/retry", Role.OPERATOR, job_changes.retry_selected),
    Change("/jobs/selected/cancel", Role.OPERATOR, job_changes.cancel_selected),
    Change("/jobs/selected/delete", Role.ADMIN, job_changes.delete_selected),
    Change("/bulk", Role.OPERATOR, bulk_changes.insert_bulk),
    Change("/bulk/{id:int}/start", Role.OPERATOR, bulk_changes.start_bulk),
    Change("/bulk/{id:int}/stop", Role.OPERATOR, bulk_changes.stop_bulk),
    Change("/orphans/run", Role.OPERATOR, periodic_changes.run_orphan_cleanup),
    Change("/orphans/restore", Role.OPERATOR, orphan_restores.restore_orphans),
    Change("/periodic/{name:path}/run", Role.OPERATOR, periodic_changes.run_periodic),
    Change("/queues/{name}/pause", Role.OPERATOR, queue_changes.pause_queue),
    Change("/queues/{name}/resume", Role.OPERATOR, queue_changes.resume_queue),
)
