"""Searches of jobs that the settings save by name."""

from __future__ import annotations

from collections.abc import Mapping

from millhand.errors import ConfigError
from millhand.web.hiding import Hiding
from millhand.web.search import parse_search
from millhand.web.search_conditions import without_hidden


def check_views(views: Mapping[str, str], hide: Hiding) -> None:
    """Raise ConfigError for a view that is no search, or that compares a hidden value."""
    for name, line in views.items():
        search = without_hidden(parse_search(line), hide)
        if not search.is_valid:
            raise ConfigError(f"view {name!r} must be a search, got {line!r}: {search.problems[0]}")
