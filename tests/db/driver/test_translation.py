"""Claims about the texts of translated errors."""

from __future__ import annotations

import asyncpg
import pytest

from millhand.core.errors import ConnectionLost, DriverError
from millhand.db.driver.asyncpg_error import translated
from millhand.db.driver.translation import with_createdb
from millhand.db.driver.url import createdb_options


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


def test_createdb_gets_the_server_and_user_of_the_url() -> None:
    """The command works on the server that the URL names, and shows no password."""
    options = {
        "postgresql:///shop": "",
        "postgresql://localhost/shop": "-h localhost ",
        "postgresql+asyncpg://ann:sesame@db.example:5433/shop?sslmode=require": "-h db.example -p 5433 -U ann ",
        "postgresql://an%20n@[::1]:5433/shop": "-h ::1 -p 5433 -U 'an n' ",
        "postgresql://ann@/shop?host=/var/run/pg&port=5433": "-h /var/run/pg -p 5433 -U ann ",
        "postgresql:///shop?host=%2Fvar%2Frun&user=bob": "-h /var/run -U bob ",
        "postgresql://first:1,second:2/shop": "-h first -p 1 ",
    }

    assert {url: createdb_options(url) for url in options} == options


@pytest.mark.parametrize(
    ("operation", "reason", "has_remedy"),
    [
        ("migration_get_versions", "permission denied for table river_migration", True),
        ("client_heartbeat", "permission denied for table millhand_client", True),
        ("job_insert", "permission denied for sequence river_job_id_seq", True),
        ("job_insert", "permission denied for schema jobs", True),
        ("SELECT key FROM uploads", "permission denied for schema shop", False),
        ("SELECT key FROM uploads", "permission denied for table uploads", False),
        ("index_reindex", "permission denied for index river_job_kind", False),
    ],
)
def test_missing_rights_on_our_tables_are_told_with_the_grants(
    operation: str, reason: str, has_remedy: bool
) -> None:
    """The error names the command that prints the grants; the reason, which other texts embed, does not."""
    error = DriverError(operation, reason, sqlstate="42501")

    remedy = "; grant the rights that `millhand migrate sql --grants` prints" if has_remedy else ""
    assert (str(error), error.reason) == (f"{operation} must succeed, got {reason}{remedy}", reason)


def test_inner_error_of_asyncpg_is_told_in_words() -> None:
    """The library's words about its own states help nobody; they stay in the cause."""
    inner = asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")

    with pytest.raises(ConnectionLost) as lost, translated("client_heartbeat", None):
        raise inner

    assert (
        lost.value.reason
        == "asyncpg lost track of the connection, as when the server closes it during a send"
    )
    assert lost.value.__cause__ is inner
