from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from millhand.web.formats import instant, json_text, number_rows, relative, safe_text

NOW = datetime(2026, 11, 27, 14, 32, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (NOW, ">now<"),
        (NOW - timedelta(seconds=61), ">1 min ago<"),
        (NOW + timedelta(seconds=61), ">in 1 min<"),
        (datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), ">in 7,978 y<"),
        (datetime(1, 1, 1, tzinfo=UTC), ">unknown<"),
        (datetime(2026, 11, 27), ">unknown<"),  # noqa: DTZ001 - it may be infinite or out of range
    ],
)
def test_instant_far_away_or_unknown_has_a_text(at: datetime, text: str) -> None:
    """Instants at the ends of the calendar, and those that the store cannot express, have a text."""
    assert text in relative(at, NOW)


def test_instant_is_shown_in_utc_with_its_exact_time() -> None:
    """A page without JavaScript shows UTC, whatever the zone of the value."""
    at = datetime(2026, 11, 27, 15, 0, tzinfo=timezone(timedelta(hours=2)))

    assert ">2026-11-27 13:00:00 UTC<" in instant(at)
    assert ">13:00:00 UTC<" in instant(at, form="clock")
    assert [instant(at, form=form).split(">")[1] for form in ("minute", "hour", "day")] == [
        "13:00</time",
        "11-27 13:00</time",
        "11-27</time",
    ]
    assert 'datetime="2026-11-27T13:00:00.000Z"' in instant(at)


def test_instant_is_shown_in_a_zone_with_its_time_in_utc() -> None:
    """In another zone each form and the labels of an axis have its time, and the title has UTC too."""
    zone, at = ZoneInfo("Asia/Kathmandu"), datetime(2026, 11, 27, 20, 0, tzinfo=UTC)

    assert 'title="2026-11-28 01:45:00 +0545 (2026-11-27 20:00:00 UTC)"' in instant(at, zone=zone)
    assert [instant(at, form=form, zone=zone).split(">")[1] for form in ("full", "minute", "day")] == [
        "2026-11-28 01:45:00 +0545</time",
        "01:45</time",
        "11-28</time",
    ]
    assert "01:45" in number_rows([(at, [1])], form="minute", is_seconds=False, zone=zone)
    assert ">9999-12-31 23:59:59 UTC<" in instant(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), zone=zone)


def test_json_keeps_every_digit_and_escapes_markup() -> None:
    """Large numbers keep their digits, texts are escaped, and keys, texts and numbers have their marks."""
    html = json_text('{"<id>": 12345678901234567890.10, "to": ["a:b", null]}')

    assert html == (
        '{\n  <span class="jk">&#34;&lt;id&gt;&#34;</span>: <span class="jn">12345678901234567890.10</span>,\n'
        '  <span class="jk">&#34;to&#34;</span>: [\n    <span class="js">&#34;a:b&#34;</span>,\n'
        '    <span class="jn">null</span>\n  ]\n}'
    )


@pytest.mark.parametrize(
    "text", ['{"cut": "at the en', "[" * 5_000, "[" * 900 + "]" * 900, "<b>", '"\u202e"']
)
def test_text_that_is_no_json_is_shown_escaped(text: str) -> None:
    """A cut or very deep value does not fail, and stays bounded."""
    html = json_text(text)

    assert "<b>" not in html
    assert "\u202e" not in html
    assert len(html) < 50 * len(text) + 5_000


def test_text_cannot_turn_the_line_around_it() -> None:
    """Direction marks and control characters of a value are spelt out; other text is unchanged."""
    assert safe_text("a\u202eb\x1b[0m") == "a\\u202eb\\u001b[0m"
    assert safe_text("größe 文\nline") == "größe 文\nline"
    assert safe_text(7) == 7
