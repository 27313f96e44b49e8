from __future__ import annotations

import re
from datetime import timedelta
from importlib.resources import files
from pathlib import Path

import msgspec
import pytest
from template_samples import (
    EMPTY,
    EXPLAINED,
    FULL,
    IN_ORDER,
    NO_LIMIT,
    NOW,
    PARTITION,
    PLACE,
    SCHEDULE,
    page_html,
)

from millhand.core.job import JobId, JobState
from millhand.flows.flow import FlowState
from millhand.flows.page import Flows
from millhand.limits.page import LimitPage
from millhand.schedules.page import Schedules
from millhand.shells.settings.web_user import Role
from millhand.web.job_search import Stop
from millhand.web.pages.dead import DeadJobs
from millhand.web.pages.jobs import Jobs
from millhand.web.pages.overview import Overview
from millhand.web.routes import PAGES
from millhand.web.waiting import Wait, WaitReason

_KEY = msgspec.structs.replace(FULL["orphans"], key=EXPLAINED)
_QUEUES = [
    msgspec.structs.replace(FULL["queue"], limit=limit, has_limits=True)
    for limit in (
        None,
        LimitPage(limit=NO_LIMIT),
        LimitPage(
            limit=IN_ORDER, partition=msgspec.structs.replace(PARTITION, name="", key="[]", held_until=None)
        ),
    )
]
_SCHEDULES = [
    msgspec.structs.replace(FULL["periodic"], schedules=schedules)
    for schedules in (
        Schedules(),
        Schedules(fault="timezone must be a name of the IANA database, got 'Mars/Dome'"),
        Schedules(shown=msgspec.structs.replace(SCHEDULE, args='{"a":1}', next_instants=(NOW, NOW))),
        Schedules(shown=msgspec.structs.replace(SCHEDULE, paused_at=NOW, declared_at=None, last_state=None)),
    )
]
_DEAD = (DeadJobs(), DeadJobs(is_slow=True), DeadJobs(has_errors=False))
_FLOWS = (Flows(), Flows(state=FlowState.FAILED), Flows(is_limited=True))
_PAGES = [
    *((name, data) for pages in (FULL, EMPTY) for name, data in pages.items()),
    ("orphans", _KEY),
    *(("queue", data) for data in _QUEUES),
    *(("periodic", data) for data in _SCHEDULES),
    *(("flows", data) for data in _FLOWS),
    *(("dead", data) for data in _DEAD),
]


def test_every_page_has_a_sample() -> None:
    """A page without a sample would be rendered by no test of the templates."""
    assert set(FULL) == {page.name for page in PAGES if page.template is not None}


@pytest.mark.parametrize(("name", "data"), _PAGES)
def test_template_renders_and_obeys_the_policy(name: str, data: object) -> None:
    """
    Each template renders a full and an empty page, and has no inline style, script or handler.

    An id names one element, and each region that is refreshed has one.
    """
    html = page_html(name, data)  # type: ignore[arg-type]
    ids = re.findall(r'\sid="([^"]*)"', html)

    assert html.count("<h1>") == 1
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:|<script>|<script(?![^>]* src=)", html)
    assert sorted(ids) == sorted(set(ids))
    assert all(' id="' in tag for tag in re.findall(r"<[^>]* data-live=[^>]*>", html))


def test_job_page_says_in_one_sentence_what_the_job_waits_for() -> None:
    """Each reason to wait has words of its own, and no reason falls through to those of another."""
    waits = [Wait(reason=reason, until=NOW, num_slots=3) for reason in WaitReason]
    sentences = {
        sentence(page_html("job", msgspec.structs.replace(FULL["job"], wait=wait, place=PLACE)))
        for wait in waits
    }

    assert len(sentences) == len(waits)
    assert all(text.endswith(".") for text in sentences)


