"""Claims about what a user changes of a limit and its partitions."""

from __future__ import annotations

import dataclasses
import re
from datetime import timedelta

import httpx
import pytest
from limited_reports import ACME, LIMIT, get, held, post, reports, the_limit

from factory import qualified
from millhand.core.limit import Limit, Rate
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.store.audit import audit_list
from millhand.engine.store.queue import queue_create_or_set_updated_at
from millhand.limits.store import limit_list, limit_partition_list


@pytest.mark.slow
async def test_user_holds_and_releases_a_partition(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """A held partition is on the pages of queue and job; the audit entry names it, and the log does not."""
    [job] = await reports(schema_driver, LIMIT, "acme")
    caplog.set_level("INFO", "millhand.web")

    answer = await browser.post(
        "/queues/reports/partition/hold", data={"key": ACME, "seconds": "600", "return_to": "/queues/reports"}
    )
    shown = (await browser.get(answer.headers["location"])).text
    wait = (await get(browser, f"/jobs/{job.id}"))["wait"]
    while_held = await held(schema_driver.pool)
    released = await post(browser, "partition/release", key=ACME)
    entries = await schema_driver.pool.run(audit_list(limit=9))

    assert "Held partition of queue reports." in shown
    assert (wait["reason"], while_held) == ("held", {ACME: True})
    assert (released, await held(schema_driver.pool)) == ((200, ""), {ACME: False})
    assert [(one.action, one.subject, one.detail) for one in entries] == [
        ("release", "partition of queue reports", {"partition": ACME}),
        ("hold", "partition of queue reports", {"seconds": 600.0, "partition": ACME}),
    ]
    assert "acme" not in caplog.text
    assert not any("acme" in str(vars(record)) for record in caplog.records)


@pytest.mark.slow
async def test_user_sets_a_partition_as_its_key_is_written(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A number keeps its digits and a list its order; an empty at_once is the limit's, and a missing field stays."""
    await reports(schema_driver, Limit(at_once=2, by_args=["tenant", "size"]))

    answers = [
        await post(browser, "partition", key='["acme",1.10]', at_once=5, weight=3),
        await post(browser, "partition", key='["acme", 1.10]', weight=2),
    ]
    set_once = await get(browser, "/queues/reports", partition='["acme",1.10]')
    answers.append(await post(browser, "partition", key='["acme", 1.10]', at_once=""))
    found = await schema_driver.pool.run(limit_partition_list("reports"))

    assert answers == [(200, "")] * 3
    assert [set_once["limit"]["partition"][name] for name in ("key", "at_once", "weight")] == [
        '["acme", 1.10]', 5, 2,
    ]  # fmt: skip
    assert [(one.key, one.at_once, one.weight) for one in found] == [('["acme", 1.10]', None, 2)]


@pytest.mark.slow
async def test_user_sets_resets_and_removes_a_limit(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """Given numbers change and others stay; a reset is to what code declared; a removal says how many jobs waited."""
    await reports(schema_driver, LIMIT, *["acme"] * 3)
    pool = schema_driver.pool

    changes = [
        await post(
            browser, "limit", at_once="5", note="busy", rate_allowed="90", rate_seconds="0.5", rate_burst="1"
        )
    ]
    limits = [await the_limit(pool)]
    changes.append(await post(browser, "limit", total=7, rate_allowed="", rate_seconds="", rate_burst=None))
    limits.append(await the_limit(pool))
    page = (await get(browser, "/queues/reports"))["limit"]["limit"]
    html = (await browser.get("/queues/reports")).text
    changes.append(await post(browser, "limit/reset"))
    limits.append(await the_limit(pool))
    removed = (await browser.post("/api/v1/queues/reports/limit/remove")).json()
    again = await post(browser, "limit/remove")
    entries = await pool.run(audit_list(limit=9))

    rate = Rate(90, per=timedelta(seconds=0.5), burst=1)
    assert changes == [(200, "")] * 3
    assert limits == [
        Limit(at_once=5, by_args=["tenant"], rate=rate, note="busy"),
        Limit(at_once=5, by_args=["tenant"], total=7, note="busy"),
        LIMIT,
    ]
    assert (page["values"]["at_once"], page["declared"]["at_once"]) == (5, 2)
    assert "<dt>Note</dt><dd>busy</dd>" in html
    assert (removed["subject"], removed["num_jobs"], await the_limit(pool)) == (
        "limit of queue reports",
        3,
        None,
    )
    assert again[0] == 404
    assert [(one.action, one.num_jobs) for one in entries] == [
        ("remove", 3), ("reset", 0), ("set", 0), ("set", 0),
    ]  # fmt: skip


@pytest.mark.slow
async def test_user_sets_a_limit_for_a_queue_without_one(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A queue without a limit gets one, which nothing can reset because no code declared it."""
    await schema_driver.pool.run(queue_create_or_set_updated_at("reports"))
    html = (await browser.get("/queues/reports")).text

    answers = [await post(browser, "limit/reset"), await post(browser, "limit", at_once=3)]
    answers.append(await post(browser, "limit/reset"))

    assert "Set a limit" in html
    assert answers == [
        (404, "limit of queue must exist, found none with name 'reports'"),
        (200, ""),
        (
            409,
            (
                "limit of queue 'reports' must be declared in code to be reset, got one that was only set at run time; "
                "remove it"
            ),
        ),
    ]
    assert await the_limit(schema_driver.pool) == Limit(at_once=3)


@pytest.mark.parametrize(
    ("path", "fields", "detail"),
    [
        ("limit", {"at_once": "0"}, "at_once must be a number from 1 to 2,147,483,647, got '0'"),
        ("limit", {"at_once": ""}, "limit must have at_once"),
        ("limit", {"rate_allowed": "9"}, "rate_seconds must be a number of seconds, got ''"),
        ("limit", {"rate_allowed": "9", "rate_seconds": "inf", "rate_burst": "1"}, "rate_seconds must be"),
        ("limit", {"rate_allowed": "9", "rate_seconds": "nan", "rate_burst": "1"}, "rate_seconds must be"),
        ("limit", {"rate_allowed": "9", "rate_seconds": "0", "rate_burst": "1"}, "per must be positive"),
        ("partition", {"key": "acme", "weight": "2"}, "partition must be a JSON list of 1 values, such as"),
        (
            "partition",
            {"key": "sha256:0", "weight": "2"},
            "partition must be a JSON list of 1 values, such as",
        ),
        ("partition", {"key": "[]", "weight": "2"}, "partition must be a JSON list of 1 values, such as"),
        ("partition", {"key": '["a\\u0000"]', "weight": "2"}, "partition must be a JSON list of 1 values"),
        ("partition", {"key": '["\\ud800"]', "weight": "2"}, "partition must be a JSON list of 1 values"),
        ("partition", {"key": "[NaN]", "weight": "2"}, "partition must be a JSON list of 1 values, such as"),
        ("partition", {"key": ACME, "weight": "1001"}, "weight must be a number from 1 to 1,000, got '1001'"),
        ("partition/hold", {"key": ACME}, "seconds must be a number from 1 to 31,622,400, got ''"),
    ],
)
async def test_invalid_change_of_a_limit_is_refused(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver, path: str, fields: dict[str, str], detail: str
) -> None:
    """An answer of 400 names the field, the rule and the value, and nothing is changed."""
    await reports(schema_driver)

    status, text = await post(browser, path, **fields)

    assert (status, text[: len(detail)]) == (400, detail)
    assert await the_limit(schema_driver.pool) == LIMIT
    assert await held(schema_driver.pool) == {}


@pytest.mark.slow
async def test_set_of_a_number_keeps_all_other_values(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """The page's own form, sent with another total, changes the total alone: of a limit in code, and of River UI's form."""
    limit = Limit(
        at_once=3,
        at_once_per_client=2,
        by_args=["tenant"],
        by_kind=True,
        rate=Rate(9, per=timedelta(days=30, microseconds=1), burst=2),
    )
    await reports(schema_driver, limit)
    form = dict(
        re.findall(r'name="(\w+)" value="([^"]*)" inputmode', (await browser.get("/queues/reports")).text)
    )

    answer = await post(browser, "limit", **{**form, "total": "7"})
    changed = await the_limit(schema_driver.pool)
    table = qualified("/* schema */river_queue", schema_driver.pool)
    await schema_driver.pool.fetch(
        f"UPDATE {table} SET metadata = $1::text::jsonb WHERE name = 'reports'",
        ['{"concurrency": {"global_limit": 5, "partition": {"by_args": ["region"]}}}'],
    )
    answers = [answer, await post(browser, "limit", total="8")]

    assert form["rate_seconds"] == "2592000.000001"
    assert answers == [(200, "")] * 2
    assert changed == dataclasses.replace(limit, total=7)
    assert await the_limit(schema_driver.pool) == Limit(
        at_once=5, by_args=["region"], rate=limit.rate, total=8
    )


async def test_set_of_a_limit_refuses_a_name_that_no_queue_can_have(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A limit of such a queue would stay without use, so the name is checked."""
    answer = await browser.post("/api/v1/queues/no queue!/limit", json={"at_once": 3})

    assert answer.status_code == 400
    assert "queue must" in answer.json()["detail"]
    assert await schema_driver.pool.run(limit_list()) == []
