"""Resumable steps: one language continues where the other stopped, and both leave the same row."""

from __future__ import annotations

import json
from typing import Any

import pytest
from interop_harness import BOTH_WAYS, LANGUAGES, Harness, Language

STEP, CURSOR = "river:resumable_step", "river:resumable_cursor"
AN_HOUR = ["retry_in", 3600]
KEEP = ["fail", "boom"]

# What stands in the row before, and what the attempt does. Both languages must leave the same row.
STORIES: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "step done, next fails": ({}, [["step", "a", []], ["step", "b", [KEEP]]]),
    "first step fails": ({}, [["step", "a", [KEEP]]]),
    "fails between steps": ({}, [["step", "a", []], KEEP]),
    "success stores nothing": ({STEP: "a"}, [["step", "a", []], ["step", "b", []]]),
    "cursor left": ({}, [["step", "a", []], ["cursor_step", "b", [["advance", 3], KEEP]]]),
    "cursor left by the first": ({}, [["cursor_step", "a", [["advance", 3], KEEP]]]),
    "cursor goes on": ({STEP: "a", CURSOR: {"b": 3}}, [["step", "a", []], ["cursor_step", "b", [["advance", 3], KEEP]]]),
    "cursor of the resumed step": ({STEP: "a", CURSOR: {"a": 3}}, [["cursor_step", "a", [["advance", 1], KEEP]]]),
    "cursor used up": ({}, [["cursor_step", "a", [["advance", 3]]], KEEP]),
    "stored cursor used up": ({STEP: "a", CURSOR: {"a": 3}}, [["cursor_step", "a", []], KEEP]),
    "one of two used up": ({CURSOR: {"a": 1, "b": 2}}, [["cursor_step", "a", []], ["cursor_step", "b", [KEEP]]]),
    "resumed cursor step without cursor": ({STEP: "a"}, [["cursor_step", "a", [["advance", 1]]], KEEP]),
    "resumed step left out": ({STEP: "b"}, [["step", "a", []], ["step", "b", []], ["step", "c", [KEEP]]]),
    "only met": ({STEP: "a"}, [["step", "a", []], KEEP]),
    "step is gone": ({STEP: "gone"}, [["step", "a", []], ["step", "b", []]]),
    "step is gone and it fails": ({STEP: "gone"}, [["step", "a", []], KEEP]),
    "cursor's step is gone": ({CURSOR: {"gone": 1}}, [["step", "a", []], ["cursor_step", "b", [["advance", 1]]]]),
    "cursor's step is gone and it fails": ({CURSOR: {"gone": 1}}, [["step", "a", []], KEEP]),
    "cursor's step is plain": ({CURSOR: {"a": 1}}, [["step", "a", []]]),
    "cursor met after a step": ({CURSOR: {"b": 1}}, [["step", "a", []], ["cursor_step", "b", [KEEP]]]),
    "no worker of steps": ({STEP: "a"}, [["output", 1]]),
    "cursor and no worker of steps": ({CURSOR: {"a": 1}}, [["output", 1]]),
    "null cursor": ({CURSOR: None}, [["step", "a", []], KEEP]),
    "empty cursor": ({CURSOR: {}}, [["step", "a", []], KEEP]),
    "odd step": ({STEP: 7}, [["step", "a", []], KEEP]),
    "cursor that is null": ({CURSOR: {"a": None}}, [["raw_cursor_step", "a", [KEEP]]]),
    "nested": ({}, [["step", "a", [["step", "b", []]]]]),
    "nested after a step": ({}, [["step", "a", []], ["cursor_step", "b", [["advance", 1], ["step", "c", []]]]]),
    "nested within a checkpoint": ({}, [["cursor_step", "a", [["checkpoint", "commit", 1], ["step", "b", []]]]]),
    "named twice": ({}, [["step", "a", []], ["step", "b", []], ["step", "a", []]]),
    "named twice with a cursor": ({}, [["cursor_step", "a", [["advance", 1]]], ["cursor_step", "a", []]]),
    "snooze": ({}, [["step", "a", []], ["cursor_step", "b", [["advance", 2], ["snooze", 3600]]]]),
    "cancel": ({}, [["step", "a", []], ["cursor_step", "b", [["advance", 2], ["cancel", "no"]]]]),
    "with other metadata": ({"other": 1}, [["metadata", "seen", 2], ["output", 3], ["step", "a", []], KEEP]),
    "raw cursor": ({}, [["raw_cursor_step", "a", [["cursor", {"at": ["é", 1.5, None, 10**30]}], KEEP]]]),
    "raw cursor goes on": (
        {STEP: "z", CURSOR: {"a": {"at": 1}}},
        [["step", "z", []], ["raw_cursor_step", "a", [["cursor", "text"], KEEP]]],
    ),
    "odd names": ({}, [["step", "a.b\\*?|#@:{[", []], ["cursor_step", "<é>\n", [["advance", 1], KEEP]]]),
    "checkpoint": ({}, [["step", "a", [["checkpoint", "commit"], KEEP]]]),
    "checkpoint and success": ({}, [["step", "a", [["checkpoint", "commit"]]], ["step", "b", []]]),
    "checkpoint, then a step": ({}, [["step", "a", [["checkpoint", "commit"]]], ["step", "b", []], KEEP]),
    "checkpoint with cursor": ({}, [["cursor_step", "a", [["checkpoint", "commit", 5], KEEP]]]),
    "checkpoint with cursor, then done": ({}, [["cursor_step", "a", [["checkpoint", "commit", 5]]], KEEP]),
    "checkpoint with a cursor set": ({}, [["cursor_step", "a", [["advance", 4], ["checkpoint", "commit"], KEEP]]]),
    "checkpoint, then the cursor goes on": (
        {},
        [["raw_cursor_step", "a", [["checkpoint", "commit", 5], ["cursor", 6], KEEP]]],
    ),
    "checkpoint clears cursors": (
        {STEP: "a", CURSOR: {"b": 1}},
        [["step", "a", []], ["cursor_step", "b", []], ["step", "c", [["checkpoint", "commit"], KEEP]]],
    ),
    "checkpoint taken back": ({}, [["step", "a", []], ["step", "b", [["checkpoint", "rollback"], KEEP]]]),
    "checkpoint with cursor taken back": ({}, [["cursor_step", "a", [["advance", 1], ["checkpoint", "rollback", 5], KEEP]]]),
    "checkpoint fails its step": ({}, [["step", "a", []], ["cursor_step", "b", [["checkpoint", "fail", 5]]]]),
    "checkpoint taken back and done": ({}, [["step", "a", [["checkpoint", "rollback"]]], KEEP]),
    "checkpoint outside": ({}, [["checkpoint", "commit"]]),
    "checkpoint too early": ({CURSOR: {"b": 1}}, [["step", "a", [["checkpoint", "commit"]]], ["cursor_step", "b", []]]),
    "checkpoint in time": ({CURSOR: {"b": 1}}, [["cursor_step", "b", [["checkpoint", "commit", 2], KEEP]]]),
}  # fmt: skip

