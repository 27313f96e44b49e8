"""
Conditions on jobs, for searches: what each means in SQL.

Rule 1: a condition is written with IS TRUE, which no index matches, so that it never changes how a statement finds its rows.
Rule 2: no condition raises, whatever a row contains. A value that is large as stored is not searched as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

# As stored, compressed. The statements have this number too.
LARGE_BYTES = 65_536

_NUMBERS = {"attempt": "job.attempt", "id": "job.id", "priority": "job.priority"}
_TIMES = {
    "attempted": "job.attempted_at",
    "created": "job.created_at",
    "finalized": "job.finalized_at",
    "scheduled": "job.scheduled_at",
}
_ERROR = f"""CASE WHEN pg_column_size(job.errors) <= {LARGE_BYTES} THEN EXISTS (
    SELECT FROM unnest(job.errors) AS failed (error) WHERE failed.error ->> 'error' ILIKE ANY(@given::text [])
) END"""
_ARGS = (
    f"CASE WHEN pg_column_size(job.args) <= {LARGE_BYTES} THEN job.args::text ILIKE ANY(@given::text []) END"
)
_NAME = """(
    job.kind ILIKE ANY(@given::text [])
    OR EXISTS (SELECT FROM unnest(job.tags) AS had (tag) WHERE had.tag ILIKE ANY(@given::text []))
)"""
_TEXT = f"({_NAME} OR coalesce({_ARGS}, FALSE) OR coalesce({_ERROR}, FALSE))"
# What a condition on texts means for each field; @given is the list of them.
_TEXTS = {
    "client": "EXISTS (SELECT FROM unnest(job.attempted_by) AS used (id) WHERE used.id LIKE ANY(@given::text []))",
    "error": _ERROR,
    "kind": "job.kind = ANY(@given::text [])",
    "name": _NAME,
    "queue": "job.queue = ANY(@given::text [])",
    "tag": "job.tags::text [] && @given::text []",
    "text": _TEXT,
}
# A client's id begins with what it is named for; an error contains its text.
_PATTERNS = {"client": "{}%", "error": "%{}%", "name": "%{}%", "text": "%{}%"}
_FAILED = f"""CASE
    WHEN pg_column_size(job.errors) <= {LARGE_BYTES} THEN job.errors[cardinality(job.errors)] ->> 'at'
END COLLATE "C\""""


class Among(msgspec.Struct, frozen=True):
    """A job's kind, queue, tag, client, error or any text is one of some, or contains it."""

    field: str
    values: tuple[str, ...]
    is_negated: bool = False


class Contains(msgspec.Struct, frozen=True):
    """A job's args or metadata contain one of some JSON documents."""

    field: str
    documents: tuple[str, ...]
    is_negated: bool = False


class Between(msgspec.Struct, frozen=True):
    """A number of a job is in one of some ranges, ends included."""

    field: str
    ranges: tuple[tuple[int, int], ...]
    is_negated: bool = False


class During(msgspec.Struct, frozen=True):
    """An instant of a job is in a period, its end excluded; None is no limit. `failed` is the instant of the last error."""

    field: str
    since: datetime | None
    until: datetime | None
    is_negated: bool = False


Condition = Among | Contains | Between | During
Sql = tuple[str, dict[str, Any]]  # a clause and the values of its params


def where_all(conditions: Sequence[Condition]) -> Sql:
    """Return a clause that all conditions satisfy."""
    clauses = ["TRUE"]
    values: dict[str, Any] = {}
    for number, condition in enumerate(conditions):
        clause, params = bare_clause(condition, f"given_{number}")
        clauses.append(f"({clause}) IS {'NOT ' if condition.is_negated else ''}TRUE")
        values |= params
    return "\nAND ".join(clauses), values


def bare_clause(condition: Condition, name: str) -> Sql:
    """Return a condition as an index could answer it, without its negation; its params begin with `name`."""
    match condition:
        case Among(field, values):
            pattern = _PATTERNS.get(field)
            given = [pattern.format(_escaped(value)) if pattern else value for value in values]
            return _TEXTS[field].replace("@given", f"@{name}"), {name: given}
        case Contains(field, documents):
            names = [f"{name}_{number}" for number in range(len(documents))]
            clauses = [f"job.{field} @> @{one}::text::jsonb" for one in names]
            return f"({' OR '.join(clauses)})", dict(zip(names, documents, strict=True))
        case Between(field, ranges) if all(low == high for low, high in ranges):
            return f"{_NUMBERS[field]} = ANY(@{name}::bigint [])", {name: [low for low, _ in ranges]}
        case Between(field, ranges):
            texts = [f"{_NUMBERS[field]} BETWEEN {int(low)} AND {int(high)}" for low, high in ranges]
            return f"({' OR '.join(texts)})", {}
        case During("failed", since, until):
            return _period(_FAILED, name, _text(since), _text(until), "text")
        case During(field, since, until):
            return _period(_TIMES[field], name, since, until, "timestamptz")


def _period(column: str, name: str, since: object, until: object, cast: str) -> Sql:
    ends = {f"{name}_since": (">=", since), f"{name}_until": ("<", until)}
    given = {param: end for param, end in ends.items() if end[1] is not None}
    clauses = [f"{column} {sign} @{param}::{cast}" for param, (sign, _) in given.items()]
    return " AND ".join([f"{column} IS NOT NULL", *clauses]), {param: at for param, (_, at) in given.items()}


def _text(at: datetime | None) -> str | None:
    """Return an instant so that texts of clients, which are in UTC, compare with it; a cast could raise."""
    return None if at is None else at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
