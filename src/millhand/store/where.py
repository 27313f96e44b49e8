"""
Conditions that their author writes in SQL, for what no filter says.

Rule 1: the text is the author's own SQL, and nobody else's; whatever comes from outside is a parameter.
Rule 2: a parameter is cast to what its Python value is, so that no driver has to guess. A text is a `text`, a number a
        `bigint` or a `double precision`, a mapping `jsonb`, a list an array of these.
Rule 3: a condition stays inside its parentheses: what else the statement says holds, whatever the condition is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from millhand.job import JobState
from millhand.sql import Style, bare, compile_params, put_params
from millhand.store.job_row import encode_json

_PREFIX = "where_"  # apart from the names that the filters use
_BIGINT = range(-(2**63), 2**63)
# The first that fits is meant, so a bool is no int and a state no text.
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

    It may name every column of the row, and `/* schema */` before another table. Values are texts, numbers, booleans,
    bytes, aware instants, timedeltas, job states, mappings (as jsonb), and lists of these.

    Never build `sql` of what comes from outside. Raises: ValueError, when made.
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
        """The condition as a statement says it."""
        texts = {name: _placeholder(name, value) for name, value in self.params.items()}
        # On a line of its own the parenthesis is not part of a comment with which the condition may end.
        return f"({put_params(self.sql, texts)}\n)"

    @property
    def values(self) -> dict[str, object]:
        """The values of its parameters, by the names that they have in the clause."""
        return {_PREFIX + name: _sent(value) for name, value in self.params.items() if not _is_nothing(value)}


def _check_sql(sql: str) -> None:
    words = bare(sql)
    if not sql.strip():
        raise ValueError(f"where must be a condition in SQL, got {sql!r}")
    if re.search(r"\$[0-9]", words):
        raise ValueError(f"where must name its parameters, got {sql!r}; write @name for $1")
    depth = 0
    for sign in re.findall(r"[()]", words):
        depth += 1 if sign == "(" else -1
        if depth < 0:
            break
    if depth:
        raise ValueError(f"where must close the parentheses that it opens, and no other, got {sql!r}")


def _check_names(sql: str, params: Mapping[str, object]) -> None:
    used = compile_params(sql, Style.NUMBERED).params
    for name in used:
        if name not in params:
            raise ValueError(
                f"where must be given each of its parameters, got no value of @{name} in {sql!r}; "
                "behind an operator @ write a blank"
            )
    for name in params:
        if name not in used:
            raise ValueError(
                f"where must use each of its parameters, got {name!r}, which {sql!r} does not; write @{name}"
            )


def _placeholder(name: str, value: object) -> str:
    if _is_nothing(value):
        return "'{}'"  # of no type, so it is an array of whatever it is compared with
    return f"(@{_PREFIX}{name}::{_cast(name, value)})"


def _cast(name: str, value: object) -> str:
    if not _is_list(value):
        return _scalar_cast(name, value).replace(" {array}", "")
    casts = {_scalar_cast(name, one) for one in value}  # type: ignore[attr-defined]  # is a list
    if len(casts) > 1:
        raise ValueError(f"where parameter {name!r} must be of values of one type, got {value!r}")
    cast = casts.pop() if casts else "text"
    if "{array}" not in cast:
        return f"{cast} []"
    return cast.replace("{array}", "[]") + " []"


def _scalar_cast(name: str, value: object) -> str:
    if value is None:
        raise ValueError(f"where parameter {name!r} must not be None, which nothing equals; write IS NULL")
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
    return encode_json(dict(value)) if isinstance(value, Mapping) else value


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence | set | frozenset) and not isinstance(value, str | bytes)


def _is_nothing(value: object) -> bool:
    return _is_list(value) and not value
