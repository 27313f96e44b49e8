"""The time zone of a page."""

from __future__ import annotations

from datetime import UTC

import pytest

from millhand.core.errors import ConfigError
from millhand.web import WebConfig
from millhand.web.time_zone import ZONE_COOKIE, zone_named, zone_of


@pytest.mark.parametrize(
    ("cookie", "zone"),
    [
        (None, "Europe/Berlin"),
        ("Asia/Kathmandu", "Asia/Kathmandu"),
        ("UTC", "UTC"),
        ("Etc/GMT+3", "Etc/GMT+3"),
        *(
            (name, "Europe/Berlin")
            for name in ("Mars", "Europe", "", "/etc/localtime", "../zoneinfo/UTC", "<b>", "a\0")
        ),
    ],
)
def test_zone_is_that_of_the_browser_if_there_is_such_a_zone(cookie: str | None, zone: str) -> None:
    """The cookie of the page's script decides; a name that is no zone, or a path, is that of the settings."""
    cookies = {} if cookie is None else {ZONE_COOKIE: cookie}

    assert str(zone_of(cookies, "Europe/Berlin")) == zone


def test_utc_needs_no_files() -> None:
    """UTC is that of Python, so that a machine without time zones serves the page."""
    assert zone_named("UTC") is UTC


def test_setting_that_is_no_zone_is_refused() -> None:
    """The error names the value and a remedy."""
    with pytest.raises(
        ConfigError, match=r"^time_zone must be the name of a time zone such as Europe/Berlin, got 'Mars'$"
    ):
        WebConfig(time_zone="Mars")
