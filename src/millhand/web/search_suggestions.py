"""Suggestions for the token under the cursor of the search line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from millhand.core.job import JobState
from millhand.db.driver.protocol import Executor
from millhand.engine.store.job_search import Had, job_search_kinds, job_search_newest
from millhand.shells.settings.web_user import User
from millhand.web.search import read_tokens
from millhand.web.search_token import FIELDS, Token, Value

MOST = 10
KINDS_MAX = 500
NEWEST = 200
SECONDS = 1.0


class Suggestion(msgspec.Struct, frozen=True):
    """A text to put in place of `line[start:end]`, and what it means."""

    text: str
    about: str
    start: int
    end: int


class Typed(NamedTuple):
    """The part of a token before the cursor: a minus, the field with its colon, earlier values, and the last one."""

    start: int
    end: int
    sign: str
    field: str
    earlier: str
    last: str


def typed_at(line: str, cursor: int) -> Typed:
    """Return the token that a person writes at the cursor; an empty one between two tokens."""
    for start, end, _, _ in read_tokens(line):
        if start < cursor <= end:
            text = line[start:cursor]
            sign, text = ("-", text[1:]) if text.startswith("-") else ("", text)
            field, colon, values = text.partition(":")
            if not colon:
                return Typed(start, end, sign, "", "", field)
            earlier, comma, last = values.rpartition(",")
            return Typed(start, end, sign, field.lower(), earlier + comma, last)
    return Typed(cursor, cursor, "", "", "", "")


async def known_kinds(pool: Executor, user: User | None = None) -> list[str]:
    """
    Return the kinds that have jobs and that the user sees, by name; the first ones, if there are very many.

    For a user who sees some queues only, they are those of the newest jobs.
    """
    if user and user.queues is not None:
        return sorted(one.names[0] for one in await _newest(pool, user) if one.what == "kind")
    kinds = await pool.run(job_search_kinds(limit=KINDS_MAX).within(SECONDS))
    return [kind for kind in kinds if user is None or user.sees_kind(kind)]


async def suggest(
    pool: Executor, line: str, cursor: int, *, user: User | None = None
) -> tuple[Suggestion, ...]:
    """
    Return what may stand at the cursor, the best first; only what the user sees.

    Raises: ValueError for a line that is too long; else as `Executor.run`.
    """
    typed = typed_at(line, cursor)
    needs_kinds = typed.field == "kind" or (not typed.field and bool(typed.last))
    needs_newest = typed.field in ("client", "queue", "tag") or (not typed.field and "." in typed.last)
    kinds = await known_kinds(pool, user) if needs_kinds else []
    had = await _newest(pool, user) if needs_newest else []
    return suggestions(typed, kinds, had)


async def _newest(pool: Executor, user: User | None) -> list[Had]:
    kinds, queues = (user.kinds, user.queues) if user else (None, None)
    return await pool.run(job_search_newest(num_rows=NEWEST, kinds=kinds, queues=queues).within(SECONDS))


def suggestions(typed: Typed, kinds: Sequence[str], had: Sequence[Had]) -> tuple[Suggestion, ...]:
    """Return what may follow what was typed; those that begin with it come first."""
    wanted = _bare(typed.last)
    found = [(text, about) for text, about, name in _all(typed, kinds, had) if wanted in _bare(name)]
    found.sort(key=lambda pair: not _begins(pair[0], typed, wanted))
    return tuple(
        Suggestion(typed.sign + text, about, typed.start, typed.end)
        for text, about in list(dict.fromkeys(found))[:MOST]
    )


def _begins(text: str, typed: Typed, wanted: str) -> bool:
    return _bare(text.removeprefix(f"{typed.field}:{typed.earlier}")).startswith(wanted)


def _bare(text: str) -> str:
    return text.replace('"', "").lower()


def _all(typed: Typed, kinds: Sequence[str], had: Sequence[Had]) -> Iterator[tuple[str, str, str]]:
    """Yield each token that fits, what it means, and the name that is compared."""
    if not typed.field:
        for name, field in FIELDS.items():
            yield f"{name}{'.' if field.value is Value.JSON else ':'}", field.about, name
        for one in had:
            if one.what == "args":
                text = Token("args", (), one.names).name
                yield f"{text}:", f"in {one.num_jobs} of the newest {NEWEST} jobs", text
        for kind in kinds:
            yield str(Token("kind", (kind,))), FIELDS["kind"].about, kind
        return
    for name, about in _values(typed.field, kinds, had):
        value = str(Token(typed.field, (name,))).removeprefix(f"{typed.field}:")
        yield f"{typed.field}:{typed.earlier}{value}", about, name


def _values(field: str, kinds: Sequence[str], had: Sequence[Had]) -> Iterator[tuple[str, str]]:
    if field == "state":
        for state in JobState:
            yield state.value, ""
    if field == "kind":
        for kind in kinds:
            yield kind, ""
    for one in had:
        if one.what == field and field not in ("args", "kind"):
            yield one.names[0], f"{one.num_jobs} of the newest {NEWEST} jobs"
