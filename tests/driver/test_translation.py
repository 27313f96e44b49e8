"""Claims about the texts of translated errors."""

from __future__ import annotations

import pytest

from millhand.driver.translation import with_createdb


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ('database "shop" does not exist', 'database "shop" does not exist; create it: createdb shop'),
        (
            'connection failed: FATAL:  database "a; b" does not exist\n',
            "connection failed: FATAL:  database \"a; b\" does not exist; create it: createdb 'a; b'",
        ),
        ('role "ann" does not exist', 'role "ann" does not exist'),
        ("connection refused", "connection refused"),
    ],
)
def test_missing_database_is_told_with_the_command_for_a_shell(reason: str, told: str) -> None:
    """Only the error of a missing database gets `createdb`, with a name that a shell takes as one word."""
    assert with_createdb(reason) == told
