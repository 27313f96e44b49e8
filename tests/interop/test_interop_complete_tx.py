"""Jobs that a worker completes in its own transaction, in both languages."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from interop_harness import LANGUAGES, Harness, Language

TOLD = {"completed": "job_completed", "retryable": "job_failed", "scheduled": "job_snoozed"}
INSTANTS = ("attempted_at", "created_at", "finalized_at", "scheduled_at")

# What an attempt does, and how its job ends.
ENDINGS: dict[str, tuple[list[Any], str]] = {
    "committed": ([["complete_tx"]], "completed"),
    "with metadata": ([["metadata", "seen", {"at": 1}], ["output", [1]], ["complete_tx"]], "completed"),
    "metadata afterwards": ([["complete_tx"], ["metadata", "seen", 2], ["output", 3]], "completed"),
    "metadata before and after": ([["output", 1], ["complete_tx"], ["output", 2]], "completed"),
    "late error": ([["output", 1], ["complete_tx"], ["fail", "late"]], "completed"),
    "late snooze": ([["complete_tx"], ["snooze", 3600]], "completed"),
    "late cancel": ([["complete_tx"], ["cancel", "late"]], "completed"),
    "twice taken back": ([["complete_tx_rolled_back"], ["complete_tx_rolled_back"]], "completed"),
    "taken back, then success": ([["output", 1], ["complete_tx_rolled_back"]], "completed"),
    "taken back, then an error": (
        [["output", 1], ["complete_tx_rolled_back"], ["fail", "boom"]],
        "retryable",
    ),
    "taken back, then a snooze": ([["complete_tx_rolled_back"], ["snooze", 3600]], "scheduled"),
    "taken back, then committed": ([["complete_tx_rolled_back"], ["complete_tx"]], "completed"),
    "in a step": ([["step", "a", []], ["step", "b", [["complete_tx"]]], ["fail", "late"]], "completed"),
    "with a checkpoint": (
        [["cursor_step", "a", [["checkpoint", "commit", 1], ["complete_tx"]]]],
        "completed",
    ),
    "with a log": ([["log", "before"], ["complete_tx"], ["log", "after"], ["fail", "late"]], "completed"),
}


async def test_both_languages_leave_the_same_row_and_event_after_complete_tx(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """
    29, 45: transactional_completion.

    Row and event are the same in both languages, whether the transaction commits or rolls back.
    """
    caplog.set_level("INFO", "interop.script")
    ids = {
        (name, language): await harness.control("go").insert(*acts, ["retry_in", 3600], queue=language)
        for name, (acts, _) in ENDINGS.items()
        for language in LANGUAGES
    }
    async with harness.working("go", queues={"go": 10}), harness.working("python", queues={"python": 10}):
        for (name, _), id in ids.items():
            await harness.events.wait(TOLD[ENDINGS[name][1]], job=id)

    rows = {row["id"]: row for row in await harness.rows()}
    seen: dict[Language, dict[str, Any]] = {language: {} for language in LANGUAGES}
    for (name, language), id in ids.items():
        reported = [(one["event"], one.get("state"), one.get("metadata")) for one in _lines(harness, id)]
        seen[language][name] = (_without_instants(rows[id], language), reported)
    different = {name: (seen["go"][name], seen["python"][name]) for name in ENDINGS}
    assert {name: pair for name, pair in different.items() if pair[0] != pair[1]} == {}
    states = {name: row["state"] for name, (row, _) in seen["go"].items()}
    assert states == {name: state for name, (_, state) in ENDINGS.items()}


@pytest.mark.parametrize("language", LANGUAGES)
async def test_job_is_completed_at_the_commit_while_its_worker_still_runs(
    harness: Harness, language: Language
) -> None:
    """29: transactional_completion; the row is completed from the commit on, while the worker still runs."""
    async with harness.working(language) as member:
        id = await harness.control(language).insert(["complete_tx"], ["hold"])
        await harness.events.wait("held", job=id)
        while_it_runs = await harness.row(id)
        await member.release(id)
        await harness.events.wait("job_completed", job=id)

    row = await harness.row(id)
    assert (while_it_runs["state"], row) == ("completed", while_it_runs)
    assert datetime.fromisoformat(row["finalized_at"]) >= datetime.fromisoformat(row["attempted_at"])


def _lines(harness: Harness, id: int) -> list[dict[str, Any]]:
    return [line for line in harness.events.lines if line.get("job") == id and "state" in line]


def _without_instants(row: dict[str, Any], language: Language) -> dict[str, Any]:
    """Return a row with times reduced to set or null, and without the fields that differ by language."""
    reported = {
        name: value for name, value in row.items() if name not in (*INSTANTS, "id", "queue", "attempted_by")
    }
    reported |= {name: row[name] is not None for name in INSTANTS}
    reported["attempted_by"] = [by.replace(language, "") for by in row["attempted_by"]]
    reported["errors"] = [one["error"].removeprefix("Boom: ") for one in row["errors"] or ()]
    return reported
