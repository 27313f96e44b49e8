"""Times in a search: durations, clock times and dates, and periods of them."""

from __future__ import annotations

import enum
import re
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import NamedTuple

_DURATION = re.compile(r"\+?(?:\d{1,6}[wdhms])+")
_PART = re.compile(r"(\d+)([wdhms])")
_UNITS = {"w": "weeks", "d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?")
_SIGN = re.compile(r"[<>]=?")
_YEARS = range(1970, 9000)  # every zone has these
_A_DAY = timedelta(days=1)
_LONGEST = timedelta(days=7_300)
_ANY_TIME = datetime(2026, 1, 1, tzinfo=UTC)  # whether a time is valid does not depend on it

RULE = "must be a duration, a time, a date or a period of these"
REMEDY = "write 1h, >2d, 12:50, 2026-11-27 or 12:00..13:00"


class Period(NamedTuple):
    """Instants from `since` up to `until`, which is not included; None is no limit."""

    since: datetime | None
    until: datetime | None


class _Kind(enum.Enum):
    AGE = enum.auto()
    AHEAD = enum.auto()
    CLOCK = enum.auto()
    DATE = enum.auto()
    INSTANT = enum.auto()


class _Moment(NamedTuple):
    """A time as a search names it: its first instant, and the first one after it."""

    kind: _Kind
    start: datetime
    end: datetime


def canonical_time(text: str) -> str:
    """Return the one form of a time or period. Raises: ValueError."""
    sign, *moments = _parts(text)
    for moment in moments:
        if moment:
            _moment(moment, _ANY_TIME, UTC, latest=True)
    if not any(moments):
        raise ValueError(text)
    return sign + "..".join(moments)


def period_of(text: str, *, now: datetime, zone: tzinfo, may_be_ahead: bool = False) -> Period:
    """
    Return the period that a canonical time means.

    A duration is an age: `<1h` is less than an hour ago, `>1h` more. `+1h` is an hour from now. Clock times are the last
    ones, or with `may_be_ahead` those of today.
    """
    sign, *moments = _parts(text)
    first, *second = [
        _moment(moment, now, zone, latest=not may_be_ahead) if moment else None for moment in moments
    ]
    if second:
        return _between(first, second[0], zone)
    assert first is not None  # noqa: S101 - a canonical text has a moment
    # An age compares the other way round: less than an hour ago is later.
    is_end = sign == (">" if first.kind is _Kind.AGE else "<") or (first.kind is _Kind.AHEAD and not sign)
    if is_end:
        return Period(None, first.start)
    return Period(first.start, None if sign or first.kind is _Kind.AGE else first.end)


def _between(first: _Moment | None, second: _Moment | None, zone: tzinfo) -> Period:
    since = first and first.start
    if second is None:
        return Period(since, None)
    until = second.end if second.kind is _Kind.DATE else second.start
    if since is not None and until < since and second.kind is _Kind.CLOCK:
        local = until.astimezone(zone)
        until = datetime.combine(local.date() + _A_DAY, local.time(), zone)  # the end is after midnight
    return Period(since, until)


def _parts(text: str) -> list[str]:
    """Return the sign and the moments of a time: one, or two for a period."""
    sign = ""
    if found := _SIGN.match(text):
        sign, text = found[0][0], text[found.end() :]
    moments = text.split("..")
    if len(moments) > 2 or (sign and len(moments) > 1):  # noqa: PLR2004 - the ends of a period
        raise ValueError(text)
    return [sign, *moments]


def _moment(text: str, now: datetime, zone: tzinfo, *, latest: bool) -> _Moment:
    try:
        if _DURATION.fullmatch(text):
            return _relative(text, now)
        if found := _CLOCK.fullmatch(text):
            return _clock_time(found, now, zone, latest=latest)
        return _date(text, zone)
    except OverflowError as error:
        raise ValueError(text) from error


def _relative(text: str, now: datetime) -> _Moment:
    length = sum(
        (timedelta(**{_UNITS[unit]: int(number)}) for number, unit in _PART.findall(text)), timedelta()
    )
    if length > _LONGEST:
        raise ValueError(text)
    at = now + length if text.startswith("+") else now - length
    return _Moment(_Kind.AHEAD if text.startswith("+") else _Kind.AGE, at, at)


def _clock_time(found: re.Match[str], now: datetime, zone: tzinfo, *, latest: bool) -> _Moment:
    hour, minute, second = (int(part or 0) for part in found.groups())
    start = datetime.combine(now.astimezone(zone).date(), time(hour, minute, second), zone)
    if latest and start > now:
        start = datetime.combine(start.date() - _A_DAY, start.time(), zone)
    return _Moment(_Kind.CLOCK, start, start + timedelta(seconds=1 if found[3] else 60))


def _date(text: str, zone: tzinfo) -> _Moment:
    at = datetime.fromisoformat(text)
    if at.year not in _YEARS:
        raise ValueError(text)
    start = at if at.tzinfo else at.replace(tzinfo=zone)
    if "T" not in text and " " not in text:
        return _Moment(_Kind.DATE, start, datetime.combine(at.date() + _A_DAY, time(), zone))
    is_minute = not (start.second or start.microsecond)
    return _Moment(_Kind.INSTANT, start, start + timedelta(seconds=60 if is_minute else 1))
