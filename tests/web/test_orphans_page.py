"""Claims about the pages of the orphan cleanup, on a ledger that no store stands behind."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from test_unusual_rows import HOSTILE, Markup, assert_harmless
from visitors import USERS, bearer

from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import Migrator
from millhand.orphans import Finding, Mode, OrphansConfig, Run
from millhand.orphans.ledger import (
    Action,
    Totals,
    action_insert_many,
    action_set_state_many,
    finding_put_many,
    run_finish,
    run_insert,
)
from millhand.orphans.removal.alerts import raise_alerts
from millhand.web import WebConfig, dashboard

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
STORE = "s3://shop/"
CONFIG = OrphansConfig(mode=Mode.DELETE)
DAY = timedelta(days=1)


@pytest.fixture
async def reader(schema_driver: AsyncpgDriver) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a page that knows the settings of the cleanup."""
    app = dashboard(schema_driver, WebConfig(users=USERS, orphans=CONFIG))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://page", headers=bearer("admin")
    ) as client:
        yield client
    await app.stop()


async def ran(driver: AsyncpgDriver, *found: Finding, store: str = STORE, **end: Any) -> Run:
    """Record a run with its findings, and return it."""
    insert = run_insert(bucket=store, mode="delete", fingerprint="f", now=NOW, is_ordered=True)
    run = await driver.pool.run(insert)
    assert run is not None
    await driver.pool.run(finding_put_many(store, run.id, found, now=NOW))
    if end.get("state") != "scanning":
        await driver.pool.run(
            run_finish(run, now=NOW + timedelta(minutes=2), **{"state": "completed", **end})
        )
    return run


def finding(key: str, rule: int = 12, **changes: Any) -> Finding:
    plain = Finding(
        key=key, kind="orphan", reference="none", rule=rule, is_present=True, size=7, first_seen_at=NOW - DAY,
        last_seen_at=NOW, sightings=1,
    )  # fmt: skip
    return replace(plain, **changes)


async def quarantined(driver: AsyncpgDriver, run: Run, *keys: str) -> list[int]:
    """Record removals of these keys, and return their ids."""
    actions = [Action(key=key, rule=12, size=1_000, quarantine_key=f"q/{key}") for key in keys]
    done = await driver.pool.run(action_insert_many(run.bucket, run.id, actions, now=NOW))
    ids = [one.id for one in done]
    await driver.pool.run(action_set_state_many(dict.fromkeys(ids, ("quarantined", "")), was=None, now=NOW))
    return ids


