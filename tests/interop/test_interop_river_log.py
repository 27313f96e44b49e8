"""What attempts have logged, appended by both languages to one array."""

from __future__ import annotations

import json
from typing import Any

import pytest
from interop_room import BOTH_WAYS, LANGUAGES, Language, Room

LOG = "river:log"
MEBIBYTE = 1 << 20


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "interop.script")


@pytest.mark.parametrize(("first", "second"), BOTH_WAYS)
async def test_attempt_appends_its_log_to_the_other_language_s(
    room: Room, first: Language, second: Language
) -> None:
    """
    23: reserved_metadata_cross_engine.

    Each attempt appends one entry in the same form, whether it fails or succeeds.
    """
    odd = "<é>&日"
    id = await room.hand(first).insert(["log", "one"], ["log", odd], ["fail_before", 4], ["retry_in", 3600])

    events = ["job_failed"] * 3 + ["job_completed"]
    for language, event in zip((first, second) * 2, events, strict=True):
        count = len(room.told.all(event, job=id, client=language)) + 1
        async with room.working(language, language):
            await room.told.wait(event, job=id, client=language, count=count)
        await _make_due(room, id)

    entry = f"level=INFO msg=one\nlevel=INFO msg={odd}\n"
    read = await room.go.call("get", schema=room.schema, job=id)
    assert read["metadata"] == {LOG: [{"attempt": n, "log": entry} for n in (1, 2, 3, 4)]}
    assert (await room.row(id))["metadata"] == read["metadata"]


@pytest.mark.parametrize("language", LANGUAGES)
async def test_attempt_that_logs_nothing_writes_nothing(room: Room, language: Language) -> None:
    """23: An attempt without log lines adds no entry or key, and leaves an existing value as it is."""
    hand = room.hand(language)
    silent = await hand.insert(pending=True)
    odd = await hand.insert(["log", "one"], pending=True)
    await _begin(room, silent, {LOG: [{"attempt": 0, "log": "a", "more": 1}]})
    await _begin(room, odd, {LOG: {"a": 1}})

    async with room.working(language):
        for id in (silent, odd):
            await room.told.wait("job_completed", job=id)

    rows = await room.rows()
    assert [row["metadata"] for row in rows] == [
        {LOG: [{"attempt": 0, "log": "a", "more": 1}]},
        {LOG: {"a": 1}},
    ]


async def test_log_entry_is_the_same_for_each_outcome(room: Room) -> None:
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
            await room.hand("go").insert(*acts, ["retry_in", 3600], queue=language) for acts in stories
        ]
        for language in LANGUAGES
    }
    async with room.working("go", queues={"go": 10}), room.working("python", queues={"python": 10}):
        await room.until(lambda: _is_all_settled(room), "the end of all attempts")

    rows = {row["id"]: row["metadata"] for row in await room.rows()}
    told = {language: [rows[id] for id in ids[language]] for language in LANGUAGES}
    assert told["python"] == told["go"]
    assert all(metadata[LOG] for metadata in told["go"])


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), BOTH_WAYS)
async def test_both_languages_cut_and_drop_long_logs_alike(
    room: Room, first: Language, second: Language
) -> None:
    """23: At two mebibytes an attempt and eight a job, each language drops the oldest entries of both."""
    id = await room.hand("go").insert(["log", "x" * 3 * MEBIBYTE], ["fail_before", 7], ["retry_in", 3600])

    kept = []
    for n in range(6):
        language = (first, second)[n % 2]
        async with room.working(language, language):
            await room.told.wait(
                "job_failed", job=id, client=language, count=_num_told(room, id, language) + 1
            )
        entries = (await room.row(id))["metadata"][LOG]
        kept.append([one["attempt"] for one in entries])
        assert {len(one["log"]) for one in entries} == {2 * MEBIBYTE}
        await _make_due(room, id)

    # Four entries are a few bytes more than eight mebibytes.
    assert kept == [[1], [1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 6]]


async def _begin(room: Room, id: int, metadata: dict[str, Any]) -> None:
    sql = "UPDATE /* schema */river_job SET state = 'available', metadata = $2::text::jsonb WHERE id = $1"
    await room.fetch(sql, id, json.dumps(metadata))


async def _is_all_settled(room: Room) -> bool:
    sql = "SELECT count(*) FROM /* schema */river_job WHERE state IN ('available', 'running')"
    return not (await room.fetch(sql))[0][0]


async def _make_due(room: Room, id: int) -> None:
    sql = (
        "UPDATE /* schema */river_job SET state = 'available', scheduled_at = now() "
        "WHERE id = $1 AND state <> 'completed'"
    )
    await room.fetch(sql, id)


def _num_told(room: Room, id: int, client: str) -> int:
    return len(room.told.all("job_failed", job=id, client=client))
