from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from millhand.engine.store.job_condition import (
    LARGE_BYTES,
    Among,
    Between,
    Condition,
    Contains,
    During,
    where_all,
)

AT = datetime(2026, 11, 27, 12, 30, 15, 999, tzinfo=timezone(timedelta(hours=2)))


@pytest.mark.parametrize(
    ("condition", "clause", "values"),
    [
        (Among("kind", ("a", "b")), "job.kind = ANY(@given_0::text [])", {"given_0": ["a", "b"]}),
        (Between("id", ((3, 3), (7, 7))), "job.id = ANY(@given_0::bigint [])", {"given_0": [3, 7]}),
        (
            Between("attempt", ((3, 5), (9, 9))),
            "(job.attempt BETWEEN 3 AND 5 OR job.attempt BETWEEN 9 AND 9)",
            {},
        ),
        (
            Contains("args", ('{"a":1}', '{"a":"1"}')),
            "(job.args @> @given_0_0::text::jsonb OR job.args @> @given_0_1::text::jsonb)",
            {"given_0_0": '{"a":1}', "given_0_1": '{"a":"1"}'},
        ),
        (
            During("created", AT, None),
            "job.created_at IS NOT NULL AND job.created_at >= @given_0_since::timestamptz",
            {"given_0_since": AT},
        ),
    ],
)
def test_condition_in_sql(condition: Condition, clause: str, values: dict[str, object]) -> None:
    """A condition names columns and operators only; what a person wrote is a parameter."""
    assert where_all([condition]) == (f"TRUE\nAND ({clause}) IS TRUE", values)


def test_what_a_person_searches_for_is_no_pattern() -> None:
    """The characters with a meaning in LIKE stand for themselves."""
    _, values = where_all([Among("text", (r"50%_\x",)), Among("client", ("a_b",), is_negated=True)])

    assert values == {"given_0": [r"%50\%\_\\x%"], "given_1": [r"a\_b%"]}


def test_time_of_a_failure_is_compared_as_text_in_utc() -> None:
    """The instant of an error is compared as the text that clients write, in whole seconds of UTC."""
    clause, values = where_all([During("failed", AT, AT + timedelta(hours=1))])

    assert values == {"given_0_since": "2026-11-27T10:30:15", "given_0_until": "2026-11-27T11:30:15"}
    assert f"pg_column_size(job.errors) <= {LARGE_BYTES}" in clause
    assert AT.astimezone(UTC).hour == 10


def test_negated_condition_is_satisfied_by_null() -> None:
    """A minus selects the jobs of which the condition is not true, those without the value included."""
    clause, _ = where_all([Among("error", ("x",), is_negated=True)])

    assert clause.endswith(") IS NOT TRUE")
