from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_rows import NOW, put_job

from millhand.driver.protocol import Executor
from millhand.job import AttemptError, JobRow, JobState
from millhand.store.job import job_get_by_id
from millhand.store.job_row import (
    GO_ZERO_TIME,
    encode_error,
    encode_json,
    parse_error,
    parse_object,
    sanitized,
)

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
# With the texts that PostgreSQL cannot store.
HOSTILE_TEXT = st.text(st.characters() | st.sampled_from("\x00\ud800\udfff\\u0000"))


async def test_row_is_read_whole(tx: Executor) -> None:
    """Every column of a row comes out as what it means."""
    job = await put_job(
        tx,
        JobState.RUNNING,
        id=7,
        args='{"n": 1.50, "é": null}',
        attempt=3,
        attempted_by="{client_a,client_b}",
        errors=r'{"{\"at\": \"2024-05-01T10:34:56.789Z\", \"attempt\": 1, \"error\": \"boom\"}"}',
        kind="resize",
        max_attempts=9,
        metadata='{"a": [1, {"b": null}]}',
        priority=4,
        queue="images",
        tags="{one,two}",
        unique_key="\\x00ff",
        unique_states="11110101",
    )

    assert job == JobRow(
        id=7,
        state=JobState.RUNNING,
        attempt=3,
        max_attempts=9,
        attempted_at=NOW - timedelta(hours=1),
        created_at=NOW - timedelta(hours=1),
        finalized_at=None,
        scheduled_at=NOW - timedelta(hours=1),
        priority=4,
        encoded_args='{"n": 1.50, "é": null}',
        attempted_by=("client_a", "client_b"),
        errors=(AttemptError(datetime(2024, 5, 1, 10, 34, 56, 789000, UTC), 1, "boom", ""),),
        kind="resize",
        metadata={"a": [1, {"b": None}]},
        queue="images",
        tags=("one", "two"),
        unique_key=b"\x00\xff",
        unique_states=0xF5,
    )


async def test_null_columns_are_read_as_nothing(tx: Executor) -> None:
    """A fresh row has no errors, no attempts, no tags and no key."""
    job = await put_job(tx, JobState.AVAILABLE)

    assert (job.attempted_by, job.errors, job.tags, job.unique_key, job.unique_states) == (
        (),
        (),
        (),
        None,
        None,
    )
    assert (job.attempted_at, job.finalized_at, job.metadata) == (None, None, {})


async def test_negative_attempt_is_read_as_zero(tx: Executor) -> None:
    """An attempt below zero, which only a stranger can have written, counts as none, as in River."""
    assert (await put_job(tx, JobState.AVAILABLE, attempt=-3)).attempt == 0


@pytest.mark.parametrize("metadata", ["[]", "[1]", '"x"', "null", "5"])
async def test_metadata_that_is_no_object_is_read_as_empty(tx: Executor, metadata: str) -> None:
    """A row whose metadata is no object can be read; it counts as having none."""
    assert (await put_job(tx, JobState.AVAILABLE, metadata=metadata)).metadata == {}


async def test_null_element_of_errors_is_read(tx: Executor) -> None:
    """An element that is null in the array itself does not keep the row from being read."""
    job = await put_job(tx, JobState.AVAILABLE, errors="{NULL}")

    assert job.errors == (AttemptError(GO_ZERO_TIME, 0, "", ""),)


async def test_number_beyond_all_bounds_is_read(tx: Executor) -> None:
    """A number with more digits than any machine's does not keep the row from being read."""
    job = await put_job(tx, JobState.AVAILABLE, metadata=f'{{"big": {"9" * 400}, "small": 1e-300}}')

    assert job.metadata["big"] == int("9" * 400)


@given(ANY_JSON)
def test_no_element_of_errors_is_unreadable(element: Any) -> None:
    """Whatever JSON somebody put into `errors`, it is read as an error with an aware instant."""
    error = parse_error(json.dumps(element))

    assert error.at.tzinfo is not None


