"""Claims about how values of settings are read."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import pytest

from millhand.core.config import QueueConfig
from millhand.core.errors import ConfigError
from millhand.core.limit import Limit, Rate
from millhand.shells.settings.decode import check_keys, decode, decode_text

DURATION = "a duration such as '500ms', '30s', '5m', '1h30m' or '7d', or a number of seconds"


class Mode(enum.StrEnum):
    REPORT = "report"
    DELETE = "delete"


@dataclass(frozen=True, kw_only=True)
class Source:
    name: str
    grace: timedelta = timedelta(days=7)
    min_rows: int | None = None


@pytest.mark.parametrize(
    ("value", "hint", "decoded"),
    [
        (3, int, 3),
        (0.5, float, 0.5),
        (1, float, 1.0),
        (True, bool, True),
        ("a", str, "a"),
        ("a", str | None, "a"),
        ("none", timedelta | None, None),
        ("500ms", timedelta, timedelta(milliseconds=500)),
        ("1h30m", timedelta, timedelta(hours=1, minutes=30)),
        ("1d 12h 0.5s", timedelta, timedelta(days=1, hours=12, milliseconds=500)),
        ("30s", timedelta, timedelta(seconds=30)),
        ("1.5h", timedelta, timedelta(minutes=90)),
        ("7d", timedelta, timedelta(days=7)),
        (5, timedelta, timedelta(seconds=5)),
        (0.25, timedelta, timedelta(milliseconds=250)),
        ("delete", Mode, Mode.DELETE),
        ("json", Literal["text", "json"], "json"),
        (["a", "b"], tuple[str, ...], ("a", "b")),
        ({"default": 100}, Mapping[str, QueueConfig], {"default": QueueConfig(max_workers=100)}),
        (
            {"mail": {"max_workers": 5, "fetch_poll_interval": "2s"}},
            Mapping[str, QueueConfig],
            {"mail": QueueConfig(max_workers=5, fetch_poll_interval=timedelta(seconds=2))},
        ),
        (
            {"reports": {"max_workers": 5, "limit": {"at_once": 3, "by_args": ["tenant_id"]}}},
            Mapping[str, QueueConfig],
            {"reports": QueueConfig(max_workers=5, limit=Limit(at_once=3, by_args=["tenant_id"]))},
        ),
        (
            {"rate": {"allowed": 100, "per": "1m", "burst": 10}},
            Limit,
            Limit(rate=Rate(100, per=timedelta(minutes=1), burst=10)),
        ),
        ("none", Limit | None, None),
        (
            [{"name": "uploads", "grace": "1h"}],
            tuple[Source, ...],
            (Source(name="uploads", grace=timedelta(hours=1)),),
        ),
    ],
)
def test_decode_gives_the_type_of_the_setting(value: object, hint: object, decoded: object) -> None:
    """A TOML value becomes the type of the setting."""
    assert decode(value, hint, "x") == decoded


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        ("3", int, "x must be a whole number, got '3'"),
        (True, int, "x must be a whole number, got True"),
        (1.0, int, "x must be a whole number, got 1.0"),
        ("yes", bool, "x must be true or false, got 'yes'"),
        (1, bool, "x must be true or false, got 1"),
        (False, float, "x must be a number, got False"),
        (5, str, "x must be a string, got 5"),
        ("5 minutes", timedelta, f"x must be {DURATION}, got '5 minutes'"),
        (True, timedelta, f"x must be {DURATION}, got True"),
        (1e300, timedelta, f"x must be {DURATION}, got 1e+300"),
        ("never", timedelta | None, f"x must be {DURATION}, or 'none', got 'never'"),
        ("delte", Mode, "x must be one of 'report', 'delete', got 'delte'; did you mean 'delete'?"),
        ("xml", Literal["text", "json"], "x must be one of 'text', 'json', got 'xml'"),
        ("a", tuple[str, ...], "x must be a list, got 'a'"),
        (["a", 1], tuple[str, ...], "x[1] must be a string, got 1"),
        (7, Mapping[str, QueueConfig], "x must be a table, got 7"),
        ({"mail": "5"}, Mapping[str, QueueConfig], "x.mail must be a whole number or a table, got '5'"),
        ({"mail": 0}, Mapping[str, QueueConfig], "x.mail: max_workers must be between 1 and 10,000, got 0"),
        (
            {"mail": {"fetch_cooldown": "1s"}},
            Mapping[str, QueueConfig],
            "x.mail must have a 'max_workers', got none",
        ),
        (3, Limit, "x must be a table, got 3"),
        (
            {"mail": {"max_workers": 1, "limits": {}}},
            Mapping[str, QueueConfig],
            "x.mail has no setting 'limits'; did you mean 'limit'?",
        ),
        (
            {"mail": {"max_workers": 1, "limit": {"at_onec": 3}}},
            Mapping[str, QueueConfig],
            "x.mail.limit has no setting 'at_onec'; did you mean 'at_once'?",
        ),
        (
            {"mail": {"max_workers": 1, "limit": {"at_once": 0}}},
            Mapping[str, QueueConfig],
            "x.mail.limit: at_once must be between 1 and 2,147,483,647, got 0",
        ),
        ({"by_args": "tenant_id"}, Limit, "x.by_args must be a list, got 'tenant_id'"),
        ({"rate": {"allowd": 1}}, Limit, "x.rate has no setting 'allowd'; did you mean 'allowed'?"),
        ({"rate": {"allowed": 1}}, Limit, "x.rate must have a 'per', got none"),
        (
            {"rate": {"allowed": 90, "per": "10s"}},
            Limit,
            (
                "x.rate: rate must have a burst, got none; write burst = 1 to start at most 91 jobs in any "
                "10 s, because at most burst + allowed * W / per jobs start in any W"
            ),
        ),
        ([{"grace": "1h"}], tuple[Source, ...], "x[0] must have a 'name', got none"),
        ([{"name": "u", "grce": 1}], tuple[Source, ...], "x[0] has no setting 'grce'; did you mean 'grace'?"),
        ("postgresql://a:sesame@db", int, "x must be a whole number, got 'postgresql://a:***@db'"),
    ],
)
def test_decode_refuses_what_does_not_fit(value: object, hint: object, message: str) -> None:
    """A value of another type is an error with place, rule and value, and without a password."""
    with pytest.raises(ConfigError) as refused:
        decode(value, hint, "x")

    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("text", "hint", "decoded"),
    [
        ("3", int, 3),
        ("0.5", float, 0.5),
        ("true", bool, True),
        ("0", bool, False),
        ("30s", timedelta, timedelta(seconds=30)),
        ("1.5", timedelta, timedelta(milliseconds=1_500)),
        ("None", timedelta | None, None),
        ("123", str, "123"),
        ("a, b", tuple[str, ...], ("a", "b")),
        ("", tuple[str, ...], ()),
        (
            "default:100, mail:5",
            Mapping[str, QueueConfig],
            {"default": QueueConfig(max_workers=100), "mail": QueueConfig(max_workers=5)},
        ),
    ],
)
def test_decode_text_reads_environment_values(text: str, hint: object, decoded: object) -> None:
    """The text of an environment variable gives the same values as TOML."""
    assert decode_text(text, hint, "X") == decoded


@pytest.mark.parametrize(
    ("text", "hint", "message"),
    [
        ("many", int, "X must be a whole number, got 'many'"),
        ("maybe", bool, "X must be true or false, got 'maybe'"),
        ("mail", Mapping[str, QueueConfig], "X must be pairs like 'default:100,mail:5', got 'mail'"),
        ("mail:x", Mapping[str, QueueConfig], "X.mail must be a whole number or a table, got 'x'"),
        ("mail:0", Mapping[str, QueueConfig], "X.mail: max_workers must be between 1 and 10,000, got 0"),
    ],
)
def test_decode_text_refuses_what_does_not_fit(text: str, hint: object, message: str) -> None:
    """An error of a text names the variable."""
    with pytest.raises(ConfigError) as refused:
        decode_text(text, hint, "X")

    assert str(refused.value) == message


def test_check_keys_lists_what_is_known_when_nothing_is_near() -> None:
    """The error of an unknown key without a near match lists all known keys."""
    with pytest.raises(ConfigError) as refused:
        check_keys(["zzz"], ["url", "mode"], "x")

    assert str(refused.value) == "x has no setting 'zzz'; known: 'mode', 'url'"
