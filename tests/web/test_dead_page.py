"""Claims about dead letters on the pages: what is listed and shown, and to whom."""

from __future__ import annotations

import html
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from visitors import USERS, bearer

from dead_jobs import delete_row, discard, put_dead_jobs
from factory import insert_job, qualified
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.shells.web import database
from millhand.web import WebConfig, dashboard

NOW = datetime.now(UTC)
HIDDEN = (
    '{"at": "2026-03-10T12:00:00Z", "attempt": 1, "error": "ValueError: swordfish", "trace": "swordfish"}'
)


async def get(http: httpx.AsyncClient, path: str = "", user: str = "admin", **query: str) -> Any:
    """Return the status and the answer of the API."""
    answer = await http.get(f"/api/v1/dead{path}", params=query, headers=bearer(user))
    return answer.status_code, answer.json()


async def listed(http: httpx.AsyncClient, user: str = "admin", **query: str) -> list[int]:
    """Return the ids of a list."""
    status, page = await get(http, "", user, **query)
    assert status == 200, page
    return [job["id"] for job in page["jobs"]]


def visiting(driver: AsyncpgDriver, hide: Sequence[str] = ()) -> httpx.AsyncClient:
    """An administrator's browser of a page of its own."""
    transport = httpx.ASGITransport(dashboard(driver, WebConfig(users=USERS, hide=hide)))
    return httpx.AsyncClient(transport=transport, base_url="http://page", headers=bearer("admin"))


@pytest.mark.slow
async def test_filters_choose_dead_letters(browser: httpx.AsyncClient, schema_driver: AsyncpgDriver) -> None:
    """Kind, queue, a text of the last error, and times select; the job discarded last is first, with its row's state."""
    pool = schema_driver.pool
    ages = [timedelta(days=1), timedelta(days=3), timedelta(days=9)]
    old, older, oldest = [
        (await discard(pool, kind=kind, queue=queue, error=error, finalized_at=NOW - age)).id
        for age, kind, queue, error in zip(
            ages, ("a", "b", "a"), ("x", "x", "y"), ("Read timeout", "no", "a TIMEOUT"), strict=True
        )
    ]
    await put_dead_jobs(pool)
    await delete_row(pool, oldest)

    _, page = await get(browser)

    assert [(job["id"], job["current_state"], job["error"]) for job in page["jobs"]] == [
        (old, "discarded", "Read timeout"), (older, "discarded", "no"), (oldest, None, "a TIMEOUT"),
    ]  # fmt: skip
    assert await listed(browser, kind="a") == [old, oldest]
    assert await listed(browser, queue="x") == [old, older]
    assert await listed(browser, error="timeout") == [old, oldest]
    assert await listed(browser, since="5d") == [old, older]
    assert await listed(browser, until="2d") == [older, oldest]
    assert await listed(browser, until=f"{NOW - ages[1]:%Y-%m-%d}", since="30d") == [oldest]
    assert await listed(browser, kind="a", queue="y", error="timeout", since="30d", until="5d") == [oldest]


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({"since": "soon"}, "since must be a duration ago, a time or a date, got 'soon'; "),
        ({"until": "+1h"}, "until must be a duration ago, a time or a date, got '+1h'; "),
        ({"since": "1d..2d"}, "since must be a duration ago, a time or a date, got '1d..2d'; "),
        ({"after": "x"}, "cursor must be one that a list returned, got 'x'"),
        ({"after": f"2026-01-01T00:00:00+00:00_{2**63}"}, "cursor must be one that a list returned, got "),
    ],
)
async def test_invalid_filter_is_named(browser: httpx.AsyncClient, query: dict[str, str], text: str) -> None:
    """The error has the filter, the rule and the value, also without the table."""
    status, problem = await get(browser, **query)

    assert (status, problem["detail"][: len(text)]) == (400, text)


