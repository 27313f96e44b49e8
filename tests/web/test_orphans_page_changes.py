"""Claims about restores of removed objects from the page, which has no keys of the store."""

from __future__ import annotations

import asyncio
import html
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from visitors import bearer

from factory import GENEROUS_SECONDS, get_job, insert_job
from millhand.client import Client
from millhand.core.client_row import ClientRow, ClientState
from millhand.core.config import Config
from millhand.core.event import EventKind
from millhand.core.job import ClientId, JobId, JobState
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.fleet import Fleet
from millhand.engine.store.audit import audit_list
from millhand.engine.store.client import ClientHeartbeatParams, client_heartbeat
from millhand.jobs import OrphanRestore
from millhand.jobs.orphan_restore import OPTS
from millhand.orphans.ledger import Action, action_insert_many, action_set_state_many, run_insert
from millhand.orphans.page_changes import KIND, MAX_ATTEMPTS, STATES, restore_queue, selected

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
STORE = "s3://shop/"
RESTORE = "/api/v1/orphans/restore"
NO_CLIENT = "no client works kind orphan_restore; start a worker with the settings [storage] and [orphans]"


def test_job_is_the_one_that_the_worker_knows() -> None:
    """The page writes kind and options down, so that it does not import the cleanup; they are those of the job."""
    assert OPTS.unique is not None
    assert (OrphanRestore.kind, OPTS.max_attempts, OPTS.unique.by_state) == (KIND, MAX_ATTEMPTS, STATES)


def client(
    state: ClientState = ClientState.WORKING, kinds: tuple[str, ...] = (KIND,), **queues: int
) -> ClientRow:
    return ClientRow(id=ClientId("a"), state=state, last_seen_at=NOW, kinds=kinds, queues=queues)


@pytest.mark.parametrize(
    ("clients", "queue"),
    [
        ([client(mail=1, media=2)], "mail"),  # the built-in jobs are there
        ([client(media=2), client(default=1)], "default"),
        ([client(ClientState.UNRESPONSIVE, default=1), client(ClientState.STOPPED, default=1)], None),
        (
            [client(kinds=("orphan_cleanup",), default=1), client()],
            None,
        ),  # of an older release, or it only inserts
    ],
)
def test_queue_is_of_a_client_that_works_restores(clients: list[ClientRow], queue: str | None) -> None:
    """The queue of the built-in jobs of a live client that reports the kind; others cannot restore."""
    fleet = Fleet(clients=tuple(clients), leaders={}, other_queues=frozenset(), is_registering=True)

    assert restore_queue(fleet) == queue


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({}, "exactly one of key, prefix and run must be given, got none"),
        ({"key": "a", "run": "7"}, "exactly one of key, prefix and run must be given, got key and run"),
        ({"run": "x"}, "run must be a number from 1 to 9,223,372,036,854,775,807, got 'x'"),
        ({"run": "9" * 19}, "run must be a number from 1 to"),
        ({"key": "a\0"}, "key must have up to 2,048 characters and no null, got 2 characters"),
        ({"prefix": "a" * 2_049}, "prefix must have up to 2,048 characters"),
    ],
)
def test_form_selects_one_thing(form: dict[str, str], error: str) -> None:
    """A restore is of one key, prefix or run; blanks are part of a key."""
    with pytest.raises(ValueError, match=error):
        selected({name: [value] for name, value in form.items()})
    assert selected({"key": [" a "], "prefix": [""]}) == ("key", " a ")
    assert selected({"run": ["7"]}) == ("run", 7)


async def quarantined(driver: AsyncpgDriver, *keys: str) -> int:
    """Record a run that removed these keys, and return its id."""
    run = await driver.pool.run(
        run_insert(bucket=STORE, mode="delete", fingerprint="f", now=NOW, is_ordered=True)
    )
    assert run is not None
    actions = [Action(key=key, rule=12, size=9, quarantine_key=f"q/{key}") for key in keys]
    done = await driver.pool.run(action_insert_many(STORE, run.id, actions, now=NOW))
    await driver.pool.run(
        action_set_state_many(dict.fromkeys([one.id for one in done], ("quarantined", "")), was=None, now=NOW)
    )
    return run.id


async def work(driver: AsyncpgDriver, **changes: Any) -> None:
    """Record the heartbeat of a worker with the settings of the cleanup."""
    params = {
        "id": ClientId("a"), "hostname": "here", "kinds": ("orphan_cleanup", KIND), "pid": 42, "queue_updates": {},
        "queues": {"media": 5}, "heartbeat_interval": timedelta(seconds=5), "version": "1.2.3",
    }  # fmt: skip
    await driver.pool.run(
        client_heartbeat(ClientHeartbeatParams(**{**params, **changes}), started_at=datetime.now(UTC))
    )


