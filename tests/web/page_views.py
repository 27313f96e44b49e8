"""Where a browser test goes: each page of the list of pages, and the states of a page that look different."""

from __future__ import annotations

# Of a page's name in PAGES: its views by name. The ids are those of `shop_rows.example_jobs`.
VIEWS: dict[str, dict[str, str]] = {
    "overview": {"overview": "/"},
    "jobs": {
        "jobs": "/jobs",
        "jobs_found": "/jobs?q=state:discarded,retryable",
        "jobs_invalid": "/jobs?q=atempt:5",
    },
    "new_job": {"new_job": "/jobs/new", "copy": "/jobs/new?copy_of=3"},
    "audit": {"changes": "/audit"},
    "bulk_list": {"bulk_list": "/bulk"},
    "bulk": {"bulk": "/bulk/1", "bulk_missing": "/bulk/987654321"},
    "job": {
        "job_completed": "/jobs/1",
        "job_retryable": "/jobs/2",
        "job_discarded": "/jobs/3",
        "job_running": "/jobs/4",
        "job_scheduled": "/jobs/5",
        "job_in_paused_queue": "/jobs/6",
        "job_limited": "/jobs/10",
        "job_missing": "/jobs/987654321",
    },
    "dead": {"dead": "/dead", "dead_filtered": "/dead?error=gateway&since=2h"},
    "dead_job": {"dead_job": "/dead/3", "dead_job_missing": "/dead/987654321"},
    "errors": {"errors": "/errors"},
    "history": {"history": "/history", "history_of_kind": "/history?kind=send_email&range=7d"},
    "queues": {"queues": "/queues"},
    "queue": {
        "queue": "/queues/mail",
        "queue_paused": "/queues/imports",
        "queue_limited": "/queues/reports?partition=%5B%22acme%22%5D",
    },
    "flows": {"flows": "/flows", "flows_cancelled": "/flows?state=cancelled"},
    "flow": {"flow": "/flows/3", "flow_failed": "/flows/2?state=failed", "flow_missing": "/flows/987654321"},
    "limits": {"limits": "/limits"},
    "periodic": {"periodic": "/periodic", "schedule": "/periodic?schedule=report.acme"},
    "fleet": {"fleet": "/fleet"},
    "orphans": {
        "orphans": "/orphans",
        "orphans_of_rule": "/orphans?rule=12",
        "orphan_key": "/orphans?key=invoices%2F4711.pdf",
    },
}
# Of the page of several databases: production is the shop, staging has nothing, and one is away.
SEVERAL_PATHS = {
    "databases": "/",
    "database_overview": "/db/production/",
    "database_job": "/db/production/jobs/3",
    "database_empty": "/db/staging/queues",
    "database_away": "/db/away/jobs",
}
PATHS = {name: path for views in VIEWS.values() for name, path in views.items()}


def statuses(name: str) -> set[int]:
    """Return the statuses that a view may be answered with, besides those of success."""
    return {404} if name.endswith("_missing") else {503} if name.endswith("_away") else set()
