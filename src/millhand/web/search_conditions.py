"""What the tokens of a search mean as conditions on jobs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, tzinfo

from millhand.json_value import Json
from millhand.store.job_condition import Among, Between, Condition, Contains, During
from millhand.store.job_search import JobSearch
from millhand.web.search import read_json
from millhand.web.search_time import period_of
from millhand.web.search_token import FIELDS, INVALID, TEXT, Search, Token, Value

_PERIODIC_KEY = "river:periodic_job_id"
_MIN, _MAX = -(2**63), 2**63 - 1
_NUMBER = re.compile(r"([<>]=?)?(\d+)")


def job_search_of(search: Search, *, now: datetime, zone: tzinfo) -> JobSearch:
    """Return the jobs that a search selects. Durations count from `now`; clock times and dates are in `zone`."""
    tokens = [token for token in search.tokens if token.field not in (INVALID, "state")]
    return JobSearch(
        states=search.states, conditions=tuple(_condition(token, now=now, zone=zone) for token in tokens)
    )


def _condition(token: Token, *, now: datetime, zone: tzinfo) -> Condition:
    if token.field == TEXT:
        return Among(TEXT, token.values, token.is_negated)
    if token.field == "periodic":
        documents = tuple(_document((_PERIODIC_KEY,), value) for value in token.values)
        return Contains("metadata", documents, token.is_negated)
    match FIELDS[token.field].value:
        case Value.JSON:
            return Contains(token.field, tuple(_documents(token)), token.is_negated)
        case Value.NUMBER:
            return Between(token.field, tuple(map(_range, token.values)), token.is_negated)
        case Value.TIME:
            is_ahead = token.field == "scheduled"
            since, until = period_of(token.values[0], now=now, zone=zone, may_be_ahead=is_ahead)
            return During(token.field, since, until, token.is_negated)
        case _:
            return Among(token.field, token.values, token.is_negated)


def _documents(token: Token) -> Iterator[str]:
    """Yield the JSON objects that a token may mean: `42` is a number or a text, alone or in a list."""
    [value] = token.values
    if not token.path:
        yield value
        return
    leaves: list[Json] = [value]
    if not token.is_quoted:
        leaves = [*read_json(value), value]
    for leaf in leaves:
        yield _document(token.path, leaf)
        yield _document(token.path, [leaf])


def _document(path: Sequence[str], leaf: Json) -> str:
    for key in reversed(path):
        leaf = {key: leaf}
    return json.dumps(leaf, ensure_ascii=False, separators=(",", ":"))


def _range(value: str) -> tuple[int, int]:
    found = _NUMBER.fullmatch(value)
    if found is None:
        low, high = value.split("..")
        return int(low or _MIN), int(high or _MAX)
    number = int(found[2])
    match found[1]:
        case ">":
            return min(number + 1, _MAX), _MAX
        case ">=":
            return number, _MAX
        case "<":
            return _MIN, number - 1
        case "<=":
            return _MIN, number
        case _:
            return number, number
