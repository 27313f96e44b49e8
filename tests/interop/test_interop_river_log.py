"""The logs of attempts, which both languages append to one array."""

from __future__ import annotations

import json
from typing import Any

import pytest
from interop_harness import BOTH_WAYS, LANGUAGES, Harness, Language

LOG = "river:log"
MEBIBYTE = 1 << 20


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "interop.script")


@pytest.mark.parametrize(("first", "second"), BOTH_WAYS)
async def test_attempt_appends_its_log_to_the_other_language_s(
    harness: Harness, first: Language, second: Language
) -> None:
    """
    23: reserved_metadata_cross_engine.

    Each attempt appends one entry in the same form, whether it fails or succeeds.
    """
    odd = "<é>&日"
    id = await harness.control(first).insert(
        ["log", "one"], ["log", odd], ["fail_before", 4], ["retry_in", 3600]
    )

    events = ["job_failed"] * 3 + ["job_completed"]
    for language, event in zip((first, second) * 2, events, strict=True):
        count = len(harness.events.all(event, job=id, client=language)) + 1
        async with harness.working(language, language):
            await harness.events.wait(event, job=id, client=language, count=count)
        await _make_due(harness, id)

    entry = f"level=INFO msg=one\nlevel=INFO msg={odd}\n"
    read = await harness.go.call("get", schema=harness.schema, job=id)
    assert read["metadata"] == {LOG: [{"attempt": n, "log": entry} for n in (1, 2, 3, 4)]}
    assert (await harness.row(id))["metadata"] == read["metadata"]


@pytest.mark.parametrize("language", LANGUAGES)
async def test_attempt_that_logs_nothing_writes_nothing(harness: Harness, language: Language) -> None:
    """23: An attempt without log lines adds no entry or key, and leaves an existing value as it is."""
    control = harness.control(language)
    silent = await control.insert(pending=True)
    odd = await control.insert(["log", "one"], pending=True)
    await _begin(harness, silent, {LOG: [{"attempt": 0, "log": "a", "more": 1}]})
    await _begin(harness, odd, {LOG: {"a": 1}})

    async with harness.working(language):
        for id in (silent, odd):
            await harness.events.wait("job_completed", job=id)

    rows = await harness.rows()
    assert [row["metadata"] for row in rows] == [
        {LOG: [{"attempt": 0, "log": "a", "more": 1}]},
        {LOG: {"a": 1}},
    ]


async def test_log_entry_is_the_same_for_each_outcome(harness: Harness) -> None:
    """23: A snoozed, cancelled or discarded attempt keeps the same entry and output in both languages."""
    stories = [
        [["log", "a"], ["snooze", 3600]],
        [["log", "a"], ["cancel", "no"]],
        [["log", "a"], ["fail", "no"]],
        [["log", "a"], ["output", 1], ["log", "b"]],
        [["step", "a", [["log", "in"]]], ["log", "out"], ["fail", "no"]],
    ]
    ids = {
        language: [
            await harness.control("go").insert(*acts, ["retry_in", 3600], queue=language) for acts in stories
        ]
        for language in LANGUAGES
    }
    async with harness.working("go", queues={"go": 10}), harness.working("python", queues={"python": 10}):
        await harness.until(lambda: _is_all_settled(harness), "the end of all attempts")

    rows = {row["id"]: row["metadata"] for row in await harness.rows()}
    reported = {language: [rows[id] for id in ids[language]] for language in LANGUAGES}
    assert reported["python"] == reported["go"]
    assert all(metadata[LOG] for metadata in reported["go"])


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), BOTH_WAYS)
async def test_both_languages_cut_and_drop_long_logs_alike(
    harness: Harness, first: Language, second: Language
) -> None:
    """23: At two mebibytes an attempt and eight a job, each language drops the oldest entries of both."""
    id = await harness.control("go").insert(
        ["log", "x" * 3 * MEBIBYTE], ["fail_before", 7], ["retry_in", 3600]
    )

    kept = []
    for n in range(6):
        language = (first, second)[n % 2]
        async with harness.working(language, language):
            await harness.events.wait(
                "job_failed", job=id, client=language, count=_num_told(harness, id, language) + 1
            )
        entries = (await harness.row(id))["metadata"][LOG]
        kept.append([one["attempt"] for one in entries])
        assert {len(one["log"]) for one in entries} == {2 * MEBIBYTE}
        await _make_due(harness, id)

    # Four entries are a few bytes more than eight mebibytes.
    assert kept == [[1], [1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 6]]


async def _begin(harness: Harness, id: int, metadata: dict[str, Any]) -> None:
    sql = "UPDATE /* schema */river_job SET state = 'available', metadata = $2::text::jsonb WHERE id = $1"
    await harness.fetch(sql, id, json.dumps(metadata))


async def _is_all_settled(harness: Harness) -> bool:
    sql = "SELECT count(*) FROM /* schema */river_job WHERE state IN ('available', 'running')"
    return not (await harness.fetch(sql))[0][0]


async def _make_due(harness: Harness, id: int) -> None:
    sql = (
        "UPDATE /* schema */river_job SET state = 'available', scheduled_at = now() "
        "WHERE id = $1 AND state <> 'completed'"
    )
    await harness.fetch(sql, id)


def _num_told(harness: Harness, id: int, client: str) -> int:
    return len(harness.events.all("job_failed", job=id, client=client))
