"""
Writes the lines of completed jobs from templates.

Rule 1: a line is what the formatter would write. The formatter itself writes the first line of each kind, queue and level,
        with numbers that stand for those of a job, and the text between these numbers is the template.
Rule 2: where a template cannot be made, because a text has such a number too, the formatter writes each line.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import NamedTuple

from millhand.core.log.context_fields import database_named
from millhand.core.log.line_sink import CompletedLine
from millhand.core.log.logger import FieldRecord

PHRASE = "job completed"
# Applications may have a kind for each customer. Beyond this many, templates are made anew.
NUM_TEMPLATES = 1_000
MICROS = 1_000_000
# In the order of a line, after its instant: the id, the attempt, and the two times.
_SAMPLE = CompletedLine(0.0, 7_777_777_777_777_777, "", "", 31_999, 0, 0.123456, 0.654321)
_NUMBERS = (_SAMPLE.job_id, _SAMPLE.attempt, _SAMPLE.queue_wait_seconds, _SAMPLE.run_seconds)


class _Key(NamedTuple):
    """What the lines of one template have in common."""

    logger: str
    level: int
    database: str
    kind: str
    queue: str
    max_attempts: int


class Stamps:
    """The texts of instants: `stamp` returns that of one, and an instant of the same second has the same text around it."""

    def __init__(self, stamp: Callable[[float], str]) -> None:
        self._around = "", ""
        self._has_fraction = False
        self._second = -1
        self._stamp = stamp

    def __call__(self, seconds: float) -> str:
        second = int(seconds)
        micros = round((seconds - second) * MICROS)
        if micros == MICROS:  # the next second
            return self._stamp(seconds)
        if second != self._second:
            before, fraction, after = self._stamp(float(second)).partition(".000000")
            self._second, self._around, self._has_fraction = second, (before, after), bool(fraction)
        before, after = self._around
        return f"{before}.{micros:06d}{after}" if self._has_fraction else before


class CompletedLines:
    """
    The lines of one formatter. `stamp` returns the text that its lines have for an instant.

    Concurrency: one call at a time.
    """

    def __init__(self, formatter: logging.Formatter, stamp: Callable[[float], str]) -> None:
        self._formatter = formatter
        self._stamp = stamp
        self._templates: dict[tuple[object, ...], tuple[str, ...] | None] = {}

    def text(self, lines: Iterable[tuple[str, int, str, CompletedLine]]) -> str:
        """Return lines, of which each has its logger, its level and its database."""
        texts, templates, stamp = [], self._templates, self._stamp
        for logger, level, database, line in lines:
            created, job_id, kind, queue, attempt, max_attempts, waited, ran = line
            key = (logger, level, database, kind, queue, max_attempts)
            template = templates[key] if key in templates else self._new_template(_Key(*key))
            if template is None:
                texts.append(f"{self._formatted(_Key(*key), line)}\n")
                continue
            before, a, b, c, d, after = template
            texts.append(
                f"{before}{stamp(created)}{a}{job_id}{b}{attempt}{c}{_number(waited)}{d}{_number(ran)}{after}\n"
            )
        return "".join(texts)

    def _new_template(self, key: _Key) -> tuple[str, ...] | None:
        if len(self._templates) >= NUM_TEMPLATES:
            self._templates.clear()
        self._templates[key] = self._template(key)
        return self._templates[key]

    def _template(self, key: _Key) -> tuple[str, ...] | None:
        """Return the texts before, between and after the numbers; None if they are not found once and in order."""
        sample = _SAMPLE._replace(kind=key.kind, queue=key.queue, max_attempts=key.max_attempts)
        rest, parts = self._formatted(key, sample), []
        for number in (self._stamp(sample.created), *map(str, _NUMBERS)):
            if rest.count(number) != 1:
                return None
            part, _, rest = rest.partition(number)
            parts.append(part)
        return (*parts, rest)

    def _formatted(self, key: _Key, line: CompletedLine) -> str:
        record = logging.LogRecord(key.logger, key.level, "", 0, PHRASE, (), None)
        fields = line._asdict()
        record.created = fields.pop("created")
        vars(record).update(fields, event=PHRASE)
        record.__class__ = FieldRecord
        with database_named(key.database):
            return self._formatter.format(record)


def _number(value: float) -> str:
    """Return a number of seconds as JSON and text have it, without an exponent."""
    text = repr(value)
    return text if "e" not in text else f"{value:.6f}"