def test_job_page_says_how_many_jobs_wait_for_the_limit_before_it() -> None:
    """The sentences about a limit name the partition, its slots, what holds it, and a bounded number of jobs."""
    texts = {
        (reason, num_before): sentence(
            page_html(
                "job",
                msgspec.structs.replace(
                    FULL["job"],
                    wait=Wait(reason=reason, until=NOW + timedelta(minutes=5)),
                    place=msgspec.structs.replace(
                        PLACE, num_before=num_before, total=None, halted_by=JobId(3)
                    ),
                    partition=partition,
                ),
            )
        )
        for reason, num_before, partition in (
            (WaitReason.LIMIT, 12, "acme"),
            (WaitReason.LIMIT, 10_001, ""),
            (WaitReason.HELD, 1, "acme"),
            (WaitReason.RATE, 0, "acme"),
            (WaitReason.ORDER, 1, "acme"),
            (WaitReason.HALTED, 1, "acme"),
        )
    }

    assert list(texts.values()) == [
        "It waits for a slot of the limit of queue webhooks, partition acme: 3 of 3 taken, 12 wait before it.",
        "It waits for a slot of the limit of queue webhooks: 3 of 3 taken, more than 10,000 wait before it.",
        "Partition acme of queue webhooks is held until 2026-11-27 14:37:10 UTC. Release it there to run this job.",
        "It waits for the limit of queue webhooks, partition acme. The rate allows the next start in 5 min.",
        "The jobs of queue webhooks, partition acme run in order. It waits behind job 5, 1 waits before it.",
        "Job 3 halted queue webhooks, partition acme. Retry it, or resume there.",
    ]


@pytest.mark.parametrize(
    ("role", "changes"),
    [
        (Role.VIEWER, []),
        (Role.OPERATOR, ["limit/reset", "limit", "partition/release", "partition/hold", "partition"]),
        (
            Role.ADMIN,
            ["limit/reset", "limit", "limit/remove", "partition/release", "partition/hold", "partition"],
        ),
    ],
)
def test_queue_page_offers_what_the_role_may_do_with_the_limit(role: Role, changes: list[str]) -> None:
    """A viewer sees the limit and its partitions without a form; an operator sets, holds and releases; an admin removes."""
    html = page_html("queue", FULL["queue"], role=role)
    forms = re.findall(r'<form[^>]* action="/queues/webhooks/((?:limit|partition)[^"]*)"', html)

    assert forms == changes
    assert "3 at once · 2 in each client · 50 in all · 100 in 1 min, burst 10 · by kind, tenant" in html
    assert html.count('name="csrf" value="c5rf"') == html.count('method="post"')


def test_jobs_page_names_the_command_that_builds_a_search_index() -> None:
    """The notice is on a page that did not read all jobs for want of an index, and on no other."""
    stopped = msgspec.structs.replace(FULL["jobs"], stop=Stop.ROWS)
    command = "millhand migrate tune --with-search-indexes"
    off = {"unindexed": ("args", "metadata")}

    assert "A search of args and metadata has no index" in page_html(
        "jobs", msgspec.structs.replace(stopped, **off)
    )
    for page in (stopped, msgspec.structs.replace(FULL["jobs"], **off, stop=Stop.END)):
        assert command not in page_html("jobs", page)


def sentence(html: str) -> str:
    """Return the text behind the state of a job."""
    found = re.search(r'id="state".*?<p>(.*?)</p>', html, re.DOTALL)
    assert found
    return re.sub(r"<[^>]*>", "", found[1])


@pytest.mark.parametrize(
    ("role", "changes"),
    [
        (Role.VIEWER, []),
        (Role.OPERATOR, ["retry", "snooze", "cancel"]),
        (Role.ADMIN, ["retry", "snooze", "cancel", "delete"]),
    ],
)
def test_job_page_offers_what_the_role_may_do(role: Role, changes: list[str]) -> None:
    """A viewer gets no button, an operator and an admin get theirs, and each form has the token of the session."""
    html = page_html("job", FULL["job"], role=role)
    forms = re.findall(r'<form[^>]* action="/jobs/7/(\w+)".*?</form>', html, re.DOTALL)

    assert forms == changes
    assert html.count('name="csrf" value="c5rf"') == html.count('method="post"')