LOOP = [
    ["step", "first", []],
    ["cursor_step", "loop", [["advance", 3], ["fail_before", 2]]],
    ["step", "last", []],
]


@pytest.mark.parametrize(("first", "second"), BOTH_WAYS)
async def test_attempt_resumes_at_the_failed_step_of_the_other_language(
    harness: Harness, first: Language, second: Language
) -> None:
    """
    24: resumable_retry, resumable_cross_engine_cursor.

    The attempt skips the completed steps and gets the cursor of the failed one.
    """
    id = await harness.control(first).insert(*LOOP, AN_HOUR)

    async with harness.working(first, first):
        await harness.events.wait("job_failed", job=id)
    between = (await harness.row(id))["metadata"]
    await _make_due(harness, id)
    async with harness.working(second, second):
        await harness.events.wait("job_completed", job=id)

    assert between == {STEP: "first", CURSOR: {"loop": 3}}
    assert _steps(harness, id, first) == [("first", 0), ("loop", 0)]
    assert _steps(harness, id, second) == [("loop", 3), ("last", 0)]
    assert (await harness.row(id))["metadata"] == between


@pytest.mark.parametrize(("first", "second"), BOTH_WAYS)
async def test_attempt_resumes_from_the_other_language_s_first_cursor(
    harness: Harness, first: Language, second: Language
) -> None:
    """
    24: resumable_cross_engine_cursor.

    Before any step is completed, the cursor alone determines where the other language resumes.
    """
    acts = [["advance", 5], ["fail_before", 4]]
    id = await harness.control(first).insert(["cursor_step", "loop", acts], AN_HOUR)

    rows = []
    for language in (first, second, first):
        async with harness.working(language, f"{language}_{len(rows)}"):
            await harness.events.wait("job_failed", job=id, client=f"{language}_{len(rows)}")
        rows.append((await harness.row(id))["metadata"])
        await _make_due(harness, id)
    async with harness.working(second, "last"):
        await harness.events.wait("job_completed", job=id)

    assert rows == [{CURSOR: {"loop": n}} for n in (5, 10, 15)]
    assert _steps(harness, id, "last") == [("loop", 15)]


