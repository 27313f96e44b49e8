"""Guessing which keys a value names."""

from __future__ import annotations

import pytest

from millhand.orphans.discovery.guess import Guess, KeyShapes, document_texts

SHAPES = KeyShapes.of(
    [
        "media/photos/2026/a1.png",
        "media/photos/2026/b2.png",
        "docs/report.pdf",
        "0b6e4a1c-77aa-4a7e-9f0e-2d1f6a3b9c10",
    ]
)


@pytest.mark.parametrize(
    ("value", "guesses"),
    [
        ("docs/other.pdf", [Guess(key="docs/other.pdf"), Guess(key="docs/docs/other.pdf", prepend="docs/")]),
        ("other.pdf", [Guess(key="docs/other.pdf", prepend="docs/")]),
        ("photos/2025/x.png", [Guess(key="media/photos/2025/x.png", prepend="media/")]),
        ("7f6e4a1c-0000-4a7e-9f0e-2d1f6a3b9c10", [Guess(key="7f6e4a1c-0000-4a7e-9f0e-2d1f6a3b9c10")]),
        ("https://cdn.x/docs/a%20b.pdf?v=1", [Guess(key="docs/a b.pdf", base="https://cdn.x/")]),
        ("https://s3.x/bucket/docs/a.pdf", [Guess(key="docs/a.pdf", base="https://s3.x/bucket/")]),
        ("s3://bucket/docs/a.pdf", [Guess(key="docs/a.pdf", base="s3://bucket/")]),
        ("//cdn.x/docs/a.pdf", [Guess(key="docs/a.pdf", base="//cdn.x/")]),
        ("/files/docs/a.pdf", [Guess(key="docs/a.pdf", base="/files/")]),
        ("person@example.com", []),
        ("docs/a.xls", []),
        ("https://cdn.x/", []),
        ("two\nlines.pdf", []),
        ("", []),
    ],
)
def test_a_value_has_the_readings_that_fit_the_bucket(value: str, guesses: list[Guess]) -> None:
    """A value can be a key, a name below a directory or a URL; one unlike all keys of the bucket has no reading."""
    assert [guess for guess in SHAPES.guesses(value) if guess.prepend != "media/photos/"] == guesses


def test_texts_of_a_document_come_with_their_paths() -> None:
    """Each text comes with its JSON path: unusual names are quoted, and elements of an array share a path."""
    document = {"a": {"b": "x"}, 'a "name"': ["y", {"c": "z"}], "n": 5, "none": None}

    assert list(document_texts(document)) == [
        ("$.a.b", "x"),
        ('$."a \\"name\\""[*]', "y"),
        ('$."a \\"name\\""[*].c', "z"),
    ]
