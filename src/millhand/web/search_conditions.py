"""
What the tokens of a search mean as conditions on jobs, for a user.

Rule 1: a user finds only jobs of the queues and kinds that the user sees.
Rule 2: no search compares a value that a rule hides, because its result would confirm a guess.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, tzinfo

import msgspec

from millhand.core.errors import ConfigError
from millhand.core.json_value import Json
from millhand.engine.store.job_condition import Among, Between, Condition, Contains, During
from millhand.engine.store.job_search import ARGS_LENGTH, JobSearch
from millhand.shells.settings.web_user import User
from millhand.shells.web.hiding import Hiding
from millhand.web.search import parse_search, read_json
from millhand.web.search_time import period_of
from millhand.web.search_token import FIELDS, INVALID, TEXT, Problem, Search, Token, Value

NOTHING_HIDDEN = Hiding()
# With rules, so much of the args is read to find the hidden values that an error may repeat.
SCANNED_LENGTH = 20_000

_PERIODIC_KEY = "river:periodic_job_id"
_MIN, _MAX = -(2**63), 2**63 - 1
_NUMBER = re.compile(r"([<>]=?)?(\d+)")


def job_search_of(
    search: Search, *, now: datetime, zone: tzinfo, user: User | None = None, hide: Hiding = NOTHING_HIDDEN
) -> JobSearch:
    """
    Return the jobs that a search selects.

    Durations count from `now`; clock times and dates are in `zone`. Pass the search through `without_hidden` first.
    """
    tokens = [token for token in search.tokens if token.field not in (INVALID, "state")]
    conditions = [_condition(token, now=now, zone=zone) for token in tokens]
    if not hide.is_empty:  # a text may be a hidden one
        conditions = [
            msgspec.structs.replace(one, field="name")
            if isinstance(one, Among) and one.field == TEXT
            else one
            for one in conditions
        ]
    limits = {"queue": user.queues, "kind": user.kinds} if user else {}
    conditions += [Among(field, names) for field, names in limits.items() if names is not None]
    return JobSearch(
        states=search.states,
        conditions=tuple(conditions),
        args_length=ARGS_LENGTH if hide.is_empty else SCANNED_LENGTH,
    )


def without_hidden(search: Search, hide: Hiding) -> Search:
    """Return a search whose tokens that compare a hidden value are problems instead."""
    hidden = [token for token in search.tokens if _compares_hidden(token, hide)]
    problems = (
        Problem(
            token.name, "must not be a value that is hidden", ",".join(token.values), "search for another key"
        )
        for token in hidden
    )
    tokens = (Token(INVALID, (str(token),)) if token in hidden else token for token in search.tokens)
    return Search(tuple(tokens), (*search.problems, *problems))


def check_views(views: Mapping[str, str], hide: Hiding) -> None:
    """Raise ConfigError for a saved search that is none, or that compares a hidden value."""
    for name, line in views.items():
        search = without_hidden(parse_search(line), hide)
        if not search.is_valid:
            raise ConfigError(f"view {name!r} must be a search, got {line!r}: {search.problems[0]}")


def _compares_hidden(token: Token, hide: Hiding) -> bool:
    if token.field == "error":  # an error may repeat any hidden value
        return not hide.is_empty
    if token.field not in ("args", "metadata"):
        return False
    try:
        for document in map(msgspec.json.decode, _documents(token)):
            hide.check_search(token.field, document)
            if token.field == "metadata" and "output" in document:
                hide.check_search("output", document["output"])
    except ValueError:
        return True
    return False


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
