"""What each template is rendered with in tests: a page with everything on it, and an empty one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from millhand.core.client_row import ClientState
from millhand.core.job import AttemptError, ClientId, JobId, JobState
from millhand.core.limit import Limit, Rate
from millhand.core.orphans import Mode, OrphansConfig
from millhand.dead_jobs.page_store import DeadJobLine
from millhand.doctor.fleet_verdict import Check, Finding, Level, Verdict
from millhand.engine.queue_report import QueueReport, QueueWaitReason
from millhand.engine.store.audit import AuditEntry
from millhand.engine.store.bulk_change import BulkAction, BulkChange, BulkState
from millhand.engine.store.job_details import JobDetails, JsonText
from millhand.engine.store.job_search import JobLine
from millhand.engine.store.leader import LeaderRole
from millhand.engine.store.queue_load import QueueJob
from millhand.flows.flow import FlowState, TaskState
from millhand.flows.graph import graph_of
from millhand.flows.page import FlowLine, FlowPage, Flows
from millhand.flows.page_store import FlowOfJob, TaskCount, TaskLine
from millhand.history.fleet_event import FleetEvent, FleetEventName
from millhand.history.page import HistoryLine, HistoryPage
from millhand.history.series import RANGES, Durations, HistoryPoint, HistorySeries
from millhand.limits.page import LimitLine, LimitPage, Limits, PartitionLine
from millhand.limits.report_store import JobPlace
from millhand.orphans import ledger
from millhand.orphans.page import OrphansPage
from millhand.orphans.page_changes import OrphanRestoreLine
from millhand.orphans.report.ledger_lines import (
    finding_line,
    key_lines,
    periods_of,
    quarantine_lines,
    rule_lines,
    run_line,
)
from millhand.orphans.report.ledger_report import (
    COUNTED_MAX,
    LedgerRemoval,
    LedgerStore,
    QuarantineSum,
    RuleCount,
)
from millhand.schedules.page import ScheduleLine, Schedules
from millhand.shells.settings.web_database import DatabaseLabel
from millhand.shells.settings.web_user import Role, User
from millhand.web.app import WebConfig
from millhand.web.attempts import attempts_of
from millhand.web.error_lines import ErrorLine
from millhand.web.job_search import Accuracy, Count, Stop
from millhand.web.pages.audit import Audit
from millhand.web.pages.bulk import BulkList, BulkPage
from millhand.web.pages.dead import DeadJobPage, DeadJobs
from millhand.web.pages.errors import Errors
from millhand.web.pages.fleet import FleetClient, FleetPage, LeaderTerm, UnworkedKind
from millhand.web.pages.job import JobPage, changes_of
from millhand.web.pages.jobs import page_of
from millhand.web.pages.new_job import NewJob
from millhand.web.pages.overview import Overview
from millhand.web.pages.periodic import PeriodicJob, PeriodicPage, Run, RunCopy
from millhand.web.pages.queue import QueueKind, QueuePage
from millhand.web.pages.queues import Queues
from millhand.web.queue_rates import QueueRate
from millhand.web.rendering import render
from millhand.web.routes import PAGES, TABS
from millhand.web.search import parse_search
from millhand.web.waiting import Wait, WaitReason

NOW = datetime(2026, 11, 27, 14, 32, 10, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def line(id: int, state: JobState) -> JobLine:
    return JobLine(
        id=JobId(id),
        kind="deliver_webhook",
        queue="webhooks",
        state=state,
        priority=1,
        attempt=5,
        max_attempts=25,
        args=ARGS,
        args_bytes=len(ARGS),
        tags=("eu",),
        error=ERROR,
        created_at=ago(600),
        scheduled_at=ago(-582),
        attempted_at=ago(12),
        finalized_at=ago(2) if state.is_finalized else None,
        client="worker-2",
    )


def dead_line(id: int, current_state: JobState | None) -> DeadJobLine:
    values = msgspec.structs.asdict(line(id, JobState.DISCARDED))
    return DeadJobLine(**values, current_state=current_state)


def json_of(text: str) -> JsonText:
    return JsonText(text=text, num_bytes=len(text), is_cut=False)


def details(state: JobState = JobState.RETRYABLE) -> JobDetails:
    return JobDetails(
        id=JobId(7),
        state=state,
        attempt=5,
        max_attempts=25,
        attempted_at=ago(12),
        created_at=ago(563),
        finalized_at=ago(2) if state.is_finalized else None,
        scheduled_at=ago(-582),
        priority=1,
        kind="deliver_webhook",
        queue="webhooks",
        tags=("team-checkout", "eu"),
        args=json_of(ARGS),
        metadata=json_of('{"request_id": "9f1c2ab07731", "river:rescue_count": 1}'),
        output=json_of('{"status": 502}'),
        attempted_by=tuple(f"worker-{number}_2026_11_27T06_11_40_113" for number in range(5, 0, -1)),
        num_fetches=5,
        errors=(
            AttemptError(ago(12), 5, ERROR, TRACE),
            AttemptError(ago(430), 4, "Job rescued by ClientRescuer: client worker-4 missed its heartbeats"),
            AttemptError(ago(535), 3, ERROR, TRACE),
            AttemptError(ago(552), 2, ERROR, TRACE),
            AttemptError(ago(563), 1, ERROR, TRACE),
        ),
        num_errors=5,
        logs={
            5: "2026-11-27T14:32:00.118Z INFO shop: signing payload\n2026-11-27T14:32:10.124Z WARNING shop: no answer\n"
        },
        is_cancel_requested=False,
        unique_key="ea16c0d3" * 8,
    )


ARGS = (
    '{"url": "https://hooks.example.net/v2/7731", "event": "order.paid", "order_id": 3120994, "retry": true}'
)
ERROR = "httpx.ReadTimeout: POST https://hooks.example.net/v2/7731 gave no answer within 10 s"
TRACE = """Traceback (most recent call last):
  File "/app/.venv/lib/python3.13/site-packages/httpx/_transports/default.py", line 101, in map_httpcore_exceptions
    yield
  File "/app/shop/jobs/deliver_webhook.py", line 48, in deliver_webhook
    response = await http.post(job.args.url, json=payload)
  File "/app/.venv/lib/python3.13/site-packages/httpx/_client.py", line 1859, in post
    return await self.request("POST", url, content=content)
