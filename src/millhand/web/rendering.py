"""Renders pages with Jinja2: what the templates can use, and how instants, durations and numbers read."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from millhand.web.assets import asset_path

_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


@cache
def environment() -> Environment:
    """Return the environment of the templates. A missing name is an error, and every value is escaped."""
    env = Environment(
        loader=PackageLoader("millhand.web", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {"duration": duration, "number": number}
    return env


def render(template: str, *, prefix: str, now: datetime, **values: Any) -> str:  # noqa: ANN401 - what a template shows
    """Return the HTML of a template. `prefix` is the path at which the application is mounted."""

    def url(path: str, query: Mapping[str, object] | None = None) -> str:
        given = {name: value for name, value in (query or {}).items() if value not in (None, "")}
        return f"{prefix}{path}" + (f"?{urlencode(given)}" if given else "")

    def asset(name: str) -> str:
        return f"{prefix}{asset_path(name)}"

    def when(at: datetime | None) -> Markup:
        return time_element(at, now)

    return environment().get_template(template).render(url=url, asset=asset, when=when, now=now, **values)


def duration(value: timedelta | float | None) -> str:
    """Return a duration in its two largest units: `850 ms`, `4.2 s`, `3 min 20 s`, `2 d 4 h`."""
    if value is None:
        return ""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:  # noqa: PLR2004 - from here on a decimal adds nothing
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for (unit, size), (smaller, small_size) in zip(_UNITS, (*_UNITS[1:], ("", 0)), strict=True):
        if whole >= size:
            rest = (whole % size) // small_size if small_size else 0
            return f"{whole // size:,} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def number(value: float) -> str:
    """Return a number with separators, as exact as it is known."""
    return f"{value:,}"


def time_element(at: datetime | None, now: datetime) -> Markup:
    """Return how far an instant lies from `now`, as a `time` element whose title is the instant in UTC."""
    if at is None:
        return Markup("")
    exact = at.astimezone(UTC).isoformat(sep=" ", timespec="seconds").replace("+00:00", " UTC")
    away = (now - at).total_seconds()
    text = "now" if abs(away) < 1 else f"{duration(away)} ago" if away > 0 else f"in {duration(-away)}"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(at.isoformat(), exact, escape(text))