@pytest.mark.parametrize(
    ("role", "changes"),
    [
        (Role.VIEWER, []),
        (Role.OPERATOR, ["retry"] * 3 + ["cancel"]),
        (Role.ADMIN, ["retry"] * 3 + ["cancel"]),
    ],
)
def test_flow_page_offers_what_the_role_may_do(role: Role, changes: list[str]) -> None:
    """An operator retries a flow in three modes and cancels it; one that has ended without a failure has one mode left."""
    html = page_html("flow", FULL["flow"], role=role)
    ended = page_html("flow", EMPTY["flow"], role=role)

    assert re.findall(r'<form[^>]* action="/flows/17/(\w+)"', html) == changes
    assert re.findall(r'<form[^>]* action="/flows/17/(\w+)"', ended) == changes[:1]
    assert html.count('name="csrf" value="c5rf"') == html.count('method="post"')


@pytest.mark.parametrize(
    ("role", "changes"), [(Role.VIEWER, []), (Role.OPERATOR, ["retry"]), (Role.ADMIN, ["retry", "delete"])]
)
def test_dead_letter_offers_what_the_role_may_do(role: Role, changes: list[str]) -> None:
    """An operator retries, an admin deletes too, in the list and alone; a job that was retried is not retried again."""
    html = page_html("dead_job", FULL["dead_job"], role=role)
    retried = page_html("dead_job", EMPTY["dead_job"], role=role)
    listed = page_html("dead", FULL["dead"], role=role)

    assert re.findall(r'<form[^>]* action="/dead/7/(\w+)"', html) == changes
    assert re.findall(r'<form[^>]* action="/dead/7/(\w+)"', retried) == changes[1:]
    assert re.findall(r'formaction="/dead/selected/(\w+)"', listed) == changes
    assert html.count('name="csrf" value="c5rf"') == html.count('method="post"')
    assert listed.count('name="csrf" value="c5rf"') == listed.count('method="post"')


def test_no_field_hides_a_property_of_its_form() -> None:
    """A field named `id` would hide the id of its form from scripts, and a live update would replace all of the form."""
    names = {
        "attributes",
        "children",
        "childNodes",
        "dataset",
        "id",
        "matches",
        "nodeName",
        "parentNode",
        "tagName",
    }
    found = [
        (file.name, name)
        for file in Path(str(files("millhand"))).rglob("*.html")
        for name in re.findall(r'<(?:input|select|textarea|button)\b[^>]*? name="(\w+)"', file.read_text())
        if name in names
    ]

    assert found == []


def test_overview_opens_with_the_five_worst_findings() -> None:
    """Of many findings the first five are shown, and the others are behind one line."""
    full = FULL["overview"]
    assert isinstance(full, Overview)
    findings = full.verdict.findings * 4
    html = page_html(
        "overview",
        msgspec.structs.replace(full, verdict=msgspec.structs.replace(full.verdict, findings=findings)),
    )
    shown, _, hidden = html.partition('<details class="more-findings"')

    assert (shown.count('class="finding '), hidden.count('class="finding ')) == (5, len(findings) - 5)
    assert f"<summary>{len(findings) - 5} more findings</summary>" in hidden


@pytest.mark.parametrize(("name", "times"), [("overview", 3), ("errors", 1), ("history", 1)])
def test_page_says_up_to_when_it_counts(name: str, times: int) -> None:
    """What the history has counted stands beside the instant up to which it has; without a history, there is none."""
    said = re.findall(r"counted up to <time[^>]*>([^<]*)", page_html(name, FULL[name]))

    assert len(said) == times
    assert set(said) == {f"{NOW - timedelta(seconds=30):%Y-%m-%d %H:%M:%S} UTC"}
    assert "counted up to" not in page_html(name, EMPTY[name])


@pytest.mark.parametrize(
    ("state", "has_error"),
    [
        (JobState.AVAILABLE, True),
        (JobState.SCHEDULED, True),
        (JobState.RETRYABLE, True),
        (JobState.RUNNING, False),
    ],
)
def test_list_shows_why_a_waiting_job_has_failed(state: JobState, has_error: bool) -> None:
    """A job that failed and is due again shows its last error, and one that runs its args."""
    page: Jobs = FULL["jobs"]
    job = msgspec.structs.replace(page.jobs[0], state=state)
    html = page_html("jobs", msgspec.structs.replace(page, jobs=(job,)))

    assert ('class="err"' in html) is has_error