httpx.ReadTimeout: POST https://hooks.example.net/v2/7731 gave no answer within 10 s
"""
QUEUES = (
    QueueReport(
        name="webhooks",
        num_available=10_001,
        num_retryable=4_871,
        num_running=100,
        num_scheduled=12,
        num_waiting=10_001,
        oldest_available_at=ago(261),
        clients=(ClientId("worker-2"),),
        slots=100,
        limit=QueueWaitReason.SLOTS,
    ),
    QueueReport(
        name="mail",
        paused_at=ago(900),
        num_available=3,
        num_retryable=0,
        num_running=0,
        num_scheduled=0,
        limit=QueueWaitReason.PAUSED,
    ),
)
CLIENTS = (
    FleetClient(
        id=ClientId("worker-2_2026_11_27T06_11_40_113"),
        state=ClientState.WORKING,
        last_seen_at=ago(1),
        is_leader=True,
        language="python",
        version="0.1.0",
        queues={"webhooks": 100},
        running={"webhooks": 87},
    ),
    FleetClient(
        id=ClientId("go-billing"), state=ClientState.UNREGISTERED, last_seen_at=ago(40), running={"mail": 3}
    ),
)
GONE = (FleetClient(id=ClientId("worker-1"), state=ClientState.STOPPED, last_seen_at=ago(3_600)),)
LEADERS = (
    LeaderTerm(role=LeaderRole.RIVER, leader_id=CLIENTS[0].id, elected_at=ago(7_200), expires_at=ago(-10)),
    LeaderTerm(role=LeaderRole.PERIODIC),
)

BULK = BulkChange(
    id=3,
    created_at=ago(90),
    action=BulkAction.RETRY,
    search="state:discarded kind:deliver_webhook",
    time_zone="UTC",
    only_queues=None,
    only_kinds=None,
    actor="ada",
    state=BulkState.STOPPED,
    collected_to=None,
    num_jobs=4_871,
    kinds={"deliver_webhook": 4_871},
    queues={"webhooks": 4_800, "default": 71},
    num_changed=1_600,
    num_skipped=61,
    skipped={"another job has the unique key": 61},
    jobs_per_second=50,
    started_at=ago(80),
    finished_at=ago(40),
    stop_reason="most of the first jobs failed again",
)
RATES = {
    "webhooks": QueueRate(finished=412.4, inserted=500.2, growth=87.8),
    "mail": QueueRate(finished=3, inserted=1, growth=-2, empty_in=timedelta(minutes=1.5)),
}
EVENTS = (
    FleetEvent(ago(60), FleetEventName.JOBS_RESCUED, GONE[0].id, {"num_jobs": 7, "job_ids": [1, 2]}),
    FleetEvent(ago(61), FleetEventName.CLIENT_DECLARED_DEAD, GONE[0].id, {}),
    FleetEvent(ago(70), FleetEventName.LEADER_ELECTED, CLIENTS[0].id, {"leader_role": "river"}),
    FleetEvent(
        ago(80), FleetEventName.CLIENT_STARTED, CLIENTS[0].id, {"language": "python", "version": "0.1.0"}
    ),
)

RANGE_NAMES = tuple(one.name for one in RANGES)
NO_DURATIONS = Durations(p50=None, p95=None, p99=None)


def point(minute: int) -> HistoryPoint:
    return HistoryPoint(
        began_at=ago(60 * (60 - minute)),
        completed=100 + minute,
        failed=minute % 7,
        discarded=minute % 3,
        cancelled=0,
        wait=Durations(p50=0.012, p95=0.25, p99=1.0) if minute % 10 else NO_DURATIONS,
        run=Durations(p50=0.08, p95=1.9, p99=9.0),
        share=0.5,
    )


HISTORY = HistorySeries(range="1h", points=tuple(map(point, range(60))), total=point(0), counted_to=ago(30))
NO_HISTORY = HistorySeries(
    range="1h",
    points=(),
    total=HistoryPoint(
        began_at=ago(3_600),
        completed=0,
        failed=0,
        discarded=0,
        cancelled=0,
        wait=NO_DURATIONS,
        run=NO_DURATIONS,
        share=1.0,
    ),
    counted_to=None,
)
GROUP = ErrorLine(
    fingerprint="a1b2",
    kind="deliver_webhook",
    title="httpx.ReadTimeout: POST <url> gave no answer within <number> s",
    sample_job_id=JobId(7),
    first_seen_at=ago(86_400),
    last_seen_at=ago(12),
    num_errors=4_871,
    trend=(0, 3, 7, 0, 1),
    waiting=Count(JobState.RETRYABLE, 2_000, Accuracy.AT_LEAST),
    search='state:retryable,discarded kind:deliver_webhook error:"httpx.ReadTimeout: POST"',
)
LINE = HistoryLine(
    name="deliver_webhook",
    num_attempts=12_000,
    num_errors=400,
    wait_p95_ms=250.0,
    run_p50_ms=80.0,
    run_p95_ms=1_900.0,
)
LIMIT = LimitLine(
    queue="webhooks",
    values=Limit(
        at_once=3,
        at_once_per_client=2,
        total=50,
        by_args=["tenant"],
        by_kind=True,
        rate=Rate(100, per=timedelta(minutes=1), burst=10),
    ),
    declared=Limit(at_once=1, by_args=["tenant"], shared=True),
    num_waiting=10_001,
    num_slots=47,
    num_later=2,
    updated_at=ago(600),
)
NO_LIMIT = LimitLine(queue="mail", values=None, fault="at_once must be between 1 and 2,147,483,647, got 0")
IN_ORDER = LimitLine(queue="mail", values=Limit(in_order=True, halt=True), num_waiting=1)
PARTITION = PartitionLine(
    queue="webhooks",
    name="act, acme",
    key='["act", "acme"]',
    running=3,
    waiting=10_001,
    weight=2,
    at_once=3,
    held_until=ago(-600),
)
PLACE = JobPlace(
    partition='["act", "acme"]', is_later=False, due_at=None, has_slot=False, running=3, at_once=3, total=50,
    num_running=50, in_order=False, by_kind=True, by_args=("tenant",), is_current=True, held_until=None, halted_by=None,
    next_start_at=None, num_before=12, behind=JobId(5),
)  # fmt: skip
FLOW = FlowLine(
    id=17, name="import 17", state=FlowState.RUNNING, num_tasks=1_003, num_ended=999, num_failed=2, num_skipped=1,
    created_at=ago(600), cancelled_at=None, ended_at=None,
)  # fmt: skip
TASKS = tuple(
    TaskLine(
        job_id=JobId(id), state=state, name=f"part.{id}", kind="import_part", queue="imports", job_state=JobState.RUNNING,
        attempt=1, max_attempts=25, finalized_at=ago(1),
    )
    for id, state in enumerate(TaskState, 1)
)  # fmt: skip
DELETED_TASK = TaskLine(
    job_id=JobId(9), state=TaskState.RELEASED, name=None, kind=None, queue=None, job_state=None, attempt=None,
    max_attempts=None, finalized_at=None,
)  # fmt: skip


def task_count(first_job_id: int, after: int | None, *joins: int, num: int = 1, **fields: Any) -> TaskCount:
    """Return tasks that wait for the join `after` and are part of `joins`."""
    row: dict[str, Any] = {
        "when": "completed" if after else None,
        "kind": "act",
        "name": f"task {first_job_id}",
    }
    row |= {"state": "completed", **fields}
    return TaskCount(
        first_job_id=JobId(first_job_id), after_join_id=after, join_ids=joins, num_tasks=num, **row
    )


GRAPH = graph_of(
    [
        task_count(1, None, 5, num=998, name="part.1"),
        task_count(2, None, 5, num=2, name="part.2", state="failed"),
        task_count(1_001, 5, 6, when="failed", state="running"),
        task_count(1_002, 5, 6, when="ended", state="retryable"),
        task_count(1_003, 6, state="waiting"),
        task_count(1_004, 6, state="waiting", kind="other"),
    ]
)
SCHEDULE = ScheduleLine(
    id="report.acme", kind="sales_report", queue="reports", priority=1, max_attempts=0,
    cron="0 3 * * *", interval=None, timezone="Europe/Berlin", catch_up="all", overlap="skip", jitter=timedelta(minutes=5),
    next_run_at=ago(-3_600), last_due_at=ago(82_800), last_job_id=JobId(7), last_state=JobState.COMPLETED, num_runs=1_204,
    paused_at=None, is_as_declared=True, declared_at=ago(600),
)  # fmt: skip
PERIODIC = PeriodicPage(
    jobs=(
        PeriodicJob(
            id="nightly", kind="sales_report", queue="reports", num_runs=3,
            runs=tuple(Run(JobId(id), state, ago(86_400 * id)) for id, state in enumerate(JobState, 1)),
            interval=timedelta(days=1), expected_at=ago(90_000), is_late=True,
        ),
        PeriodicJob(
            id="tick", kind="tick", queue="default", num_runs=2_000,
            runs=(Run(JobId(9), JobState.COMPLETED, ago(1), is_run_now=True),),
            copy=RunCopy(job_id=JobId(8), args='{"day": 7}', priority=1, max_attempts=25, tags=("eu",)),
        ),
    ),
    schedules=Schedules(
        lines=(
            SCHEDULE,
            msgspec.structs.replace(
                SCHEDULE, id="new", next_run_at=None, last_due_at=None, last_job_id=None, last_state=None,
                is_as_declared=False, declared_at=None,
            ),
            msgspec.structs.replace(
                SCHEDULE, id="paused", cron=None, interval=timedelta(hours=6), paused_at=ago(60), last_state=None
            ),
        ),
        after="paused",
    ),
)  # fmt: skip

ORPHANS = OrphansConfig(mode=Mode.DELETE)
STORE = LedgerStore(
    bucket="s3://shop/", database="shop", bound_at=ago(9e6), searched_at=ago(4_000), search_seconds=41.5
)
RUNS = tuple(
    run_line(
        ledger.Run(
            id=id, bucket="s3://shop/", mode="delete", fingerprint="f", state=state, epoch=1, started_at=ago(4_000 * id),
            heartbeat_at=ago(3_900 * id), scanned_at=None, finished_at=None if state == "scanning" else ago(3_900 * id),
            cursor_key="", is_ordered=True, totals=ledger.Totals(objects=48_213, due=12, removed=12, alerts=1),
            abort_reasons=reasons, error=error,
        ),
        NOW,
    )
    for id, state, reasons, error in (
        (1, "scanning", (), None),
        (2, "completed", (), None),
        (3, "aborted", ("table 'invoices' must have at least 100 rows, got 0; check its source",), None),
        (4, "failed", (), "StoreError: store must answer, got 503; try again later"),
    )
)  # fmt: skip
FINDINGS_OF_LEDGER = tuple(
        ledger.Finding(
            id=id, key=f"uploads/{id}.png", kind=kind, reference="none", rule=rule, is_present=True, size=4_096 * id,
            source=source, row_id=source and "7", first_seen_at=ago(90_000 * id), last_seen_at=ago(3_900), sightings=id,
            note="near 'uploads/3.PNG'" if kind == "near_match" else "",
        )
    for id, kind, rule, source in (
        (1, "orphan", 12, ""), (2, "orphan", 11, ""), (3, "near_match", 24, ""), (9, "waiting", 3, "uploads"),
        (5, "orphan", 999, ""),
    )
)  # fmt: skip
FINDINGS = tuple(finding_line(one, ORPHANS) for one in FINDINGS_OF_LEDGER)
REMOVALS = tuple(
    LedgerRemoval(
        id=id, run_id=2, key="uploads/8.png", rule=7, state=state, reason="", size=81_920, quarantine_key="q",
        source="uploads", row_id="8", has_row=True, updated_at=ago(3_900), alert=alert, alerted_at=alert and ago(60),
    )
    for id, state, alert in ((2, "quarantined", None), (1, "restored", "a row references it again; it was restored"))
)  # fmt: skip
DEAD = DeadJobPage(
    job=details(JobState.DISCARDED),
    attempts=attempts_of(details(JobState.DISCARDED)),
    wait=None,
    can=("retry", "delete"),
    has_dead_letter=True,
    copied_at=ago(1),
    current_state=None,
)
FULL: dict[str, msgspec.Struct] = {
    "overview": Overview(
        verdict=Verdict(
            level=Level.CRITICAL,
            findings=(
                Finding(
                    check=Check.FAILING,
                    level=Level.CRITICAL,
                    text="deliver_webhook failed in 812 attempts of 901 in 10 min, which is 90%.",
                    usual="2% at this time of day",
                    path="/errors?kind=deliver_webhook",
                ),
                Finding(
                    check=Check.PAUSED,
                    level=Level.WARNING,
                    text="Queue mail is paused, and 3 jobs are due.",
                    path="/queues/mail",
                ),
            ),
        ),
        counts=(
            Count(JobState.AVAILABLE, 10_000, Accuracy.AT_LEAST),
            Count(JobState.RUNNING, 87, Accuracy.EXACT),
        ),
        waiting=Count(JobState.PENDING, 10_000, Accuracy.AT_LEAST),
        slots=100,
        num_clients=2,
        queues=QUEUES,
        history=HISTORY,
        errors=(GROUP,),
    ),
    "errors": Errors(
        groups=(GROUP,),
        ranges=RANGE_NAMES,
        range="1d",
        kind="deliver_webhook",
        is_recorded=True,
        is_hidden=False,
        counted_to=ago(30),
    ),
    "history": HistoryPage(
        history=HISTORY,
        ranges=RANGE_NAMES,
        range="1h",
        kind=None,
        queue=None,
        by_kind=(LINE,),
        by_queue=(msgspec.structs.replace(LINE, name="webhooks", num_errors=0, wait_p95_ms=None),),
        is_recorded=True,
    ),
    "jobs": msgspec.structs.replace(
        page_of(
            parse_search('state:retryable queue:webhooks attempt:many error:"no answer"'),
            tuple(Count(state, 10_000, Accuracy.AT_LEAST) for state in JobState),
        ),
        jobs=tuple(line(id, state) for id, state in enumerate(JobState, 1)),
        after="c7",
        num_read=20_000,
        read_to=ago(7_200),
        stop=Stop.ROWS,
    ),
    "new_job": NewJob(
        kind="deliver_webhook",
        args=None,
        queue="webhooks",
        priority=2,
        max_attempts=25,
        tags=("eu",),
        copy_of=7,
        known_kinds=("deliver_webhook",),
        known_queues=("webhooks",),
    ),
    "orphans": OrphansPage(
        stores=(STORE, msgspec.structs.replace(STORE, bucket="s3://archive/")),
        store=STORE,
        periods=periods_of(ORPHANS),
        rules=rule_lines([RuleCount(2, 11, 3), RuleCount(2, 12, COUNTED_MAX), RuleCount(2, 999, 1)], ORPHANS),
        rule=12,
        findings=FINDINGS,
        after=9,
        runs=RUNS,
        runs_before=4,
        quarantine=quarantine_lines(REMOVALS, QuarantineSum(COUNTED_MAX, 9**9), ORPHANS, limit=1),
        alerts=REMOVALS[1:],
        restore_queue="default",
        restores=(
            OrphanRestoreLine(
                job_id=JobId(9),
                state=JobState.CANCELLED,
                created_at=ago(60),
                what="run 12",
                restored=3,
                rows=1,
                num_failed=1,
                error="JobCancelError: 1 keys cannot be restored",
            ),
        ),
    ),
    "audit": Audit(
        entries=(
            AuditEntry(
                id=9,
                at=ago(60),
                actor="ada",
                role="operator",
                address="10.0.0.7",
                action="retry",
                subject="job 7",
                detail={},
                num_jobs=1,
            ),
        ),
        before=9,
        is_recorded=True,
    ),
    "bulk_list": BulkList(changes=(BULK,), is_recorded=True),
    "bulk": BulkPage(change=BULK, num_left=3_210, must_type=True, may_change=True),
    "job": JobPage(
        job=details(),
        attempts=attempts_of(details()),
        wait=Wait(reason=WaitReason.RETRY, until=ago(-582)),
        can=changes_of(JobState.RETRYABLE),
        place=msgspec.structs.replace(PLACE, has_slot=True, num_before=None),
        partition="act, acme",
        flow=FlowOfJob(id=17, name="import 17", state=TaskState.WAITING, when="completed", num_before=3),
    ),
    "dead": DeadJobs(
        jobs=(
            dead_line(7, None),
            dead_line(6, JobState.DISCARDED),
            msgspec.structs.replace(
                dead_line(5, JobState.AVAILABLE), error=None, args=None, args_bytes=70_000
            ),
        ),
        after="2026-11-27T14:32:08.000000+00:00_5",
    ),
    "dead_job": DEAD,
    "flows": Flows(
        flows=(FLOW, msgspec.structs.replace(FLOW, id=16, state=FlowState.FAILED, ended_at=ago(60))),
        before=16,
    ),
    "flow": FlowPage(flow=FLOW, tasks=(*TASKS, DELETED_TASK), graph=GRAPH, num_drawn=1_000, after=5),
    "limits": Limits(limits=(LIMIT, NO_LIMIT, IN_ORDER), after="webhooks"),
    "queues": Queues(queues=QUEUES, rates=RATES, after="mail", is_registering=True, has_limits=True),
    "queue": QueuePage(
        queue=QUEUES[0],
        kinds=(
            QueueKind(kind="deliver_webhook", num_due=900, oldest_at=ago(261), is_worked=True),
            QueueKind(kind="deliver_webhok", num_due=3, oldest_at=ago(61), is_worked=False),
        ),
        clients=CLIENTS,
        newest=tuple(
            QueueJob(JobId(id), "deliver_webhook", state, 1, 25, 1, ago(30), ago(30))
            for id, state in enumerate(JobState, 1)
        ),
        is_registering=True,
        limit=LimitPage(
            limit=LIMIT,
            partitions=(
                PARTITION,
                PartitionLine(queue="webhooks", name="(hidden)", key="", next_start_at=ago(-3)),
                PartitionLine(queue="webhooks", name="halted", key="[]", halted_by=7, halted_at=ago(60)),
            ),
            partition=PARTITION,
        ),
        has_limits=True,
    ),
    "periodic": PERIODIC,
    "fleet": FleetPage(
        clients=CLIENTS,
        gone=GONE,
        leaders=LEADERS,
        other_queues=("mail",),
        events=EVENTS,
        unworked_kinds=(
            UnworkedKind(
                kind="deliver_webhok", queue="webhooks", num_due=3, oldest_at=ago(61), has_clients=True
            ),
        ),
        is_registering=True,
    ),
}
EXPLAINED = key_lines("uploads/8.png", FINDINGS_OF_LEDGER, REMOVALS, ORPHANS)
EMPTY: dict[str, msgspec.Struct] = {
    "overview": Overview(
        verdict=Verdict(level=Level.OK, findings=()),
        counts=(),
        slots=0,
        num_clients=0,
        queues=(),
        history=NO_HISTORY,
        errors=(),
    ),
    "errors": Errors(
        groups=(),
        ranges=RANGE_NAMES,
        range="1d",
        kind=None,
        is_recorded=False,
        is_hidden=False,
        counted_to=None,
    ),
    "history": HistoryPage(
        history=NO_HISTORY,
        ranges=RANGE_NAMES,
        range="1h",
        kind=None,
        queue="mail",
        by_kind=(),
        by_queue=(),
        is_recorded=False,
    ),
    "jobs": page_of(parse_search(""), ()),
    "new_job": NewJob(
        kind="",
        args="{}",
        queue="default",
        priority=1,
        max_attempts=25,
        tags=(),
        copy_of=None,
        known_kinds=(),
        known_queues=(),
    ),
    "orphans": OrphansPage(),
    "audit": Audit(entries=(), before=None, is_recorded=False),
    "bulk_list": BulkList(changes=(), is_recorded=False),
    "bulk": BulkPage(
        change=msgspec.structs.replace(
            BULK, state=BulkState.COLLECTING, num_jobs=0, kinds={}, queues={}, skipped={}, num_changed=0
        ),
        num_left=0,
        must_type=False,
        may_change=False,
    ),
    "job": JobPage(
        job=msgspec.structs.replace(
            details(JobState.PENDING),
            attempt=0,
            errors=(),
            num_errors=0,
            logs={},
            tags=(),
            output=None,
            unique_key=None,
        ),
        attempts=(),
        wait=Wait(reason=WaitReason.PENDING),
        can=(),
    ),
    "dead": DeadJobs(is_there=False),
    "dead_job": msgspec.structs.replace(DEAD, can=("delete",), current_state=JobState.COMPLETED),
    "flows": Flows(is_there=False),
    "flow": FlowPage(
        flow=msgspec.structs.replace(
            FLOW, state=FlowState.CANCELLED, num_failed=0, num_skipped=0, cancelled_at=ago(9), ended_at=ago(3)
        ),
        tasks=(),
        graph=None,
        num_drawn=0,
        state=TaskState.FAILED,
    ),
    "limits": Limits(limits=(), is_there=False),
    "queues": Queues(queues=(), after=None, is_registering=False),
    "queue": QueuePage(
        queue=msgspec.structs.replace(QUEUES[1], has_row=False, paused_at=None, limit=None),
        kinds=(),
        clients=(),
        newest=(),
        is_registering=False,
    ),
    "periodic": PeriodicPage(jobs=()),
    "fleet": FleetPage(
        clients=(), gone=(), leaders=(), other_queues=(), unworked_kinds=(), is_registering=False
    ),
}


def page_html(
    name: str, data: msgspec.Struct, query: dict[str, str] | None = None, role: Role = Role.ADMIN
) -> str:
    """Return a page as the application renders it."""
    page = next(page for page in PAGES if page.name == name)
    assert page.template is not None
    return render(
        page.template,
        prefix="",
        now=NOW,
        config=WebConfig(name="shop"),
        database=DatabaseLabel(name="shop"),
        databases=[],
        tabs=TABS,
        version="0.1.0",
        query=query or {},
        here="/",
        asked=None,
        user=User(name="ada", role=role),
        csrf="c5rf",
        tab=page.tab,
        title=page.title,
        page=data,
    )
