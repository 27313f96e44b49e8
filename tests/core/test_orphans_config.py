"""Settings of the orphan cleanup: an impossible value raises an error with field, rule, value and remedy."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from millhand.core.errors import ConfigError
from millhand.orphans import Mode, OrphansConfig, ReferenceSource

UPLOADS = ReferenceSource(name="uploads", table="uploads")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"grace": timedelta(0)},
            (
                "orphans.grace must be at least 1 hour, got datetime.timedelta(0); "
                "for a demo, set orphans.allow_short_grace = true"
            ),
        ),
        (
            {"grace": timedelta(seconds=-1), "allow_short_grace": True},
            "orphans.grace must not be negative, got datetime.timedelta(days=-1, seconds=86399)",
        ),
        (
            {"retention": timedelta(minutes=59)},
            (
                "orphans.retention must be at least 1 hour, got datetime.timedelta(seconds=3540); "
                "for a demo, set orphans.allow_short_grace = true"
            ),
        ),
        (
            {"prefix": "images"},
            "orphans.prefix must end with / or be empty, because it would match its siblings too, got 'images'",
        ),
        ({"exclude": ("tmp",)}, "orphans.exclude must hold prefixes that end with /, got 'tmp'"),
        (
            {"key_patterns": ("(",)},
            (
                "orphans.key_patterns must be regular expressions "
                "(missing ), unterminated subpattern at position 0), got '('"
            ),
        ),
        ({"max_share": 1.5}, "orphans.max_share must be a share between 0 and 1, got 1.5"),
        ({"min_overlap": -0.1}, "orphans.min_overlap must be a share between 0 and 1, got -0.1"),
        ({"page_size": 1_001}, "orphans.page_size must be 1 to 1,000, got 1001"),
        ({"max_objects": 0}, "orphans.max_objects must be 1 or more, got 0"),
        (
            {"source_timeout": timedelta(0)},
            "orphans.source_timeout must be more than zero, got datetime.timedelta(0)",
        ),
        ({"sources": (UPLOADS, UPLOADS)}, "orphans.sources must have different names, got ['uploads']"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_orphans_config_rejects_impossible_values(settings: dict[str, Any], message: str) -> None:
    """An impossible setting raises ConfigError when the configuration is made."""
    with pytest.raises(ConfigError) as raised:
        OrphansConfig(**settings)

    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "table of orphans source 'uploads' must be given, or select, and not both, got None"),
        (
            {"table": "uploads", "select": "SELECT 1"},
            "table of orphans source 'uploads' must be given, or select, and not both, got 'uploads'",
        ),
        (
            {"table": "a.b.c"},
            "table of orphans source 'uploads' must be a table's name, or schema.table, got 'a.b.c'",
        ),
        (
            {"table": "uploads", "key": ""},
            "key of orphans source 'uploads' must be the name of a column, got ''",
        ),
        (
            {"table": "uploads", "pending": " ; "},
            "pending of orphans source 'uploads' must be SQL, got ' ; '",
        ),
        (
            {"table": "uploads", "delete": "DELETE FROM uploads"},
            "delete of orphans source 'uploads' needs a table, and $1 for the ids of the rows, got 'DELETE FROM uploads'",
        ),
        (
            {"table": "uploads", "min_rows": -1},
            "min_rows of orphans source 'uploads' must not be negative, got -1",
        ),
        (
            {"table": "uploads", "array": True, "json": "$.a"},
            "json of orphans source 'uploads' must not be given with array, got '$.a'",
        ),
        (
            {"table": "uploads", "json": "a.b"},
            "json of orphans source 'uploads' must be a path such as $.cover or $.files[*].key, got 'a.b'",
        ),
        (
            {"table": "uploads", "url": ("https://cdn.example.com",)},
            (
                "url of orphans source 'uploads' must hold the part before the key, and end with /, "
                "got 'https://cdn.example.com'"
            ),
        ),
        (
            {"table": "uploads", "url": ("//cdn/",), "function": "key_of"},
            "function of orphans source 'uploads' must not be given with url, got 'key_of'",
        ),
        (
            {"table": "uploads", "prepend": "a\0"},
            "prepend of orphans source 'uploads' must be text without a null character, got 'a\\x00'",
        ),
        (
            {"table": "uploads", "json": "$.files[*]", "soft_deleted": "deleted"},
            (
                "soft_deleted of orphans source 'uploads' must not be given if one row may name several keys, "
                "because all of them would be removed together, got 'deleted'"
            ),
        ),
        (
            {"name": "up loads", "table": "uploads"},
            (
                "name of orphans source 'up loads' must be 1 to 64 letters, digits, dots, dashes or underscores, "
                "got 'up loads'"
            ),
        ),
    ],
)
def test_reference_source_rejects_impossible_values(settings: dict[str, Any], message: str) -> None:
    """A source that could not be read as declared raises ConfigError when it is declared."""
    with pytest.raises(ConfigError) as raised:
        ReferenceSource(**{"name": "uploads"} | settings)

    assert str(raised.value) == message


def test_short_grace_needs_allow_short_grace() -> None:
    """A grace of zero needs its own setting, and lowers the least age of an object."""
    config = OrphansConfig(grace=timedelta(0), allow_short_grace=True)

    assert config.min_object_age == timedelta(0)
    assert OrphansConfig().min_object_age == timedelta(hours=1)
    assert OrphansConfig().mode is Mode.REPORT


def test_fingerprint_changes_with_sources_and_scope_only() -> None:
    """Other sources, prefixes or patterns make a new first run; other limits and modes do not."""
    plain = OrphansConfig(sources=(UPLOADS,))
    others = [
        OrphansConfig(),
        OrphansConfig(sources=(ReferenceSource(name="uploads", table="uploads", key="path"),)),
        OrphansConfig(sources=(UPLOADS,), prefix="a/"),
        OrphansConfig(sources=(UPLOADS,), exclude=("a/",)),
        OrphansConfig(sources=(UPLOADS,), key_patterns=("a",)),
    ]

    assert len({config.fingerprint for config in [plain, *others]}) == len(others) + 1
    assert OrphansConfig(sources=(UPLOADS,), mode=Mode.DELETE, max_share=1.0).fingerprint == plain.fingerprint
