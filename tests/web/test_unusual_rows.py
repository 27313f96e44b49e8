"""Whatever any program writes into the tables, each page shows it as text, and the rest of the page is not harmed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from shop_flows import put_flows_of_jobs

from dead_jobs import put_dead_jobs
from factory import insert_job, qualified
from millhand.core.job import JobState
from millhand.core.limit import Limit
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.engine.store.queue import queue_create_or_set_updated_at
from millhand.limits.store import limit_declare, limit_partition_hold
from millhand.web.routes import PAGES
from odd_rows import HUGE, ODD, WORKABLE_ALONE

# Breaks out of texts, attributes, scripts and templates, reverses its line, and clears a terminal.
HOSTILE = "\"'><b class=injected onclick=injected()><script>injected()</script>{{7*7}}\u202e\x1b[2J"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
CLIENT = """
INSERT INTO /* schema */millhand_client (
    id, language, version, hostname, pid, kinds, queues, queue_updates, heartbeat_interval, started_at, last_seen_at
)
VALUES ($1::text, $1, $1, $1, 1, ARRAY[$1], jsonb_build_object($1, 3), '{}', interval '5 s', now(), now())
"""
QUEUE = """
INSERT INTO /* schema */river_queue (name, updated_at, paused_at, metadata)
VALUES ($1::text, now(), now(), jsonb_build_object($1::text, $1::text))
"""


class Markup(HTMLParser):
    """What a browser would make of a page: its elements with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._is_script = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._is_script = tag == "script"
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if self._is_script and data.strip():
            self.scripts.append(data)
        self.text += data


# Pages that show no row of a job, and two that show what the leader counted of rows.
WITHOUT_ROWS = {"audit", "bulk", "bulk_list", "errors", "history", "new_job", "orphans"}


def paths(id: int, name: str = "default") -> Iterator[str]:
    """Yield the path of each page, with `name` for a parameter that is no number."""
    for page in [page for page in PAGES if page.template is not None and page.name not in WITHOUT_ROWS]:
        path = page.path.replace("{id:int}", str(id))
        yield re.sub(r"{\w+(:\w+)?}", quote(name, safe=""), path)


async def insert_hostile(executor: Executor, state: JobState) -> int:
    """Insert a job whose texts are all hostile."""
    error = {"at": "2024-05-01T10:00:00Z", "attempt": 1, "error": HOSTILE, "trace": HOSTILE}
    job = await insert_job(
        executor,
        state,
        kind=HOSTILE,
        queue=HOSTILE,
        args=json.dumps({HOSTILE: [HOSTILE, {HOSTILE: 1}]}),
        errors=[json.dumps(error)],
        attempt=1,
        attempted_by=[HOSTILE],
        metadata=json.dumps(
            {
                "output": HOSTILE,
                "river:log": [{"attempt": 1, "log": HOSTILE}],
                "river:periodic_job_id": HOSTILE,
                "task": HOSTILE,
                HOSTILE: HOSTILE,
            }
        ),
        tags=[HOSTILE],
    )
    return job.id


def assert_harmless(html: str) -> None:
    """Assert that a page has no element, attribute, script or control character of a row."""
    markup = Markup(html)
    assert [
        pair for pair in markup.attributes if pair[0].startswith("on") or pair == ("class", "injected")
    ] == []
    assert [value for _, value in markup.attributes if value.startswith("javascript:")] == []
    assert markup.scripts == []
    assert CONTROL.findall(html) == []


@pytest.mark.slow
async def test_hostile_texts_are_shown_as_text(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """Markup in the kind, queue, args, errors, trace, log, output, tags or client of a job is text on every page."""
    tx = schema_driver.pool
    for state in (JobState.RUNNING, JobState.AVAILABLE, JobState.RETRYABLE, JobState.COMPLETED):
        id = await insert_hostile(tx, state)
    await put_flows_of_jobs(tx, HOSTILE)
    await put_dead_jobs(tx)
    await tx.fetch(qualified(QUEUE, tx), [HOSTILE])
    await tx.fetch(qualified(CLIENT, tx), [HOSTILE])
    await tx.run(limit_declare({HOSTILE: Limit(at_once=1, by_args=["tenant"])}))
    await tx.run(limit_partition_hold(HOSTILE, [HOSTILE], timedelta(hours=1)))
    texts = {}
    for path in paths(id, HOSTILE):
        html = await browser.get(path)
        api = await browser.get(f"/api/v1{path}")
        assert (html.status_code, api.status_code) == (200, 200), path
        assert_harmless(html.text)
        texts[path] = Markup(html.text).text

    without = [path for path, text in texts.items() if "injected()" not in text]
    assert without == []


@pytest.mark.slow
@pytest.mark.parametrize("change", (ODD | WORKABLE_ALONE).values(), ids=(ODD | WORKABLE_ALONE).keys())
async def test_unusual_row_is_shown(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver, change: str
) -> None:
    """Each page and each answer of the API is 200 with a row that no program of ours would write."""
    states = (JobState.RUNNING, JobState.RETRYABLE, JobState.COMPLETED, JobState.AVAILABLE)
    tx = schema_driver.pool
    ids = [(await insert_job(tx, state, args='{"what": "odd"}')).id for state in states]
    await put_flows_of_jobs(tx)
    await tx.execute_script(f"UPDATE /* schema */river_job SET {change}")
    await put_dead_jobs(tx)
    await tx.run(queue_create_or_set_updated_at("default"))
    statuses: dict[str, Any] = {}
    for path in {path for id in ids for path in paths(id)}:
        html = await browser.get(path)
        assert_harmless(html.text)
        statuses[path] = html.status_code, (await browser.get(f"/api/v1{path}")).status_code

    assert {path: status for path, status in statuses.items() if status != (200, 200)} == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [HUGE, "args = jsonb_build_object('text', repeat('x', 40 * 1024 * 1024))"],
    ids=["output of 40 MB", "args of 40 MB"],
)
async def test_row_of_40_megabytes_does_not_fill_a_page(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver, change: str
) -> None:
    """A page with a row of 40 MB has less than 200 kB, however long a busy server needs for it."""
    tx = schema_driver.pool
    job = await insert_job(tx, JobState.COMPLETED)
    await put_flows_of_jobs(tx)
    await tx.execute_script(f"UPDATE /* schema */river_job SET {change}")
    await put_dead_jobs(tx)
    answers = {path: await browser.get(path) for path in paths(job.id)}

    assert {path: answer.status_code for path, answer in answers.items() if answer.status_code != 200} == {}
    assert {
        path: len(answer.content) for path, answer in answers.items() if len(answer.content) > 200_000
    } == {}
