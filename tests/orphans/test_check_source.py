"""A declared source that contradicts the catalog."""

from __future__ import annotations

from typing import Any

import pytest
from posts import opened
from world import World

from millhand.core.errors import ConfigError


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"table": "{schema}.post"},
            (
                "table of orphans source 'posts' must be a table that we can see, "
                "got '{schema}.post'; did you mean '{schema}.posts'?"
            ),
        ),
        (
            {"key": "images"},
            (
                "key of orphans source 'posts' must be a column of '{schema}.posts', got 'images'; "
                "did you mean 'image'?"
            ),
        ),
        (
            {"key": "image", "size": "bytes_of_it"},
            (
                "size of orphans source 'posts' must be a column of '{schema}.posts', got 'bytes_of_it'; "
                "it has: 'id', 'image', 'link', 'title', 'gallery', 'body', 'old', 'deleted_at'"
            ),
        ),
        (
            {"key": "id"},
            (
                "key of orphans source 'posts' must be a column of text, got 'id' of type uuid; "
                'use select, and "id"::text AS key'
            ),
        ),
        (
            {"key": "gallery"},
            (
                "key of orphans source 'posts' must be a column of text, got 'gallery' of type text[]; "
                "set array = true"
            ),
        ),
        (
            {"key": "body"},
            (
                "key of orphans source 'posts' must be a column of text, got 'body' of type jsonb; "
                'give the path to the keys: json = "$.key"'
            ),
        ),
        (
            {"key": "image", "json": "$.a"},
            (
                "key of orphans source 'posts' must be a column of json or jsonb where json is given, "
                "got 'image' of type text"
            ),
        ),
        (
            {"key": "image", "array": True},
            (
                "key of orphans source 'posts' must be an array of text where array = true, "
                "got 'image' of type text"
            ),
        ),
        (
            {"key": "image", "deleted_at": "image"},
            (
                "deleted_at of orphans source 'posts' must be a column of dates or times, "
                "got 'image' of type text"
            ),
        ),
        (
            {"key": "image", "function": "nowhere"},
            (
                "function of orphans source 'posts' must be a function of one text that returns text, got 'nowhere'; "
                "create it, IMMUTABLE if it needs an index"
            ),
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
async def test_a_declaration_that_contradicts_the_catalog_raises_config_error(
    posts: World, changes: dict[str, Any], message: str
) -> None:
    """The error names the table, column or type that differs from the declaration, and the nearest one that exists."""
    declared = {
        key: value.replace("{schema}", posts.schema) if isinstance(value, str) else value
        for key, value in changes.items()
    }
    with pytest.raises(ConfigError) as invalid:
        await opened(posts, **declared)

    assert str(invalid.value) == message.replace("{schema}", posts.schema)


@pytest.mark.parametrize(
    ("document", "path", "kind"),
    [
        ('{"cover": ["a", "b"]}', "$.cover", "array"),
        ('{"cover": {"key": "a"}}', "$.cover", "object"),
        ('{"cover": [{"key": "a"}]}', "$.cover.key", "texts in an array"),
        ('{"files": [{"key": "a"}]}', "$.files[*]", "object"),
        ('{"files": [["a"]]}', "$.files[*]", "array"),
    ],
)
async def test_a_path_to_other_values_than_text_raises_config_error(
    posts: World, document: str, path: str, kind: str
) -> None:
    """A path that ends at an array or an object would miss the keys below it, so it is an error."""
    await posts.sql(
        'INSERT INTO {schema}.posts (body) VALUES (NULL), (\'{"cover": "c"}\'), ($1::text::jsonb)', document
    )

    with pytest.raises(ConfigError) as invalid:
        await opened(posts, key="body", json=path)

    assert str(invalid.value) == (
        f"json of orphans source 'posts' must lead to texts, got {kind} at {path!r} of some row; "
        "write [*] after an array, and the name in an object"
    )


async def test_an_id_without_a_unique_index_raises_config_error(posts: World) -> None:
    """Rows are deleted by id, so the id must have a unique index of its own."""
    with pytest.raises(ConfigError) as invalid:
        await opened(posts, key="image", id="link", soft_deleted="deleted_at IS NOT NULL")

    assert str(invalid.value) == (
        "id of orphans source 'posts' must be a column with a unique index of its own, "
        "got 'link'; name the primary key"
    )
