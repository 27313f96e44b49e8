"""Renders pages with Jinja2: what the templates can use."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo
from functools import cache, partial
from typing import Any
from urllib.parse import urlencode

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from millhand.core import number_text
from millhand.orphans.report.meanings import shell_text
from millhand.web import chart, formats, history_plots
from millhand.web.assets import asset_path
from millhand.web.timeline import timeline

# Capabilities whose pages lie with them.
WITH_TEMPLATES = ("flows", "history", "limits", "orphans", "schedules")


@cache
def environment() -> Environment:
    """
    Return the environment of the templates.

    A missing name is an error, every value is escaped, and no value can reverse or hide the text around it.
    """
    env = Environment(
        loader=ChoiceLoader(
            [
                PackageLoader("millhand.web", "templates"),
                *(PackageLoader(f"millhand.{package}", ".") for package in WITH_TEMPLATES),
            ]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=formats.safe_text,
    )
    env.filters |= {
        "age": number_text.age,
        "counted": number_text.counted,
        "duration": number_text.duration,
        "json_text": formats.json_text,
        "number": number_text.number,
        "percent": number_text.percent,
        "shell": shell_text,
        "short_number": number_text.short_number,
    }
    env.globals |= {
        "attempts_plot": history_plots.attempts_plot,
        "errors_trend": history_plots.errors_trend,
        "runs_plot": history_plots.runs_plot,
        "sparkline": chart.sparkline,
        "timeline_of": timeline,
        "waits_plot": history_plots.waits_plot,
    }
    return env


def render(
    template: str,
    *,
    prefix: str,
    now: datetime,
    site: str | None = None,
    zone: tzinfo = UTC,
    **values: Any,  # noqa: ANN401 - what a template shows
) -> str:
    """
    Return the HTML of a template.

    `site` is the path at which the application is mounted, and `prefix` the one of the database below it; with one
    database they are the same. Times are in `zone`.
    """

    def url(path: str, query: Mapping[str, object] | None = None) -> str:
        given = {name: value for name, value in (query or {}).items() if value not in (None, "")}
        return f"{prefix}{path}" + (f"?{urlencode(given)}" if given else "")

    def site_url(path: str) -> str:
        return f"{prefix if site is None else site}{path}"

    def asset(name: str) -> str:
        return site_url(asset_path(name))

    given = {
        "asset": asset,
        "instant": partial(formats.instant, zone=zone),
        "now": now,
        "number_rows": partial(formats.number_rows, zone=zone),
        "site_url": site_url,
        "url": url,
        "when": partial(formats.relative, now=now, zone=zone),
        "zone": str(zone),
    }
    return environment().get_template(template).render(**given, **values)
