"""
Cron expressions, parsed as River's Go programs parse them, so that a leader in either language fires at the same times.

Rule 1: five fields (minute, hour, day of month, month, day of week), or `@yearly` … `@hourly`, or `@every 1h30m`.
        Lists, ranges, steps and English names are allowed; day of week is 0-6. No seconds, no `L`, no `#`, no 7.
Rule 2: if day of month and day of week are both restricted, either must match; a step restricts. Else both must match.
Rule 3: the zone is the expression's (`CRON_TZ=Europe/Berlin 0 3 * * *`), else the caller's, else UTC. In Go it is the
        leader's own zone, so that a schedule changes with the machine that leads.
Rule 4: a schedule is the set of instants whose local wall-clock time matches. A time that a zone skips in spring is
        skipped that day, and one that it repeats in autumn fires twice.

cronsim walks the calendar. The grammar and the zones are implemented here, because cronsim follows Debian there and
not River (docs/decisions/river.md#decision-6).

Source: robfig/cron v3.0.1 (Go), parser.go `ParseStandard`, spec.go `SpecSchedule.Next`, constantdelay.go.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import NamedTuple, NoReturn

import msgspec
from cronsim import CronSim, CronSimError

from millhand.core.errors import ConfigError

_DESCRIPTORS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
# Decimals: 4.1 minutes are 246 seconds, and less than that in floats.
_UNIT_SECONDS = {
    "ns": Decimal("1e-9"),
    "us": Decimal("1e-6"),
    "µs": Decimal("1e-6"),
    "μs": Decimal("1e-6"),
    "ms": Decimal("1e-3"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
}
_INTERVAL_SECONDS_MAX = (2**63 - 1) // 10**9  # Go counts nanoseconds in 64 bits
_DURATION_PART = r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)"
_DURATION_RE = re.compile(rf"[-+]?(?:{_DURATION_PART})+", re.ASCII)


class Field(NamedTuple):
    """One field of an expression: its name, its bounds, and the names of its numbers."""

    name: str
    first: int
    last: int
    names: tuple[str, ...] = ()


_FIELDS = (
    Field("minute", 0, 59),
    Field("hour", 0, 23),
    Field("day of month", 1, 31),
    Field("month", 1, 12, _MONTHS),
    Field("day of week", 0, 6, _DAYS),
)


class CronSchedule(msgspec.Struct, frozen=True):
    """The instants whose wall-clock time in `zone` matches `fields`, an expression of plain lists and stars."""

    expression: str
    fields: str
    zone: tzinfo

    def next(self, after: datetime) -> datetime | None:
        """Return the first instant after `after`, in UTC; None if there is none within fifty years."""
        local = after.astimezone(self.zone)
        here = local.replace(tzinfo=None, fold=0)
        found = self._next_local_time(here)
        if local.fold == 1 and found is not None and _is_same_overlap(here, found, self.zone):
            return _instant(found, self.zone, fold=1)
        if local.fold == 0 and _is_repeated(here, self.zone):
            return self._next_in_repeated_hour(here, found)
        return None if found is None else _instant(found, self.zone)

    def _next_in_repeated_hour(self, here: datetime, found: datetime | None) -> datetime | None:
        """Return the next instant within an hour that will be repeated: its rest, then the repetition, then later."""
        if found is not None and _is_same_overlap(here, found, self.zone):
            return _instant(found, self.zone)
        start = here.replace(second=0, microsecond=0)
        while _is_repeated(start - timedelta(minutes=1), self.zone):
            start -= timedelta(minutes=1)
        again = self._next_local_time(start - timedelta(seconds=1))
        if again is not None and again <= here:
            return _instant(again, self.zone, fold=1)
        return None if found is None else _instant(found, self.zone)

    def _next_local_time(self, after: datetime) -> datetime | None:
        """Return the first matching wall-clock time after `after` that exists in the zone."""
        try:
            for reading in CronSim(self.fields, after):
                if _instant(reading, self.zone).astimezone(self.zone).replace(tzinfo=None, fold=0) == reading:
                    return reading
        except (CronSimError, OverflowError):  # a day that no month has, or beyond year 9999
            pass
        return None


class EverySchedule(msgspec.Struct, frozen=True):
    """The descriptor `@every`: an interval of whole seconds, at least one, between whole seconds."""

    expression: str
    interval: timedelta

    def next(self, after: datetime) -> datetime | None:
        """Return `after` plus the interval, in UTC, without its fraction of a second."""
        return (after.astimezone(UTC) + self.interval).replace(microsecond=0)


def parse_cron(expression: str, timezone: str | tzinfo | None = None) -> CronSchedule | EverySchedule:
    """Parse a cron expression; `timezone` is for one that names no zone. Raises: ConfigError naming field and rule."""
    named, spec = _split_zone(expression)
    if named is not None and timezone is not None:
        _raise_invalid(expression, "time zone must be given once", f"{named!r} and {timezone!r}")
    if spec.startswith("@every "):
        return EverySchedule(expression, _parse_interval(spec.removeprefix("@every "), expression))
    if spec.startswith("@") and spec not in _DESCRIPTORS:
        known = ", ".join(_DESCRIPTORS)
        _raise_invalid(expression, f"descriptor must be one of {known}, @every", repr(spec))
    texts = _DESCRIPTORS.get(spec, spec).split()
    if len(texts) != len(_FIELDS):
        _raise_invalid(expression, "number of fields must be 5", f"{len(texts)}")
    fields = [_parse_field(field, text, expression) for field, text in zip(_FIELDS, texts, strict=True)]
    return CronSchedule(expression, " ".join(fields), zone_of(timezone if named is None else named))


def zone_of(timezone: str | tzinfo | None) -> tzinfo:
    """Return the zone of a name; None is UTC. Raises: ConfigError for an unknown name."""
    if isinstance(timezone, tzinfo):
        return timezone
    if timezone in (None, "", "UTC"):
        return UTC
    from zoneinfo import ZoneInfo  # noqa: PLC0415 - a worker whose schedules are all in UTC never needs it

    try:
        return ZoneInfo(str(timezone))
    except (KeyError, ValueError, OSError) as error:
        raise ConfigError(
            f"time zone must be a name of the IANA database, got {timezone!r}; "
            "if the name is right, install the package tzdata"
        ) from error


def _split_zone(expression: str) -> tuple[str | None, str]:
    for prefix in ("CRON_TZ=", "TZ="):
        if expression.startswith(prefix):
            name, blank, spec = expression.removeprefix(prefix).partition(" ")
            if not blank:
                _raise_invalid(expression, "number of fields must be 5", "0")
            return name, spec.strip()
    return None, expression.strip()


def _parse_interval(text: str, expression: str) -> timedelta:
    if text not in ("0", "+0", "-0") and not _DURATION_RE.fullmatch(text):
        _raise_invalid(expression, "duration must be like '90s' or '1h30m'", repr(text))
    parts = re.findall(_DURATION_PART, text, re.ASCII)
    total = int(sum(Decimal(number) * _UNIT_SECONDS[unit] for number, unit in parts))
    if total > _INTERVAL_SECONDS_MAX:
        _raise_invalid(expression, "duration must be at most 292 years", repr(text))
    return timedelta(seconds=max(-total if text.startswith("-") else total, 1))


def _parse_field(field: Field, text: str, expression: str) -> str:
    """Return a field in cronsim's grammar: a star, or a plain list of numbers."""
    numbers: set[int] = set()
    is_any = False
    for piece in filter(None, text.split(",")):
        some, is_star = _parse_piece(field, piece, expression)
        is_any |= is_star
        numbers.update(some)
    if is_any:
        return "*"
    if not numbers:
        _raise_invalid(expression, f"{field.name} must name a value", repr(text))
    return ",".join(map(str, sorted(numbers)))


