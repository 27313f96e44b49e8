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

from millhand.core.job import AttemptError, JobRow, JobState
from millhand.db.driver.protocol import Executor
from millhand.engine.store.job import job_get_by_id
from millhand.engine.store.job_row import (
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
# Includes texts that PostgreSQL cannot store.
HOSTILE_TEXT = st.text(st.characters() | st.sampled_from("\x00\ud800\udfff\\u0000"))


async def test_row_is_read_whole(tx: Executor) -> None:
    """Every column of a row is decoded into its field."""
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


async def test_null_columns_are_read_as_empty(tx: Executor) -> None:
    """A new row has no errors, attempts, tags or key."""
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
    """A negative attempt, which only another program writes, is read as 0, as in River."""
    assert (await put_job(tx, JobState.AVAILABLE, attempt=-3)).attempt == 0


@pytest.mark.parametrize("metadata", ["[]", "[1]", '"x"', "null", "5"])
async def test_metadata_that_is_no_object_is_read_as_empty(tx: Executor, metadata: str) -> None:
    """A row with other metadata than an object can be read, as one with none."""
    assert (await put_job(tx, JobState.AVAILABLE, metadata=metadata)).metadata == {}


async def test_null_element_of_errors_is_read(tx: Executor) -> None:
    """A null element of the array does not prevent reading the row."""
    job = await put_job(tx, JobState.AVAILABLE, errors="{NULL}")

    assert job.errors == (AttemptError(GO_ZERO_TIME, 0, "", ""),)


async def test_huge_number_is_read(tx: Executor) -> None:
    """A number with thousands of digits does not prevent reading the row."""
    job = await put_job(tx, JobState.AVAILABLE, metadata=f'{{"big": {"9" * 400}, "small": 1e-300}}')

    assert job.metadata["big"] == int("9" * 400)


@pytest.mark.slow
@given(ANY_JSON)
def test_every_element_of_errors_is_readable(element: Any) -> None:
    """Any JSON in `errors` is read as an error with an aware instant."""
    error = parse_error(json.dumps(element))

    assert error.at.tzinfo is not None


@pytest.mark.slow
@given(
    ANY_JSON,
    st.one_of(st.text(), st.none(), st.just("2024-01-01T00:00:00")),
    st.one_of(st.text(), st.integers(), st.none()),
)
def test_every_value_in_an_error_is_readable(unusual: Any, at: Any, attempt: Any) -> None:
    """A value of the wrong type in an error is read as empty or as its JSON text."""
    error = parse_error(json.dumps({"at": at, "attempt": attempt, "error": unusual, "trace": unusual}))

    assert error.at.tzinfo is not None
    assert error.error == error.trace


@pytest.mark.slow
@given(
    st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45))])),
    st.integers(0, 32767),
    HOSTILE_TEXT,
    HOSTILE_TEXT,
)
def test_written_error_is_strict(at: datetime, attempt: int, error: str, trace: str) -> None:
    """An error is written with all four keys, an instant with `T`, microseconds and `Z`, and only storable texts."""
    text = encode_error(AttemptError(at, attempt, error, trace))

    written = json.loads(text)
    assert list(written) == ["at", "attempt", "error", "trace"]
    assert len(written["at"]) == len("2024-01-01T00:00:00.123456Z")
    assert datetime.fromisoformat(written["at"]) == at
    assert written["attempt"] == attempt
    assert "\x00" not in written["error"] + written["trace"]
    text.encode()  # no unpaired surrogate is left


@given(HOSTILE_TEXT)
def test_sanitized_text_differs_only_where_it_must(text: str) -> None:
    """Storable characters do not change; each other one becomes U+FFFD."""
    expected = ["\ufffd" if one == "\x00" or "\ud800" <= one <= "\udfff" else one for one in text]

    assert sanitized(text) == "".join(expected)


@pytest.mark.slow
@given(st.dictionaries(HOSTILE_TEXT, ANY_JSON, max_size=3))
def test_sanitizing_twice_changes_nothing(value: dict[str, Any]) -> None:
    """A sanitized text does not change again."""
    assert sanitized(sanitized(value)) == sanitized(value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["\x00", "a\x00b", "\ud800", "x\udfffy", "\\u0000", "\\\x00", "é😀", "\x1f\x7f\u2028"]
)
async def test_hostile_text_is_stored(tx: Executor, text: str) -> None:
    """PostgreSQL stores any sanitized error text, and returns it unchanged."""
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
    """NaN, which JSON does not have, becomes null and fails no completion."""
    assert encode_json({"x": math.nan, "y": math.inf}) == '{"x":null,"y":null}'


def test_value_that_is_no_json_is_an_error() -> None:
    """A value that JSON cannot express is an error of the caller."""
    with pytest.raises(TypeError):
        encode_json({"x": object()})


def test_only_an_object_is_metadata() -> None:
    """An object is read; any other JSON value is read as an empty object."""
    assert [parse_object(text) for text in ('{"a":1}', "[]", "null", "1")] == [{"a": 1}, {}, {}, {}]


def test_msgspec_reads_instants_as_go_writes_them() -> None:
    """An instant with nine fractional digits is read to the microsecond."""
    error = parse_error('{"at":"2026-11-25T10:43:42.094421786Z","attempt":6,"error":"boom","trace":""}')

    assert error == AttemptError(datetime(2026, 11, 25, 10, 43, 42, 94422, UTC), 6, "boom", "")
    assert msgspec.json.encode(error.at) == b'"2026-11-25T10:43:42.094422Z"'
