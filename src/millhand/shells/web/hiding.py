"""
Values that no user of the page sees, by rules such as `args.password`, `args.*.token` or `args.**.iban`.

    args, metadata, output   what a rule begins with; alone, it hides all of it
    a name                   the value of that key, in any case; a list stands for each of its elements
    *                        the value of any key
    **                       any number of keys

Rules apply to JSON as PostgreSQL prints it, also if the text was cut. Where a job's error, trace or log repeats a hidden
text of at least six characters, it is replaced too. A text that changes the value, such as its base64, is not found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from millhand.core.errors import ConfigError
from millhand.core.job import AttemptError, JobRow
from millhand.core.json_value import Json
from millhand.engine.store.job_details import JobDetails, JsonText

MARK = "(hidden)"
SECTIONS = ("args", "metadata", "output")
# A shorter text, such as `1` or `yes`, is in many other texts by chance.
REPEATED_LENGTH_MIN = 6

_ANY, _ANY_DEPTH = "*", "**"
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*["\\]?|[{}\[\]:,]|[^\s"{}\[\]:,]+|\s+', re.DOTALL)

Path = tuple[str, ...]
Rules = tuple[Path, ...]


class Hidden(msgspec.Struct, frozen=True):
    """A JSON text without its hidden values, and these values as texts."""

    text: str
    values: frozenset[str]


class Hiding(msgspec.Struct, frozen=True, kw_only=True):
    """The rules by section. Make it with `hide_rules`."""

    args: Rules = ()
    metadata: Rules = ()
    output: Rules = ()

    @property
    def is_empty(self) -> bool:
        return not (self.args or self.metadata or self.output)

    def json(self, section: str, text: str) -> str:
        """Return the JSON text of a section without its hidden values."""
        return hidden_json(text, getattr(self, section)).text

    def check_search(self, section: str, value: Json) -> None:
        """
        Return if a search may compare a section of jobs with `value`, such as `{"order": {"id": 42}}`.

        A search for a hidden value would confirm a guess. Raises: ValueError.
        """
        text = msgspec.json.encode(value).decode()
        if self.json(section, text) != text:
            raise ValueError(
                f"search must not compare values of {section} that a rule hides; search for another key"
            )

    def job(self, job: JobDetails) -> JobDetails:
        """Return a job without its hidden values."""
        if self.is_empty:
            return job
        args, metadata = hidden_json(job.args.text, self.args), hidden_json(job.metadata.text, self.metadata)
        output = None if job.output is None else hidden_json(job.output.text, self.output)
        values = args.values | metadata.values | (output.values if output else frozenset())
        return msgspec.structs.replace(
            job,
            args=_replaced(job.args, args),
            metadata=_replaced(job.metadata, metadata),
            output=output and job.output and _replaced(job.output, output),
            errors=tuple(_without_repeats_in(error, values) for error in job.errors),
            # It is a hash of the args, by which a short value could be guessed.
            unique_key=MARK if job.unique_key and self.args else job.unique_key,
            logs={number: without_repeats(log, values) for number, log in job.logs.items()},
        )

    def row(self, job: JobRow) -> JobRow:
        """Return a row of a list without its hidden values; with rules, also without its metadata and errors."""
        if self.is_empty:
            return job
        return msgspec.structs.replace(
            job, encoded_args=self.json("args", job.encoded_args), metadata={}, errors=()
        )


def hide_rules(texts: Sequence[str]) -> Hiding:
    """Return rules from their texts. Raises: ConfigError."""
    rules: dict[str, list[Path]] = {section: [] for section in SECTIONS}
    for text in texts:
        section, *path = text.split(".")
        if section == "metadata" and path[:1] == ["output"]:
            section, *path = path
        if section not in rules or "" in path:
            raise ConfigError(
                f"hide must be paths that begin with args, metadata or output, such as 'args.password', got {text!r}"
            )
        rules[section].append(tuple(part.casefold() for part in path))
    return Hiding(**{section: tuple(paths) for section, paths in rules.items()})


def hidden_json(text: str, rules: Rules) -> Hidden:
    """Return a JSON text, which may be cut, with a mark in place of each hidden value."""
    rules = _possible(rules, text)
    if not rules:
        return Hidden(text, frozenset())
    scan = _Scan(rules)
    for part in _TOKEN.finditer(text):
        scan.read(part[0])
    return Hidden("".join(scan.shown), frozenset(scan.values))


def without_repeats(text: str, values: Iterable[str]) -> str:
    """Return a text with a mark in place of each hidden value in it."""
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, MARK)
    return text


def _possible(rules: Rules, text: str) -> Rules:
    """Return the rules whose keys are all in the text: most jobs of a list have none. An escape may spell any key."""
    if not rules or "\\" in text:
        return rules
    folded = text.casefold()
    return tuple(rule for rule in rules if all(key in folded or key in (_ANY, _ANY_DEPTH) for key in rule))


class _Scan:
    """Reads the tokens of a JSON text. Neither its depth nor its end matter, because nothing is parsed as a whole."""

    def __init__(self, rules: Rules) -> None:
        self.shown: list[str] = []
        self.values: set[str] = set()
        # For each open object or list: whether it is an object, and the rules for what is in it.
        self._open: list[tuple[bool, Rules]] = []
        self._rules = rules  # for the next value
        self._is_key = False
        self._hidden_depth: int | None = None  # of the containers around a value that is hidden

    def read(self, part: str) -> None:
        if part in "}]":
            self._end(part)
        elif part in ",:" or part.isspace():
            self._show(part)
            if part == ",":
                self._next()
        elif self._is_key:
            self._show(part)
            self._rules = _unique(_after(self._open[-1][1], _text(part)))
            self._is_key = False
        else:
            self._value(part)

    def _value(self, part: str) -> None:
        is_begin = self._hidden_depth is None and () in self._rules
        if is_begin:
            self.shown.append(f'"{MARK}"')
            self._hidden_depth = len(self._open)
        if part not in "{[":
            self._collect(part)
            self._show(part)
            self._end_hidden()
            return
        self._show(part)
        self._open.append((part == "{", self._rules))
        self._next()

    def _next(self) -> None:
        """Expect the next key of an object, or element of a list, for which the list's rules hold."""
        if not self._open:
            return
        self._is_key, rules = self._open[-1]
        self._rules = () if self._is_key else _unique((*rules, *_after(rules, "")))

    def _end(self, part: str) -> None:
        if self._open:
            self._open.pop()
        self._is_key = False
        self._show(part)
        self._end_hidden()

    def _end_hidden(self) -> None:
        if self._hidden_depth is not None and self._hidden_depth >= len(self._open):
            self._hidden_depth = None

    def _show(self, part: str) -> None:
        if self._hidden_depth is None:
            self.shown.append(part)

    def _collect(self, part: str) -> None:
        if self._hidden_depth is not None and len(value := _text(part)) >= REPEATED_LENGTH_MIN:
            self.values.add(value)


def _after(rules: Rules, key: str) -> Iterator[Path]:
    """Yield what is left of each rule behind a key; an empty rule hides the key's value."""
    for rule in rules:
        head, rest = (rule[0], rule[1:]) if rule else ("", ())
        if head == _ANY_DEPTH:
            yield rule
            yield from _after((rest,), key) if rest else [()]
        elif rule and head in (_ANY, key.casefold()):
            yield rest


def _unique(rules: Iterable[Path]) -> Rules:
    return tuple(dict.fromkeys(rules))


def _text(part: str) -> str:
    """Return the text of a string, as far as it goes, or of another scalar."""
    if not part.startswith('"'):
        return part
    try:
        return msgspec.json.decode(part, type=str)
    except msgspec.DecodeError:
        return part.strip('"')


def _replaced(whole: JsonText, hidden: Hidden) -> JsonText:
    return msgspec.structs.replace(whole, text=hidden.text)


def _without_repeats_in(error: AttemptError, values: frozenset[str]) -> AttemptError:
    return msgspec.structs.replace(
        error, error=without_repeats(error.error, values), trace=without_repeats(error.trace, values)
    )
