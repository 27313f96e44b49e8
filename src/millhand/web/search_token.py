"""
A search of the jobs page, as tokens; `str` writes it as a line.

Rule 1: each token narrows the search; the values of one token are alternatives.
Rule 2: a job has one value of some fields. Two tokens of such a field become one, because both together select nothing.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Sequence

import msgspec

from millhand.core.job import JobState


class Value(enum.Enum):
    """What the values of a token are."""

    STATE = "states"
    NAME = "names"
    NUMBER = "numbers"
    TIME = "a time"
    TEXT = "a text"
    JSON = "a JSON object, or a value after a path"


class Field(msgspec.Struct, frozen=True):
    """A field of tokens. Of a field with `is_one`, a job has one value."""

    name: str
    value: Value
    about: str
    example: str
    is_one: bool = False


FIELDS = {
    field.name: field
    for field in (
        Field("state", Value.STATE, "the job's state", "state:retryable,available", is_one=True),
        Field("kind", Value.NAME, "the kind", "kind:send_email,resize", is_one=True),
        Field("queue", Value.NAME, "the queue", "queue:mail", is_one=True),
        Field("tag", Value.NAME, "a tag of the job", "tag:eu"),
        Field("id", Value.NUMBER, "the id", "id:123,124", is_one=True),
        Field("priority", Value.NUMBER, "the priority, 1 to 4", "priority:1", is_one=True),
        Field("attempt", Value.NUMBER, "the number of attempts", "attempt:>5", is_one=True),
        Field(
            "args", Value.JSON, "a value in the args, or a JSON object that they contain", "args.order.id:42"
        ),
        Field("metadata", Value.JSON, "the same of the metadata", "metadata.trace:abc"),
        Field("error", Value.TEXT, "a text in an error", 'error:"connection refused"'),
        Field(
            "client", Value.NAME, "a client that fetched the job, by the start of its id", "client:worker-2"
        ),
        Field("periodic", Value.NAME, "the id of the periodic job that inserted it", "periodic:nightly"),
        Field("created", Value.TIME, "when the job was inserted", "created:12:00..13:00"),
        Field("scheduled", Value.TIME, "when the job is or was due", "scheduled:<+1h"),
        Field("attempted", Value.TIME, "when its last attempt began", "attempted:<30m"),
        Field("finalized", Value.TIME, "when the job ended", "finalized:2026-11-27"),
        Field("failed", Value.TIME, "when its last failed attempt began", "failed:<1h"),
    )
}
TEXT = "text"
INVALID = ""

_PLAIN_KEY = re.compile(r'[^\s.:"]+')


class Problem(msgspec.Struct, frozen=True):
    """What is wrong with a token, or a hint."""

    subject: str
    rule: str
    value: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.subject} {self.rule}, got {self.value!r}; {self.remedy}"


class Token(msgspec.Struct, frozen=True):
    """
    One token of a search. `field` is a name of FIELDS, TEXT for a text that stands alone, or INVALID.

    `path` are the keys after `args` or `metadata`. `is_quoted` is whether a value was written in quotes, where that
    makes it a text.
    """

    field: str
    values: tuple[str, ...]
    path: tuple[str, ...] = ()
    is_negated: bool = False
    is_quoted: bool = False

    def __str__(self) -> str:
        sign = "-" if self.is_negated else ""
        if self.field == INVALID:
            return self.values[0]
        if self.field == TEXT or (self.path and self.is_quoted):
            values = _quote(self.values[0]) if self.is_quoted else self.values[0]
        elif FIELDS[self.field].value is Value.JSON:
            values = self.values[0]
        else:
            values = ",".join(_quote_if_needed(value) for value in self.values)
        return f"{sign}{'' if self.field == TEXT else self.name + ':'}{values}"

    @property
    def name(self) -> str:
        """The field with its path."""
        keys = (key if _PLAIN_KEY.fullmatch(key) else _quote(key) for key in self.path)
        return ".".join((self.field, *keys))


class Search(msgspec.Struct, frozen=True):
    """What a search line means. `str(search)` is the line in its one form."""

    tokens: tuple[Token, ...] = ()
    problems: tuple[Problem, ...] = ()

    def __str__(self) -> str:
        return " ".join(map(str, self.tokens))

    @property
    def is_empty(self) -> bool:
        return not self.tokens

    @property
    def is_valid(self) -> bool:
        """Whether each token selects something; a problem of a valid search is a hint."""
        return all(token.field != INVALID for token in self.tokens)

    @property
    def states(self) -> tuple[JobState, ...]:
        """The states that the search selects; all, if it names none."""
        tokens = [token for token in self.tokens if token.field == "state"]
        return tuple(
            state
            for state in JobState
            if all((state.value in token.values) != token.is_negated for token in tokens)
        )

    def values(self, field: str) -> tuple[str, ...]:
        """Return the values of a field's token without a minus."""
        return next(
            (token.values for token in self.tokens if token.field == field and not token.is_negated), ()
        )

    def without(self, token: Token) -> Search:
        """Return the search without a token."""
        return Search(tuple(one for one in self.tokens if one != token))

    def replaced(self, field: str, *values: str) -> Search:
        """Return the search with one token of a field in place of all its tokens; without values, with none."""
        others = tuple(token for token in self.tokens if token.field != field)
        return Search((Token(field, values), *others) if values else others)

    def added(self, token: Token) -> Search:
        """Return the search with one more token, as if it stood at the end of the line."""
        return Search(tuple(merged((*self.tokens, token))))


def merged(tokens: Sequence[Token]) -> Iterator[Token]:
    """Yield the tokens, with one token for all values of a field with one value per job, and none twice."""
    found: dict[str | Token, dict[str, None]] = {}
    for token in tokens:
        key: str | Token = token.field if _is_mergeable(token) else token
        found.setdefault(key, {}).update(dict.fromkeys(token.values))
    for key, values in found.items():
        yield key if isinstance(key, Token) else Token(key, tuple(values))


def _is_mergeable(token: Token) -> bool:
    field = FIELDS.get(token.field)
    if field is None or not field.is_one or token.is_negated:
        return False
    return field.value is not Value.NUMBER or all(value.isdigit() for value in token.values)


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _quote_if_needed(text: str) -> str:
    return _quote(text) if not text or text[0] == '"' or re.search(r"[\s,]", text) else text
