"""
Conditions in SQL, for what the filters of a job list cannot express.

Rule 1: the text is the developer's own SQL; all input is a parameter.
Rule 2: a parameter is cast by the type of its Python value, so that no driver has to guess. A text becomes `text`, a number
        `bigint` or `double precision`, a mapping `jsonb`, and a list an array of these.
Rule 3: a condition cannot leave its parentheses, so that the statement's other conditions always apply.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from millhand.core.job import JobState
from millhand.core.json_value import UNSTORABLE, checked_json
from millhand.db.sql import compile_params, replace_params, without_literals
from millhand.engine.store.job_row import encode_json

_PREFIX = "where_"  # distinct from the params of the filters
_BIGINT = range(-(2**63), 2**63)
# The first match counts: a bool is not sent as an int, nor a state as a text.
_CASTS: tuple[tuple[type, str], ...] = (
    (bool, "boolean"),
    (int, "bigint"),
    (float, "double precision"),
    (JobState, "text {array}::/* schema */river_job_state"),
    (str, "text"),
    (bytes, "bytea"),
    (datetime, "timestamptz"),
    (timedelta, "interval"),
    (Mapping, "text {array}::jsonb"),
)


@dataclass(frozen=True, slots=True)
class Where:
    """
    A condition on jobs in SQL, its parameters by name: `Where("args ->> 'to' = @to", {"to": "ops@example.com"})`.

    It may use every column of the row, and `/* schema */` before another table's name. Values are texts, numbers,
    booleans, bytes, aware instants, timedeltas, job states, mappings (as jsonb), and lists of these.

    Never build `sql` from input.
    Raises: ValueError for an invalid condition.
    Source: River v0.51.2, job_list_params.go `Where`, delete_many_params.go `Where`.
    """

    sql: str
    params: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_sql(self.sql)
        _check_names(self.sql, self.params)
        for name, value in self.params.items():
            _cast(name, value)

    @property
    def clause(self) -> str:
        """The condition as SQL."""
        texts = {name: _placeholder(name, value) for name, value in self.params.items()}
        # On its own line, so that a comment at the end of the condition does not hide the parenthesis.
        return f"({replace_params(self.sql, texts)}\n)"

    @property
    def values(self) -> dict[str, object]:
        """The values of its parameters, by their names in the clause."""
        return {
            _PREFIX + name: _sent(value) for name, value in self.params.items() if not _is_empty_list(value)
        }


def _check_sql(sql: str) -> None:
    code = without_literals(sql)
    if not sql.strip():
        raise ValueError(f"where must be a condition in SQL, got {sql!r}")
    if UNSTORABLE.search(sql):
        raise ValueError(f"where must be a text that PostgreSQL can read, got {sql!r}")
    if re.search(r"\$[0-9]", code):
        raise ValueError(f"where must name its parameters, got {sql!r}; write @name for $1")
    depth = 0
    for parenthesis in re.findall(r"[()]", code):
        depth += 1 if parenthesis == "(" else -1
        if depth < 0:
            break
    if depth:
        raise ValueError(f"where must have balanced parentheses, got {sql!r}")


def _check_names(sql: str, params: Mapping[str, object]) -> None:
    used = compile_params(sql).params
    for name in used:
        if name not in params:
            raise ValueError(
                f"where must have a value for each of its parameters, got none for @{name} in {sql!r}; "
                "write a space after an operator @"
            )
    for name in params:
        if name not in used:
            raise ValueError(
                f"where must use each of its parameters, got {name!r}, which {sql!r} does not; write @{name}"
            )


def _placeholder(name: str, value: object) -> str:
    if _is_empty_list(value):
        return "'{}'"  # untyped, so it becomes an array of the type that it is compared with
    return f"(@{_PREFIX}{name}::{_cast(name, value)})"


def _cast(name: str, value: object) -> str:
    if not _is_list(value):
        return _scalar_cast(name, value).replace(" {array}", "")
    casts = {_scalar_cast(name, one) for one in value}  # type: ignore[attr-defined]  # is a list
    if len(casts) > 1:
        raise ValueError(f"where parameter {name!r} must have values of one type, got {value!r}")
    cast = casts.pop() if casts else "text"
    if "{array}" not in cast:
        return f"{cast} []"
    return cast.replace("{array}", "[]") + " []"


def _scalar_cast(name: str, value: object) -> str:
    if value is None:
        raise ValueError(f"where parameter {name!r} must not be None, which equals nothing; write IS NULL")
    if isinstance(value, datetime) and value.tzinfo is None:
        raise ValueError(
            f"where parameter {name!r} must be an aware instant, got {value!r}; give it a tzinfo"
        )
    if isinstance(value, int) and value not in _BIGINT:
        raise ValueError(f"where parameter {name!r} must fit into 64 bits, got {value!r}")
    for kind, cast in _CASTS:
        if isinstance(value, kind):
            return cast
    raise ValueError(
        f"where parameter {name!r} must be a text, number, boolean, bytes, instant, timedelta, job state or mapping, "
        f"or a list of such, got {type(value).__name__}"
    )


def _sent(value: object) -> object:
    if _is_list(value):
        return [_sent(one) for one in value]  # type: ignore[attr-defined]  # is a list
    if isinstance(value, JobState):
        return value.value
    if not isinstance(value, Mapping):
        return value
    return encode_json(checked_json("where parameter", dict(value)))


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence | set | frozenset) and not isinstance(value, str | bytes)


def _is_empty_list(value: object) -> bool:
    return _is_list(value) and not value
