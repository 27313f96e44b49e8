"""The values of limits: what they accept, and what they store."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from millhand.core.config import Config, QueueConfig
from millhand.core.errors import ConfigError
from millhand.core.limit import Limit, Rate, key_name, key_values

MINUTE = timedelta(minutes=1)
COUNT = "must be between 1 and 2,147,483,647"
NAMES = "by_args must be a list of names of fields"

EVERY_FIELD = Limit(
    at_once=3,
    at_once_per_client=2,
    total=50,
    by_args=["tenant_id", "region"],
    by_kind=True,
    rate=Rate(100, per=timedelta(milliseconds=1_500), burst=10),
    note="as the API of maps allows",
)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {},
            (
                "limit must have at_once, at_once_per_client, total, rate or in_order, got none; "
                "write at_once = 1"
            ),
        ),
        (
            {"by_args": ["tenant_id"]},
            (
                "limit must have at_once, at_once_per_client, total, rate or in_order, got none; "
                "write at_once = 1"
            ),
        ),
        ({"at_once": 0}, f"at_once {COUNT}, got 0"),
        ({"at_once": 2**31}, f"at_once {COUNT}, got 2147483648"),
        ({"at_once": True}, f"at_once {COUNT}, got True"),
        ({"at_once": "3"}, f"at_once {COUNT}, got '3'"),
        ({"at_once_per_client": 0}, f"at_once_per_client {COUNT}, got 0"),
        ({"total": 0}, f"total {COUNT}, got 0"),
        ({"at_once": 1, "by_kind": ["mail"]}, "by_kind must be True or False, got ['mail']"),
        ({"at_once": 1, "in_order": 1}, "in_order must be True or False, got 1"),
        ({"in_order": True, "halt": 1}, "halt must be True or False, got 1"),
        (
            {"at_once": 1, "halt": True},
            "halt must be False without in_order, got True; write in_order = True",
        ),
        ({"at_once": 1, "shared": None}, "shared must be True or False, got None"),
        ({"rate": 100}, "rate must be a Rate, got 100; write Rate(100, per=timedelta(minutes=1), burst=10)"),
        ({"at_once": 1, "by_args": "tenant_id"}, f"{NAMES}, got 'tenant_id'; write ['tenant_id']"),
        ({"at_once": 1, "by_args": {"tenant_id"}}, f"{NAMES}, got {{'tenant_id'}}"),
        ({"at_once": 1, "by_args": None}, f"{NAMES}, got None"),
        ({"at_once": 1, "by_args": [""]}, "by_args must have printable names of fields, got ''"),
        ({"at_once": 1, "by_args": ["a\0"]}, "by_args must have printable names of fields, got 'a\\x00'"),
        ({"at_once": 1, "by_args": ["a", 5]}, "by_args must have printable names of fields, got 5"),
        ({"at_once": 1, "note": 5}, "note must be a text, got 5"),
        (
            {"at_once": 1, "note": "two\nlines"},
            "note must be one printable line of at most 500 characters, got 'two\\nlines'",
        ),
        (
            {"note": "no bound"},
            "limit must have at_once, at_once_per_client, total, rate or in_order, got none; write at_once = 1",
        ),
        (
            {"in_order": True, "shared": True},
            "in_order must be False with shared, got True; workers in Go do not keep the order",
        ),
        (
            {"in_order": True, "at_once": 2},
            "at_once must be 1 with in_order, got 2; jobs in order run one after the other",
        ),
        (
            {"shared": True, "total": 5},
            "at_once must be set with shared, got None; write how many jobs run at once",
        ),
        (
            {"shared": True, "at_once": 5, "at_once_per_client": 2},
            (
                "at_once_per_client must be None with shared, got 2; "
                "workers in Go do not obey it, so write at_once"
            ),
        ),
    ],
)
def test_limit_rejects_invalid_fields(fields: dict[str, Any], message: str) -> None:
    """The error names the field, the rule, the value and the remedy."""
    with pytest.raises(ConfigError) as refusal:
        Limit(**fields)

    assert str(refusal.value) == message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"allowed": 0, "burst": 1}, f"allowed {COUNT}, got 0"),
        ({"allowed": 1.5, "burst": 1}, f"allowed {COUNT}, got 1.5"),
        ({"burst": 0}, f"burst {COUNT}, got 0"),
        ({"per": 60, "burst": 1}, "per must be a timedelta, got 60; write timedelta(seconds=…)"),
        (
            {"per": timedelta(0), "burst": 1},
            "per must be positive and at most 100 years, got datetime.timedelta(0)",
        ),
        (
            {"per": timedelta(seconds=-1), "burst": 1},
            "per must be positive and at most 100 years, got datetime.timedelta(days=-1, seconds=86399)",
        ),
        (
            {"per": timedelta.max, "burst": 1},
            f"per must be positive and at most 100 years, got {timedelta.max!r}",
        ),
        (
            {"allowed": 90},
            (
                "rate must have a burst, got none; write burst = 1 to start at most 91 jobs in any "
                "60 s, because at most burst + allowed * W / per jobs start in any W"
            ),
        ),
    ],
)
def test_rate_rejects_invalid_fields(fields: dict[str, Any], message: str) -> None:
    """The error of a missing burst explains what a rate promises."""
    with pytest.raises(ConfigError) as refusal:
        Rate(**{"allowed": 100, "per": MINUTE, **fields})

    assert str(refusal.value) == message


@pytest.mark.parametrize(
    "fields",
    [
        {"total": 2, "at_once": 3},
        {"at_once_per_client": 1},
        {"in_order": True, "at_once": 1, "rate": Rate(1, per=MINUTE, burst=1)},
        {"rate": Rate(1, per=MINUTE, burst=100)},
        {"shared": True, "at_once": 5, "rate": Rate(1, per=MINUTE, burst=1)},
    ],
)
def test_limit_accepts_one_bound_or_several(fields: dict[str, Any]) -> None:
    """A total may be less than `at_once`, a burst more than `allowed`, and jobs in order may have a rate."""
    limit = Limit(**fields)

    assert {name: getattr(limit, name) for name in fields} == fields


def test_limit_in_order_has_one_slot() -> None:
    """`in_order` is a bound of its own: it sets `at_once` to 1."""
    assert Limit(in_order=True) == Limit(in_order=True, at_once=1)


def test_limit_copies_its_names() -> None:
    """A later change of a list that was passed has no effect, and limits with equal names are equal."""
    names = ["tenant_id"]
    limit = Limit(at_once=1, by_args=names)

    names.clear()

    assert limit == Limit(at_once=1, by_args=("tenant_id",))
    assert len({limit, Limit(at_once=1, by_args=["tenant_id"])}) == 1


def test_limit_is_stored_as_json() -> None:
    """The object has every field, and the time of a rate in seconds."""
    assert EVERY_FIELD.to_json() == {
        "at_once": 3,
        "at_once_per_client": 2,
        "total": 50,
        "by_args": ["tenant_id", "region"],
        "by_kind": True,
        "rate": {"allowed": 100, "per": 1.5, "burst": 10},
        "in_order": False,
        "halt": False,
        "shared": False,
        "note": "as the API of maps allows",
    }
    assert set(EVERY_FIELD.to_json()) == {one.name for one in dataclasses.fields(Limit)}


@pytest.mark.parametrize(
    "limit", [EVERY_FIELD, Limit(in_order=True, halt=True), Limit(at_once=5, shared=True)]
)
def test_limit_is_read_from_json(limit: Limit) -> None:
    """The limit that is read is the limit that was stored."""
    stored = msgspec.json.decode(msgspec.json.encode(limit.to_json()))

    assert Limit.from_json(stored) == limit


def test_limit_is_read_from_the_json_of_another_release() -> None:
    """An unknown field has no effect, and a missing field has its default."""
    assert Limit.from_json({"at_once": 3, "colour": "blue"}) == Limit(at_once=3)


def test_queue_keeps_its_limit() -> None:
    """A Config resolves the other settings of a queue, and keeps its limit."""
    limit = Limit(at_once=3)
    config = Config(queues={"default": 1, "reports": QueueConfig(max_workers=1, limit=limit)})

    assert {name: queue.limit for name, queue in config.queue_configs.items()} == {
        "default": None,
        "reports": limit,
    }


def test_queue_rejects_a_limit_of_another_type() -> None:
    """The error has the remedy."""
    with pytest.raises(ConfigError) as refusal:
        QueueConfig(max_workers=1, limit=3)  # type: ignore[arg-type]

    assert str(refusal.value) == "limit must be a Limit, got 3; write Limit(at_once=…)"


@pytest.mark.parametrize(
    ("key", "values", "name"),
    [
        ('["acme", 7, null, "é"]', ["acme", 7, None, "é"], "acme, 7, null, é"),
        ("[]", [], ""),
        ("sha256:ab", None, "sha256:ab"),
        ('{"a": 1}', None, '{"a": 1}'),
        ('["\\u0000"]', None, '["\\u0000"]'),
        ("[" * 5_000, None, "[" * 5_000),
        ('["\udcff"]', None, '["\udcff"]'),
    ],
    ids=["values", "undivided", "digest", "object", "NUL", "deep", "no text"],
)
def test_a_key_has_values_and_a_name(key: str, values: list[object] | None, name: str) -> None:
    """A digest, and a text that PostgreSQL's keys cannot be, has no values, and is its own name."""
    assert (key_values(key), key_name(key)) == (values, name)