def _parse_piece(field: Field, piece: str, expression: str) -> tuple[range, bool]:
    """Return the numbers of `*`, `a` or `a-b`, with or without `/step`, and whether they are all numbers of the field."""
    span, slash, step_text = piece.partition("/")
    step = _parse_number(field, step_text, piece, expression) if slash else 1
    if step < 1:
        _raise_invalid(expression, f"step of {field.name} must be at least 1", repr(piece))
    if span in ("*", "?"):
        return range(field.first, field.last + 1, step), step == 1
    low_text, hyphen, high_text = span.partition("-")
    low = _parse_number(field, low_text, piece, expression)
    high = _parse_number(field, high_text, piece, expression) if hyphen else field.last if slash else low
    if not field.first <= low <= high <= field.last:
        hint = "; Sunday is 0" if field.names is _DAYS and "7" in piece else ""
        rule = f"{field.name} must be within {field.first}-{field.last}, in order"
        _raise_invalid(expression, rule, repr(piece), hint)
    return range(low, high + 1, step), False


def _parse_number(field: Field, text: str, piece: str, expression: str) -> int:
    if text.lower() in field.names:
        return field.names.index(text.lower()) + field.first
    if not re.fullmatch(r"\+?[0-9]+", text):
        names = f" or {field.names[0].upper()}-{field.names[-1].upper()}" if field.names else ""
        _raise_invalid(expression, f"{field.name} must be {field.first}-{field.last}{names}", repr(piece))
    return int(text)


def _raise_invalid(expression: str, rule: str, got: str, hint: str = "") -> NoReturn:
    raise ConfigError(f"cron expression's {rule}, got {got} in {expression!r}{hint}")


def _instant(reading: datetime, zone: tzinfo, fold: int = 0) -> datetime:
    return reading.replace(tzinfo=zone, fold=fold).astimezone(UTC)


def _is_repeated(reading: datetime, zone: tzinfo) -> bool:
    return _overlap(reading, zone) > timedelta(0)


def _overlap(reading: datetime, zone: tzinfo) -> timedelta:
    """Return by how much the zone's clock is set back around `reading`; zero if `reading` occurs once."""
    return _instant(reading, zone, fold=1) - _instant(reading, zone, fold=0)


def _is_same_overlap(reading: datetime, later: datetime, zone: tzinfo) -> bool:
    return later - reading < _overlap(reading, zone) and _is_repeated(later, zone)