@pytest.mark.slow
async def test_page_shows_runs_findings_and_quarantine(
    reader: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A person sees why a run aborted, what is due and why, and when an object in quarantine is deleted."""
    reason = "objects to remove must be at most 10,000, got 12,000"
    run = await ran(
        schema_driver,
        finding("due.png"),
        finding("young.png", 11),
        state="aborted",
        totals=Totals(objects=5, due=1),
        abort_reasons=[reason],
    )
    [id] = await quarantined(schema_driver, run, "gone.png")
    await raise_alerts(schema_driver.pool, {id: "a reader asked for it"}, now=NOW)

    page = (await reader.get("/orphans")).text
    found = (await reader.get("/api/v1/orphans")).json()

    assert [one in page for one in (reason, "due.png", "gone.png", "an orphan for 7 d, due for removal")] == [
        True
    ] * 4
    assert [(one["rule"], one["is_due"], one["number"]) for one in found["rules"]] == [
        (12, True, 1),
        (11, False, 1),
    ]
    assert [(one["key"], one["due_at"]) for one in found["findings"]] == [
        ("due.png", None),
        ("young.png", "2026-12-03T12:00:00Z"),
    ]
    assert [(one["state"], one["objects"], one["due"]) for one in found["runs"]] == [("aborted", 5, 1)]
    [held] = found["quarantine"]["objects"]
    assert (held["deleted_at"], held["alert"]) == ("2026-12-04T12:00:00Z", "a reader asked for it")
    assert found["quarantine"]["bytes"] == 1_000
    assert [one["key"] for one in found["alerts"]] == ["gone.png"]


async def test_page_without_the_settings_promises_no_end(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A page that does not know the settings names the periods, and shows no instant that it cannot know."""
    run = await ran(schema_driver, finding("young.png", 11))
    await quarantined(schema_driver, run, "gone.png")

    found = (await browser.get("/api/v1/orphans")).json()
    page = (await browser.get("/orphans")).text

    assert found["periods"] is None
    assert found["findings"][0]["due_at"] is None
    assert found["quarantine"]["objects"][0]["deleted_at"] is None
    assert "not yet for the grace period" in page
    assert ">unknown</td>" in page


async def test_each_store_has_its_own_page(reader: httpx.AsyncClient, schema_driver: AsyncpgDriver) -> None:
    """Findings of one store are not on the page of another, and an unknown store is not found."""
    await ran(schema_driver, finding("a.png"))
    await ran(schema_driver, finding("b.png"), store="s3://archive/")

    pages = {
        store: (await reader.get("/api/v1/orphans", params={"store": store})).json()
        for store in (STORE, "s3://archive/")
    }

    assert {store: [one["key"] for one in page["findings"]] for store, page in pages.items()} == {
        STORE: ["a.png"],
        "s3://archive/": ["b.png"],
    }
    assert [one["bucket"] for one in pages[STORE]["stores"]] == ["s3://archive/", STORE]
    assert (await reader.get("/orphans?store=s3://other/")).status_code == 404


@pytest.mark.slow
async def test_pages_of_findings_and_quarantine_have_each_key_once(
    reader: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """The cursors lead over all findings of a rule, of an aborted run and the one before, and over all of the quarantine."""
    keys = [f"{number:03}" for number in range(40)]
    await ran(schema_driver, *[finding(key) for key in keys], finding("other", 11))
    run = await ran(schema_driver, *[finding(key) for key in keys[:30]], state="aborted")
    await quarantined(schema_driver, run, *keys)

    async def collected(cursor: str, path: str, *names: str) -> list[str]:
        seen, query = [], {"rule": "12"}
        while True:
            page = (await reader.get("/api/v1/orphans", params=query)).json()
            part = page[names[0]] if names else page
            seen += [one["key"] for one in part[path]]
            after = part["after"]
            if after is None:
                return seen
            query[cursor] = after

    assert sorted(await collected("after", "findings")) == keys
    assert await collected("quarantine_after", "objects", "quarantine") == keys


async def test_runs_lead_to_older_ones(reader: httpx.AsyncClient, schema_driver: AsyncpgDriver) -> None:
    """Ten runs are on a page, newest first."""
    ids = [(await ran(schema_driver)).id for _ in range(11)]

    first = (await reader.get("/api/v1/orphans")).json()
    second = (await reader.get("/api/v1/orphans", params={"before": first["runs_before"]})).json()

    assert [run["id"] for run in first["runs"] + second["runs"]] == ids[::-1]
    assert second["runs_before"] is None


KEYS = [HOSTILE, "a\nb\x01\x7f", "x" * 1_024, "-rf 'it''s'", "ключ ☃/\u202egpj.exe", "a%2Fb?c=d&e#f", " "]


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS, ids=range(len(KEYS)))
async def test_unusual_key_is_text_and_leads_to_its_page(
    reader: httpx.AsyncClient, schema_driver: AsyncpgDriver, key: str
) -> None:
    """Any key that a store takes is shown as text, and its link leads to the page of exactly this key."""
    run = await ran(schema_driver, finding(key, source="uploads", row_id=HOSTILE, note=HOSTILE))
    await quarantined(schema_driver, run, key)

    listed = (await reader.get("/orphans")).text
    [path] = set(re.findall(r'href="(/orphans\?[^"]*key=[^"]*)"', listed))
    shown = (await reader.get(html.unescape(path))).text
    found = (await reader.get(f"/api/v1/orphans?key={quote(key, safe='')}")).json()["key"]

    for page in (listed, shown):
        assert_harmless(page)
    assert (found["key"], [one["key"] for one in found["findings"]]) == (key, [key])
    assert found["quarantined"]["key"] == key
    assert "millhand orphans restore --key " in Markup(shown).text


async def test_key_that_no_run_knows_has_the_command_to_ask_the_store(
    reader: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """For a key without findings the page says what that means, and which command explains it with the store."""
    await ran(schema_driver)

    page = await reader.get("/orphans", params={"key": "my photo.png"})

    assert page.status_code == 200
    assert "millhand orphans explain -- 'my photo.png'" in Markup(page.text).text
    assert "millhand orphans restore" not in page.text


@pytest.mark.parametrize(
    "path",
    ["/orphans?rule=x", "/orphans?after=-1", "/orphans?before=9999999999999999999", "/orphans?key=%00",
     f"/orphans?key={'x' * 2_049}", "/orphans?quarantine_after=%D9%A3"],
)  # fmt: skip
async def test_invalid_parameter_is_refused(browser: httpx.AsyncClient, path: str) -> None:
    """A cursor that is no number, and a key that no store takes, are 400."""
    assert (await browser.get(path)).status_code == 400


async def test_user_with_limits_sees_no_finding(
    reader: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """Findings are of all rows, so they are not for a user who sees some queues or kinds only."""
    run = await ran(schema_driver, finding("secret.png"))
    await quarantined(schema_driver, run, "secret.png")

    for path in ("/orphans", "/api/v1/orphans", "/orphans?key=secret.png"):
        answer = await reader.get(path, headers=bearer("other"))
        assert answer.status_code == 200
        assert "s3://shop/" not in answer.text
        assert "secret.png" not in answer.text


async def test_empty_states_say_what_to_do(
    browser: httpx.AsyncClient, reader: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """Without a run the page names the next command, with the settings and without, and without the tables the migration."""
    assert "millhand orphans init --write" in (await browser.get("/orphans")).text
    assert "A worker with these settings" in (await reader.get("/orphans")).text


@pytest.mark.slow
async def test_page_without_the_migration_names_it(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A fleet of Go clients alone has no ledger: the page says which command creates it."""
    migrator = Migrator(schema_driver, "millhand")
    await migrator.down(target=0)
    try:
        pages = [await browser.get(path) for path in ("/orphans", "/orphans?key=a")]
    finally:
        await migrator.up()

    assert [(page.status_code, "millhand migrate up" in page.text) for page in pages] == [(200, True)] * 2