@pytest.mark.slow
async def test_operator_restores_a_key_once(browser: httpx.AsyncClient, schema_driver: AsyncpgDriver) -> None:
    """A job with the store and the key is inserted for a worker; the audit has no key, and a second request is refused."""
    await quarantined(schema_driver, "a b.png")
    await work(schema_driver)
    form = {"store": STORE, "key": "a b.png"}

    page = (await browser.get("/orphans?key=a b.png", headers=bearer("operator"))).text
    answer = await browser.post("/orphans/restore", data=form, headers=bearer("operator"))
    again = await browser.post(RESTORE, data=form, headers=bearer("operator"))
    after = (await browser.get("/api/v1/orphans?key=a b.png", headers=bearer("viewer"))).json()

    id = int(answer.headers["location"].removeprefix("/jobs/"))
    job = await get_job(schema_driver.pool, JobId(id))
    assert (job.kind, job.queue, job.args) == (KIND, "media", form)
    assert ("Restore a b.png?" in page, "into queue media" in page) == (True, True)
    assert (again.status_code, f"got job {id} available" in again.json()["detail"]) == (409, True)
    [entry] = await schema_driver.pool.run(audit_list())
    assert (entry.action, entry.subject, entry.detail) == (
        "restore",
        f"job {id}",
        {"of": "key", "queue": "media"},
    )
    assert [(one["job_id"], one["what"], one["state"]) for one in after["restores"]] == [
        (id, "key a b.png", "available")
    ]


@pytest.mark.slow
async def test_worker_gets_what_the_form_selects(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A run reaches the worker as a number, blanks stay part of a key or a prefix, and each restore is on the page."""
    run = await quarantined(schema_driver, " a ")
    await work(schema_driver)
    forms = [{"run": f"{run}"}, {"key": " a "}, {"prefix": " "}]
    workers = Workers()
    seen: set[OrphanRestore] = set()

    @workers.add()
    async def restore(job: Job[OrphanRestore]) -> None:
        seen.add(job.args)

    answers = [await browser.post(RESTORE, data={"store": STORE, **form}) for form in forms]
    refused = await browser.post(RESTORE, data={"store": STORE, "key": "a\0b"})
    lines = (await browser.get("/api/v1/orphans")).json()["restores"]
    page = (await browser.get("/orphans")).text
    settings = Config(
        queues={"media": 4},
        schema=schema_driver.schema,
        workers=workers,
        heartbeat_interval=None,
        leader_election=False,
    )
    worker = Client(schema_driver, settings)
    with worker.subscribe(EventKind.JOB_COMPLETED, EventKind.JOB_FAILED) as events:
        async with worker, asyncio.timeout(GENEROUS_SECONDS):
            ends = [(await anext(events)).kind for _ in forms]

    assert [answer.status_code for answer in (*answers, refused)] == [200, 200, 200, 400]
    assert [line["what"] for line in lines] == ["prefix  ", "key  a ", f"run {run}"]
    assert f">run {run}</a>" in page
    assert ends == [EventKind.JOB_COMPLETED] * 3
    assert seen == {
        OrphanRestore(store=STORE, run=run),
        OrphanRestore(store=STORE, key=" a "),
        OrphanRestore(store=STORE, prefix=" "),
    }


@pytest.mark.slow
async def test_page_says_that_no_client_can_restore(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """Without a live worker of the kind, nothing is inserted, and the page has the command instead of the button."""
    await quarantined(schema_driver, "a.png")
    await work(schema_driver, kinds=("orphan_cleanup",))

    pages = [html.unescape((await browser.get(path)).text) for path in ("/orphans", "/orphans?key=a.png")]
    answer = await browser.post(RESTORE, data={"store": STORE, "key": "a.png"})

    assert ["No client works kind orphan_restore" in page for page in pages] == [True, True]
    assert ['action="/orphans/restore"' in page for page in pages] == [False, False]
    assert "millhand orphans restore --key a.png" in pages[1]
    assert (answer.status_code, answer.json()["detail"]) == (409, NO_CLIENT)
    assert await schema_driver.pool.run(audit_list()) == []


@pytest.mark.slow
@pytest.mark.parametrize(("store", "user", "status"), [("s3://other/", "admin", 404), (STORE, "other", 404)])
async def test_restore_of_another_store_or_by_a_user_with_limits_is_not_found(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver, store: str, user: str, status: int
) -> None:
    """A store without runs is as none, and a user with limits restores nothing: objects are of all rows."""
    await quarantined(schema_driver, "a.png")
    await work(schema_driver)

    answer = await browser.post(RESTORE, data={"store": store, "key": "a.png"}, headers=bearer(user))

    assert answer.status_code == status


@pytest.mark.slow
async def test_result_of_a_restore_is_on_the_page(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """The counts of a restore that ended are on the page; one of another store, or with other args, is not."""
    run = await quarantined(schema_driver, "a.png")
    await work(schema_driver)
    output = {
        "output": {
            "restored": 3,
            "rows": 2,
            "kept": 0,
            "already": 0,
            "failed": [{"key": "b", "reason": "gone"}],
        }
    }
    for args in (
        {"store": STORE, "run": run},
        {"store": "s3://other/", "run": run},
        {"store": STORE},
        {"store": 7},
    ):
        await insert_job(
            schema_driver.pool,
            JobState.COMPLETED,
            kind=KIND,
            args=json.dumps(args),
            metadata=json.dumps(output),
        )

    [line] = (await browser.get("/api/v1/orphans")).json()["restores"]
    page = (await browser.get("/orphans")).text

    assert [line[name] for name in ("what", "state", "restored", "rows", "num_failed")] == [
        f"run {run}", "completed", 3, 2, 1,
    ]  # fmt: skip
    assert f">run {run}</a>" in page
