from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millhand.web.formats import (
    age,
    counted,
    duration,
    instant,
    json_text,
    percent,
    relative,
    safe_text,
    short_number,
)

NOW = datetime(2026, 11, 27, 14, 32, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.0004, "0 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (3_599.6, "1 h"),
        (3_661, "1 h 1 min"),
        (86_399.9, "1 d"),
        (90_000, "1 d 1 h"),
        (31_536_000 * 7_973, "7,973 y"),
        (-4.2, "-4.2 s"),
        (None, ""),
    ],
)
def test_duration_rounds_into_the_next_unit(seconds: float | None, text: str) -> None:
    """A duration that rounds to 60 s is a minute, and so on for every unit."""
    assert duration(seconds) == text


@given(st.floats(min_value=0, max_value=1e12))
def test_duration_shows_no_part_that_is_a_whole_of_the_next_unit(seconds: float) -> None:
    """No duration shows 60 s, 60 min, 24 h, 1000 ms or 10.0 s."""
    text = duration(timedelta(seconds=seconds) if seconds < 1e9 else seconds)

    assert not {"60 s", "60 min", "24 h", "1000 ms", "10.0 s", "365 d"} & {
        " ".join(pair) for pair in zip(text.split(), text.split()[1:], strict=False)
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.9, "now"), (1, "1 s"), (59.9, "59 s"), (60, "1 min"), (7_199, "1 h"), (-90, "1 min"), (1e9, "31 y")],
)
def test_age_never_says_more_than_has_passed(seconds: float, text: str) -> None:
    """An age is the number of whole units, so it grows only when a unit is over."""
    assert age(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (10_000, "10 k"),
        (12_345, "12.3 k"),
        (999_949, "999.9 k"),
        (999_960, "1 M"),
        (9_990_000, "10 M"),
        (1.25, "1.25"),
        (2_500_000_000, "2.5 G"),
    ],
)
def test_short_number_keeps_its_size(value: float, text: str) -> None:
    """A short number has every digit below 10,000, and one decimal of its unit above."""
    assert short_number(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (1, "100 %"), (0.0001, "< 0.1 %"), (0.9999, "> 99.9 %"), (0.5, "50 %"), (0.0944, "9.4 %")],
)
def test_percentage_is_zero_or_hundred_only_if_exact(share: float, text: str) -> None:
    """One failure of a million is not shown as none."""
    assert percent(share) == text


def test_one_is_singular() -> None:
    """A count of one has the noun's singular."""
    assert [counted(1, "job"), counted(0, "job"), counted(1_200, "query", "queries")] == [
        "1 job",
        "0 jobs",
        "1,200 queries",
    ]


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
