"""The lists of all pages and changes. Routes, the API, its description and the tests of access are made of them."""

from __future__ import annotations

from millhand.dead_jobs import changes as dead_changes
from millhand.flows import changes as flow_changes
from millhand.flows import page as flows
from millhand.history import page as history
from millhand.limits import changes as limit_changes
from millhand.limits import page as limits
from millhand.orphans import page as orphans
from millhand.orphans import page_changes as orphan_changes
from millhand.schedules import changes as schedule_changes
from millhand.shells.settings.web_user import Role
from millhand.shells.web.change import Change
from millhand.shells.web.page import Page
from millhand.web import bulk_changes, job_changes, periodic_changes, queue_changes
from millhand.web.pages import (
    audit,
    bulk,
    dead,
    errors,
    fleet,
    job,
    jobs,
    new_job,
    overview,
    periodic,
    queue,
    queues,
)

PAGES: tuple[Page, ...] = (
    Page(path="/", name="overview", tab="overview", title="Overview", template="overview.html", load=overview.load),
    Page(path="/jobs", name="jobs", tab="jobs", title="Jobs", template="jobs.html", load=jobs.load),
    Page(
        path="/jobs/new", name="new_job", tab="jobs", title="New job", template="new_job.html", load=new_job.load,
        role=Role.ADMIN,
    ),
    Page(path="/jobs/{id:int}", name="job", tab="jobs", title="Job", template="job.html", load=job.load),
    Page(path="/dead", name="dead", tab="dead", title="Dead letters", template="dead.html", load=dead.load),
    Page(
        path="/dead/{id:int}", name="dead_job", tab="dead", title="Dead letter", template="job.html", load=dead.load_one,
    ),
    Page(path="/errors", name="errors", tab="errors", title="Errors", template="errors.html", load=errors.load),
    Page(path="/history", name="history", tab="history", title="History", template="history.html", load=history.load),
    Page(path="/queues", name="queues", tab="queues", title="Queues", template="queues.html", load=queues.load),
    Page(path="/queues/{name:path}", name="queue", tab="queues", title="Queue", template="queue.html", load=queue.load),
    Page(path="/limits", name="limits", tab="queues", title="Limits", template="limits.html", load=limits.load),
    Page(path="/flows", name="flows", tab="flows", title="Flows", template="flows.html", load=flows.load),
    Page(path="/flows/{id:int}", name="flow", tab="flows", title="Flow", template="flow.html", load=flows.load_flow),
    Page(
        path="/periodic", name="periodic", tab="periodic", title="Periodic jobs", template="periodic.html",
        load=periodic.load,
    ),
    Page(path="/fleet", name="fleet", tab="fleet", title="Fleet", template="fleet.html", load=fleet.load),
    Page(path="/orphans", name="orphans", tab="orphans", title="Orphans", template="orphans.html", load=orphans.load),
    Page(
        path="/audit", name="audit", tab="changes", title="Changes", template="audit.html", load=audit.load,
        role=Role.OPERATOR,
    ),
    Page(
        path="/bulk", name="bulk_list", tab="changes", title="Bulk changes", template="bulk_list.html",
        load=bulk.load_list,
    ),
    Page(path="/bulk/{id:int}", name="bulk", tab="changes", title="Bulk change", template="bulk.html", load=bulk.load),
    Page(
        path="/suggestions", name="suggestions", tab="jobs", title="Suggestions", template=None,
        load=jobs.load_suggestions,
    ),
)  # fmt: skip

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
    Change("/dead/{id:int}/retry", Role.OPERATOR, dead_changes.retry_dead),
    Change("/dead/{id:int}/delete", Role.ADMIN, dead_changes.delete_dead),
    Change("/dead/selected/retry", Role.OPERATOR, dead_changes.retry_selected_dead),
    Change("/dead/selected/delete", Role.ADMIN, dead_changes.delete_selected_dead),
    Change("/bulk", Role.OPERATOR, bulk_changes.insert_bulk),
    Change("/bulk/{id:int}/start", Role.OPERATOR, bulk_changes.start_bulk),
    Change("/bulk/{id:int}/stop", Role.OPERATOR, bulk_changes.stop_bulk),
    Change("/flows/{id:int}/cancel", Role.OPERATOR, flow_changes.cancel_flow),
    Change("/flows/{id:int}/retry", Role.OPERATOR, flow_changes.retry_flow),
    Change("/orphans/run", Role.OPERATOR, periodic_changes.run_orphan_cleanup),
    Change("/orphans/restore", Role.OPERATOR, orphan_changes.restore_orphans),
    Change("/periodic/{name:path}/run", Role.OPERATOR, periodic_changes.run_periodic),
    Change("/schedules", Role.ADMIN, schedule_changes.set_schedule),
    Change("/schedules/{name:path}/pause", Role.OPERATOR, schedule_changes.pause_schedule),
    Change("/schedules/{name:path}/resume", Role.OPERATOR, schedule_changes.resume_schedule),
    Change("/schedules/{name:path}/run", Role.OPERATOR, schedule_changes.run_schedule),
    Change("/schedules/{name:path}/remove", Role.ADMIN, schedule_changes.remove_schedule),
    Change("/queues/{name}/pause", Role.OPERATOR, queue_changes.pause_queue),
    Change("/queues/{name}/resume", Role.OPERATOR, queue_changes.resume_queue),
    Change("/queues/{name}/limit", Role.OPERATOR, limit_changes.set_limit),
    Change("/queues/{name}/limit/reset", Role.OPERATOR, limit_changes.reset_limit),
    Change("/queues/{name}/limit/remove", Role.ADMIN, limit_changes.remove_limit),
    Change("/queues/{name}/partition", Role.OPERATOR, limit_changes.set_partition),
    Change("/queues/{name}/partition/hold", Role.OPERATOR, limit_changes.hold_partition),
    Change("/queues/{name}/partition/release", Role.OPERATOR, limit_changes.release_partition),
    Change("/queues/{name}/partition/resume", Role.OPERATOR, limit_changes.resume_partition),
)

# Name, label and path of each entry of the navigation.
TABS = (
    ("overview", "Overview", "/"),
    ("jobs", "Jobs", "/jobs"),
    ("errors", "Errors", "/errors"),
    ("queues", "Queues", "/queues"),
    ("dead", "Dead letters", "/dead"),
    ("flows", "Flows", "/flows"),
    ("history", "History", "/history"),
    ("periodic", "Periodic", "/periodic"),
    ("fleet", "Fleet", "/fleet"),
    ("orphans", "Orphans", "/orphans"),
    ("changes", "Changes", "/audit"),
)
