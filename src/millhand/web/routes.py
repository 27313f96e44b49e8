"""The list of all pages. Routes, the API, its description and the tests of access are made of it."""

from __future__ import annotations

from millhand.web.page import Page
from millhand.web.pages import fleet, job, jobs, overview, queue, queues

PAGES: tuple[Page, ...] = (
    Page(path="/", name="overview", tab="overview", title="Overview", template="overview.html", load=overview.load),
    Page(path="/jobs", name="jobs", tab="jobs", title="Jobs", template="jobs.html", load=jobs.load),
    Page(path="/jobs/{id:int}", name="job", tab="jobs", title="Job", template="job.html", load=job.load),
    Page(path="/queues", name="queues", tab="queues", title="Queues", template="queues.html", load=queues.load),
    Page(path="/queues/{name:path}", name="queue", tab="queues", title="Queue", template="queue.html", load=queue.load),
    Page(path="/fleet", name="fleet", tab="fleet", title="Fleet", template="fleet.html", load=fleet.load),
)  # fmt: skip

# Name, label and path of each entry of the navigation.
TABS = (
    ("overview", "Overview", "/"),
    ("jobs", "Jobs", "/jobs"),
    ("queues", "Queues", "/queues"),
    ("fleet", "Fleet", "/fleet"),
)
