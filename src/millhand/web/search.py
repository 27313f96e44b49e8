"""
The search line of the jobs page, read as tokens.

Rule 1: every text can be read, up to LENGTH_MAX characters. A token that is invalid stays in the line, selects nothing, and
        is a problem of the search.
Rule 2: the line that `str(search)` writes is read as the same search.
"""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Collection, Iterator, Sequence

import msgspec

from millhand.core.job import JobState
from millhand.core.json_value import Json
from millhand.engine.store.job_row import sanitized
from millhand.web import search_time
from millhand.web.search_token import FIELDS, INVALID, TEXT, Field, Problem, Search, Token, Value, merged

# A list of a thousand ids fits. Reading takes the time of the event loop, and the page has a link for each token.
LENGTH_MAX = 8_000
TOKENS_MAX = 100
# Kinds without jobs for which a near-match is searched.
NEAR_KINDS_MAX = 3

_STATES = [state.value for state in JobState]
_SHOWN = 100  # characters of a value in a problem
_BIGINT = 2**63 - 1

_FIELD = re.compile(r'([A-Za-z_]+)((?:\.(?:"(?:[^"\\]|\\.)*"|[^\s.:"]+))*):')
_KEY = re.compile(r'"((?:[^"\\]|\\.)*)"|([^\s.:"]+)')
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)(?:"|\\?\Z)', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_NUMBER = re.compile(r"([<>]=?)?(\d{1,19})|(\d{1,19})?\.\.(\d{1,19})?")
# What some people call a state, and what it is here.
_MEANT = {
    "done": "completed", "errored": "retryable,discarded", "failed": "retryable,discarded", "finished": "completed",
    "queued": "available", "ready": "available", "waiting": "available", "working": "running",
}  # fmt: skip


class _Invalid(Exception):
    def __init__(self, rule: str, remedy: str, value: str) -> None:
        super().__init__(rule)
        self.rule, self.remedy, self.value = rule, remedy, value


def parse_search(line: str, *, kinds: Collection[str] = ()) -> Search:
    """
    Return what a search line means.

    Args:
        line: What a person wrote.
        kinds: The kinds that are known. One that stands alone is a kind; one that is almost known is a problem.

    Raises: ValueError for a line that is too long, or has too many tokens.
    """
    tokens: list[Token] = []
    problems: list[Problem] = []
    for _, _, token, problem in read_tokens(str(sanitized(line)), kinds):
        is_nothing = token.field == TEXT and token.values == ("",)
        tokens += [] if is_nothing else [token]
        problems += [] if problem is None else [problem]
    once = tuple(merged(tokens))
    if len(once) > TOKENS_MAX:
        raise ValueError(
            f"search must have at most {TOKENS_MAX} tokens, got {len(once):,}; write alternatives into one token, as id:1,2"
        )
    search = Search(once, tuple(dict.fromkeys((*problems, *_near_kinds(once, kinds)))))
    _check_length(str(search))  # its links and a bulk change have this form
    return search


def read_tokens(text: str, kinds: Collection[str] = ()) -> Iterator[tuple[int, int, Token, Problem | None]]:
    """
    Yield where each token of a line begins and ends, what it is, and its problem.

    Raises: ValueError for a line that is too long.
    """
    _check_length(text)
    end = 0
    while (start := _skip_space(text, end)) < len(text):
        token, end, problem = _read(text, start, kinds)
        yield start, end, token, problem


def _check_length(line: str) -> None:
    if len(line) > LENGTH_MAX:
        raise ValueError(
            f"search must have at most {LENGTH_MAX:,} characters, got {len(line):,}; search for fewer values, or for a range"
        )


def _read(text: str, start: int, kinds: Collection[str]) -> tuple[Token, int, Problem | None]:
    """Return the token that begins at `start`, where it ends, and its problem."""
    is_negated = text[start] == "-" and start + 1 < len(text) and not text[start + 1].isspace()
    at = start + is_negated
    found = _FIELD.match(text, at)
    if found is None:
        token, end = _read_text(text, at, kinds)
        return msgspec.structs.replace(token, is_negated=is_negated), end, None
    name = found[1].lower()
    path = tuple(_unescape(key[1]) if key[2] is None else key[2] for key in _KEY.finditer(found[2]))
    values, end, is_quoted = _read_values(text, found.end(), FIELDS.get(name))
    try:
        token = _token(name, path, values, is_quoted=is_quoted)
    except _Invalid as invalid:
        raw = text[start:end]
        subject = name if name in FIELDS else "token"
        return (
            Token(INVALID, (raw,)),
            end,
            Problem(subject, invalid.rule, invalid.value[:_SHOWN], invalid.remedy),
        )
    return msgspec.structs.replace(token, is_negated=is_negated), end, None


def _read_text(text: str, start: int, kinds: Collection[str]) -> tuple[Token, int]:
    if text[start] == '"':
        value, end = _read_quoted(text, start)
        rest = _run_end(text, end)
        return Token(TEXT, (value + text[end:rest],), is_quoted=True), rest
    end = _run_end(text, start)
    value = text[start:end]
    if value.isascii() and value.isdigit() and int(value[:20]) <= _BIGINT and len(value) <= 19:  # noqa: PLR2004
        return Token("id", (str(int(value)),)), end
    return Token("kind" if value in kinds else TEXT, (value,)), end


def _read_values(text: str, start: int, field: Field | None) -> tuple[tuple[str, ...], int, bool]:
    """Return the values after a colon, where they end, and whether the last one was in quotes."""
    if field is not None and field.value is Value.JSON and text.startswith("{", start):
        end = _json_end(text, start)
        return (text[start:end],), end, False
    splits = field is not None and field.value in (Value.STATE, Value.NAME, Value.NUMBER)
    values: list[str] = []
    end, is_quoted = start, False
    while True:
        value, is_quoted = "", end < len(text) and text[end] == '"'
        if is_quoted:
            value, end = _read_quoted(text, end)
        rest = _run_end(text, end, "," if splits else "")
        values.append(value + text[end:rest])
        end = rest
        if not (splits and text.startswith(",", end)):
            return tuple(values), end, is_quoted
        end += 1


def _json_end(text: str, start: int) -> int:
    """Return where the JSON object ends, or the word, if it is none that PostgreSQL accepts."""
    try:
        return _JSON.raw_decode(text, start)[1]
    except (ValueError, RecursionError):
        return _run_end(text, start)


def _no_constant(text: str) -> object:
    raise ValueError(text)


def _checked_float(text: str) -> float:
    if len(text) > _SHOWN or abs(int(re.split("[eE]", text + "e0")[1])) > 300:  # noqa: PLR2004 - as a double
        raise ValueError(text)
    return float(text)


_JSON = json.JSONDecoder(parse_constant=_no_constant, parse_float=_checked_float)


def read_json(value: str) -> list[Json]:
    """Return the number, boolean or null that a word is in JSON; nothing for another word."""
    try:
        read = _JSON.decode(value)
    except (ValueError, RecursionError):
        return []
    return [] if isinstance(read, str | list | dict) else [read]


def _token(name: str, path: tuple[str, ...], values: tuple[str, ...], *, is_quoted: bool) -> Token:
    """Return a checked token in its one form. Raises: _Invalid."""
    field = FIELDS.get(name)
    if field is None:
        near = difflib.get_close_matches(name[:_SHOWN], FIELDS, n=1)
        remedy = f"did you mean {near[0]}:?" if near else "write quotes around a text with a colon"
        raise _Invalid(f"must be one of {', '.join(FIELDS)}", remedy, name)
    if path and field.value is not Value.JSON:
        raise _Invalid("must have no path", f"write {field.example}", ".".join(path))
    may_be_empty = bool(path) and is_quoted
    if not any(values) and not may_be_empty:
        raise _Invalid("must have a value", f"write {field.example}", "")
    checked = tuple(dict.fromkeys(_checked(field, value, path) for value in values if value or may_be_empty))
    return Token(name, checked, path, is_quoted=may_be_empty)


def _checked(field: Field, value: str, path: Sequence[str]) -> str:
    match field.value:
        case Value.STATE:
            return _checked_state(value)
        case Value.NUMBER:
            return _checked_number(field, value)
        case Value.TIME:
            try:
                return search_time.canonical_time(value)
            except ValueError as error:
                raise _Invalid(search_time.RULE, search_time.REMEDY, value) from error
        case Value.JSON if path or _is_storable_object(value):
            return value
        case Value.JSON:
            remedy = f'write {field.name}.key:value or {field.name}:{{"key": "value"}}'
            raise _Invalid("must be a JSON object", remedy, value)
        case _:
            return value


def _checked_state(value: str) -> str:
    state = value.lower()
    if state in _STATES:
        return state
    near = _MEANT.get(state) or next(iter(difflib.get_close_matches(state[:_SHOWN], _STATES, n=1)), "")
    states = ", ".join(_STATES)
    raise _Invalid(f"must be one of {states}", f"did you mean state:{near}?" if near else "name one", value)


def _checked_number(field: Field, value: str) -> str:
    found = _NUMBER.fullmatch(value)
    numbers = [] if found is None else re.findall(r"\d+", value)
    if found is None or not numbers or any(int(number) > _BIGINT for number in numbers):
        raise _Invalid("must be a number or a range", f"write {field.name}:5, >5, <=5 or 2..4", value)
    if found[2]:
        return f"{found[1] or ''}{int(found[2])}"
    return "..".join(str(int(end)) if end else "" for end in (found[3], found[4]))


def _is_storable_object(value: str) -> bool:
    """Return whether PostgreSQL reads a text as a JSON object; it has no U+0000 and no half of a character."""
    try:
        document = _JSON.decode(value)
        return isinstance(document, dict) and sanitized(document) == document
    except (ValueError, RecursionError):
        return False


def _near_kinds(tokens: Sequence[Token], kinds: Collection[str]) -> Iterator[Problem]:
    values = (value for token in tokens if token.field == "kind" for value in token.values)
    unknown = (value[:_SHOWN] for value in values if value not in kinds)
    for value in itertools.islice(unknown, NEAR_KINDS_MAX):
        if near := difflib.get_close_matches(value, kinds, n=1):
            yield Problem("kind", "should have jobs", value, f"did you mean kind:{near[0]}?")


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _run_end(text: str, at: int, stops: str = "") -> int:
    while at < len(text) and not text[at].isspace() and text[at] not in stops:
        at += 1
    return at


def _read_quoted(text: str, start: int) -> tuple[str, int]:
    """Return the text in quotes, and where it ends. The end of the line ends it too."""
    found = _QUOTED.match(text, start)
    assert found is not None  # noqa: S101 - the character at `start` is a quote
    return _unescape(found[1]), found.end()


def _unescape(text: str) -> str:
    return _ESCAPE.sub(r"\1", text)