@pytest.mark.parametrize(("first", "second"), BOTH_WAYS)
async def test_snooze_keeps_progress_for_the_other_language(
    harness: Harness, first: Language, second: Language
) -> None:
    """24: resumable_cross_engine_cursor; an attempt that snoozed keeps its completed steps for the other language."""
    acts = [["advance", 1], ["snooze_times", 1, 3600]]
    id = await harness.control(first).insert(["step", "first", []], ["cursor_step", "loop", acts])

    async with harness.working(first, first):
        await harness.events.wait("job_snoozed", job=id)
    between = (await harness.row(id))["metadata"]
    await _make_due(harness, id)
    async with harness.working(second, second):
        await harness.events.wait("job_completed", job=id)

    assert between == {STEP: "first", CURSOR: {"loop": 1}, "snoozes": 1}
    assert _steps(harness, id, second) == [("loop", 1)]


@pytest.mark.parametrize(("first", "second"), BOTH_WAYS)
async def test_interruption_keeps_progress_for_the_other_language(
    harness: Harness, first: Language, second: Language
) -> None:
    """
    24: resumable_cross_engine_cursor.

    A client that stops stores the progress of its attempts for the other language.
    """
    id = await harness.control(first).insert(
        ["step", "first", []], ["cursor_step", "loop", [["advance", 2], ["hold"]]]
    )

    async with harness.working(first, first) as member:
        await harness.events.wait("held", job=id)
        await member.stop(cancel=True)
    between = await harness.row(id)
    async with harness.working(second, second) as member:
        await harness.events.wait("held", job=id, client=second)
        await member.release(id)
        await harness.events.wait("job_completed", job=id)

    assert (between["state"], between["attempt"]) == ("available", 0)
    assert between["metadata"] == {STEP: "first", CURSOR: {"loop": 2}}
    assert _steps(harness, id, second) == [("loop", 2)]


async def test_steps_leave_the_same_row_in_both_languages(harness: Harness) -> None:
    """24: resumable_retry, resumable_validation; both languages run the steps alike and store the same progress."""
    ids = {
        (name, language): await harness.control("go").insert(*acts, AN_HOUR, queue=language, pending=True)
        for name, (_, acts) in STORIES.items()
        for language in LANGUAGES
    }
    for (name, _), id in ids.items():
        await harness.fetch(
            "UPDATE /* schema */river_job SET state = 'available', metadata = $2::text::jsonb WHERE id = $1",
            id,
            json.dumps(STORIES[name][0]),
        )

    async with harness.working("go", queues={"go": 10}), harness.working("python", queues={"python": 10}):
        await harness.until(lambda: _is_all_settled(harness), "the end of all attempts")
    rows = {row["id"]: row for row in await harness.rows()}
    seen: dict[Language, dict[str, Any]] = {language: {} for language in LANGUAGES}
    for (name, language), id in ids.items():
        row = rows[id]
        reported = (row["state"], row["attempt"], row["metadata"], len(row["errors"] or ()))
        seen[language][name] = (*reported, _steps(harness, id, f"{language}_a"))

    different = {name: (seen["go"][name], seen["python"][name]) for name in STORIES}
    assert {name: pair for name, pair in different.items() if pair[0] != pair[1]} == {}
    assert {reported[0] for reported in seen["go"].values()} == {
        "completed",
        "retryable",
        "scheduled",
        "cancelled",
    }


@pytest.mark.parametrize(("first", "second"), BOTH_WAYS)
async def test_attempt_resumes_from_the_checkpoint_of_a_lost_process(
    harness: Harness, first: Language, second: Language
) -> None:
    """
    24: resumable_cross_engine_cursor.

    A checkpoint is in the row before its attempt ends, and the other language resumes from it.
    """
    acts = [["checkpoint", "commit", 8], ["hold"]]
    id = await harness.control(first).insert(["step", "first", []], ["raw_cursor_step", "loop", acts])

    async with harness.working(first, first):
        await harness.events.wait("held", job=id)
        at_once = (await harness.row(id))["metadata"]
        await harness.fetch(
            "UPDATE /* schema */river_job SET state = 'available', queue = 'other' WHERE id = $1", id
        )
        async with harness.working(second, second, queues={"other": 1}) as member:
            await harness.events.wait("held", job=id, client=second)
            await member.release(id)
            await harness.events.wait("job_completed", job=id, client=second)

    assert at_once == {STEP: "loop", CURSOR: {"loop": 8}}
    assert _steps(harness, id, second) == [("loop", 8)]


async def _is_all_settled(harness: Harness) -> bool:
    sql = "SELECT count(*) FROM /* schema */river_job WHERE state IN ('available', 'running')"
    return not (await harness.fetch(sql))[0][0]


async def _make_due(harness: Harness, id: int) -> None:
    sql = "UPDATE /* schema */river_job SET state = 'available', scheduled_at = now() WHERE id = $1"
    await harness.fetch(sql, id)


def _steps(harness: Harness, id: int, client: str) -> list[tuple[str, Any]]:
    """Return the steps that a client started, in order, each with its cursor."""
    return [(line["step"], line["cursor"]) for line in harness.events.all("step", job=id, client=client)]