@given(
    ANY_JSON,
    st.one_of(st.text(), st.none(), st.just("2024-01-01T00:00:00")),
    st.one_of(st.text(), st.integers(), st.none()),
)
def test_no_odd_value_in_an_error_is_unreadable(odd: Any, at: Any, attempt: Any) -> None:
    """An error with a value of a wrong type in it is read, with nothing in that value's place or its JSON text."""
    error = parse_error(json.dumps({"at": at, "attempt": attempt, "error": odd, "trace": odd}))

    assert error.at.tzinfo is not None
    assert error.error == error.trace


@given(
    st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45))])),
    st.integers(0, 32767),
    HOSTILE_TEXT,
    HOSTILE_TEXT,
)
def test_written_error_is_strict(at: datetime, attempt: int, error: str, trace: str) -> None:
    """An error is written with all four keys, an instant with `T`, microseconds and `Z`, and nothing unstorable."""
    text = encode_error(AttemptError(at, attempt, error, trace))

    written = json.loads(text)
    assert list(written) == ["at", "attempt", "error", "trace"]
    assert len(written["at"]) == len("2024-01-01T00:00:00.123456Z")
    assert datetime.fromisoformat(written["at"]) == at
    assert written["attempt"] == attempt
    assert "\x00" not in written["error"] + written["trace"]
    text.encode()  # no half of a surrogate pair is left


@given(HOSTILE_TEXT)
def test_sanitized_text_differs_only_where_it_must(text: str) -> None:
    """What PostgreSQL can store is stored as it is; the rest becomes U+FFFD, one for one."""
    expected = ["\ufffd" if one == "\x00" or "\ud800" <= one <= "\udfff" else one for one in text]

    assert sanitized(text) == "".join(expected)


@given(st.dictionaries(HOSTILE_TEXT, ANY_JSON, max_size=3))
def test_sanitizing_twice_changes_nothing(value: dict[str, Any]) -> None:
    """What was sanitized is clean."""
    assert sanitized(sanitized(value)) == sanitized(value)


@pytest.mark.parametrize(
    "text", ["\x00", "a\x00b", "\ud800", "x\udfffy", "\\u0000", "\\\x00", "é😀", "\x1f\x7f\u2028"]
)
async def test_hostile_text_is_stored(tx: Executor, text: str) -> None:
    """PostgreSQL takes whatever text an error may hold, and gives back what `sanitized` says."""
    job = await put_job(tx, JobState.AVAILABLE)
    await tx.fetch(
        "UPDATE river_job SET metadata = $2::text::jsonb, errors = ARRAY[$3::text::jsonb] WHERE id = $1",
        [job.id, encode_json({text: [text]}), encode_error(AttemptError(NOW, 1, text, text))],
    )

    stored = await tx.run(job_get_by_id(job.id))

    clean = sanitized(text)
    assert stored.metadata == {clean: [clean]}
    assert stored.errors == (AttemptError(NOW, 1, clean, clean),)


def test_not_a_number_is_written_as_null() -> None:
    """JSON has no word for it, and nobody's completion may fail on it."""
    assert encode_json({"x": math.nan, "y": math.inf}) == '{"x":null,"y":null}'


def test_value_that_is_no_json_is_refused() -> None:
    """What cannot be said in JSON is the caller's error, not a silent loss."""
    with pytest.raises(TypeError):
        encode_json({"x": object()})


def test_object_is_read_and_anything_else_is_empty() -> None:
    """Only an object is metadata."""
    assert [parse_object(text) for text in ('{"a":1}', "[]", "null", "1")] == [{"a": 1}, {}, {}, {}]


def test_msgspec_reads_what_it_is_relied_on_for() -> None:
    """An instant with nine digits, as Go writes it, is read to the microsecond."""
    error = parse_error('{"at":"2026-11-25T10:43:42.094421786Z","attempt":6,"error":"boom","trace":""}')

    assert error == AttemptError(datetime(2026, 11, 25, 10, 43, 42, 94422, UTC), 6, "boom", "")
    assert msgspec.json.encode(error.at) == b'"2026-11-25T10:43:42.094422Z"'