@pytest.mark.slow
async def test_cursor_leads_through_all_dead_letters(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A page has a hundred; the link to the next one keeps the filters, and no letter is listed twice."""
    ids = [(await discard(schema_driver.pool, finalized_at=NOW - timedelta(hours=1))).id for _ in range(101)]
    await put_dead_jobs(schema_driver.pool)

    _, first = await get(browser, kind="kind")
    _, last = await get(browser, kind="kind", after=first["after"])
    text = html.unescape((await browser.get("/dead?kind=kind")).text)

    assert [job["id"] for page in (first, last) for job in page["jobs"]] == ids[::-1]
    assert (len(first["jobs"]), last["after"]) == (100, None)
    assert '<a class="b sm" href="/dead?kind=kind&after=20' in text


@pytest.mark.slow
async def test_page_shows_one_dead_letter(browser: httpx.AsyncClient, schema_driver: AsyncpgDriver) -> None:
    """It has args, errors and traces of the copy, although the row is deleted; a job's page leads to its dead letter."""
    pool = schema_driver.pool
    job = await discard(pool, args='{"to": "ann"}', error="no answer", attempted_by=["worker-7"])
    alone = await discard(pool)
    await put_dead_jobs(pool)
    await pool.fetch(qualified("DELETE FROM /* schema */millhand_dead_job WHERE id = $1", pool), [alone.id])
    link = f'<a href="/dead/{job.id}">kept</a>'
    before = (await browser.get(f"/jobs/{job.id}")).text
    without = (await browser.get(f"/api/v1/jobs/{alone.id}")).json()
    await delete_row(pool, job.id)

    _, page = await get(browser, f"/{job.id}")
    shown = await browser.get(f"/dead/{job.id}")

    assert link in before
    assert without["has_dead_letter"] is False
    assert (page["job"]["args"]["text"], page["current_state"]) == ('{"to": "ann"}', None)
    assert [(one["error"], one["client_id"]) for one in page["attempts"]] == [("no answer", None)]
    assert page["job"]["attempted_by"] == ["worker-7"]
    assert page["can"] == ["retry", "delete"]
    assert "no answer" in shown.text
    assert await get(browser, f"/{alone.id}") == (
        404,
        {
            "title": "Not found",
            "status": 404,
            "detail": f"dead letter must exist, found none with id {alone.id}",
        },
    )


@pytest.mark.slow
async def test_dead_letter_of_a_retried_job_says_so(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """Its job runs, waits or has ended otherwise: the page leads there, and offers no retry."""
    job = await insert_job(schema_driver.pool, JobState.AVAILABLE)
    await put_dead_jobs(schema_driver.pool)

    _, page = await get(browser, f"/{job.id}")
    text = (await browser.get(f"/dead/{job.id}")).text

    assert (page["current_state"], page["can"]) == ("available", ["delete"])
    assert f'<dt>Job now</dt><dd><a href="/jobs/{job.id}">' in text


@pytest.mark.slow
async def test_hidden_values_are_on_no_page(schema_driver: AsyncpgDriver) -> None:
    """Neither args, errors nor traces show them, and no filter of errors confirms a guess."""
    job = await discard(schema_driver.pool, args='{"password": "swordfish"}', errors=[HIDDEN])
    await put_dead_jobs(schema_driver.pool)
    async with visiting(schema_driver, ["args.password"]) as http:
        texts = [
            (await http.get(f"{prefix}/dead{path}")).text
            for prefix in ("", "/api/v1")
            for path in ("", f"/{job.id}")
        ]
        refused = await get(http, error="sword")
        form = (await http.get("/dead")).text
    async with visiting(schema_driver) as http:
        plain = [(await http.get(f"/dead{path}")).text for path in ("", f"/{job.id}")]

    assert ["swordfish" in text for text in [*texts, *plain]] == [False] * 4 + [True] * 2
    assert all("(hidden)" in text for text in texts)
    assert refused[0] == 400
    assert refused[1]["detail"] == "error must be empty while a rule hides values, which errors may repeat"
    assert 'name="error"' not in form


async def test_user_with_limits_sees_their_own_dead_letters(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A dead letter of another queue or kind is not listed, whatever the filter is, and not found."""
    pool = schema_driver.pool
    own = await discard(pool, queue="other", kind="other")
    others = [
        await discard(pool, queue="mail", kind="other"),
        await discard(pool, queue="other", kind="mail"),
    ]
    await put_dead_jobs(pool)

    assert await listed(browser, "other") == [own.id]
    assert await listed(browser, "other", queue="mail") == []
    assert await listed(browser, "other", kind="mail") == []
    assert [(await get(browser, f"/{job.id}", "other"))[0] for job in (own, *others)] == [200, 404, 404]


async def test_page_works_without_the_table(schema_driver: AsyncpgDriver) -> None:
    """The list says what to run, the page of a discarded job has no link, and a change names the remedy."""
    pool = schema_driver.pool
    job = await discard(pool)
    await pool.fetch(qualified("ALTER TABLE /* schema */millhand_dead_job RENAME TO hidden_dead_job", pool))
    try:
        async with visiting(schema_driver) as http:
            text = (await http.get("/dead")).text
            page = (await http.get(f"/api/v1/jobs/{job.id}")).json()
            one = (await get(http, f"/{job.id}"))[0]
            refused = await http.post("/api/v1/dead/selected/retry", json={"ids": [job.id]})
    finally:  # other tests use the schema again
        await pool.fetch(
            qualified("ALTER TABLE /* schema */hidden_dead_job RENAME TO millhand_dead_job", pool)
        )

    assert "millhand migrate up" in text
    assert (page["has_dead_letter"], one) == (False, 404)
    assert (refused.status_code, refused.json()["detail"]) == (
        409, "dead letters must have their table, which is not there or not yours; run millhand migrate up",
    )  # fmt: skip


@pytest.mark.slow
async def test_slow_filter_says_what_to_choose(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list for which the database needs too long is a page with a remedy, not an error."""
    pool = schema_driver.pool
    await browser.get("/dead")  # learns that the table is there
    monkeypatch.setattr(database, "STATEMENT_SECONDS", 0.1)
    async with pool.begin() as tx:
        await tx.fetch(qualified("LOCK TABLE /* schema */millhand_dead_job IN ACCESS EXCLUSIVE MODE", pool))
        answer = await browser.get("/dead?error=x")

    assert answer.status_code == 200
    assert "The database needed too long" in answer.text
