"""River's Rust port: `river_rust` inserts and works, like the Go program."""

from __future__ import annotations

import os
from urllib.parse import parse_qs, unquote, urlsplit

import harness
import system_program
from system_river import River


class RiverRust(River):
    """The Rust client with default settings, or with more workers and a shorter cooldown."""

    name = "river_rust"


def _tell_place(url: str) -> None:
    """Set libpq's variables: SQLx does not read a URL whose host is a directory."""
    parts = urlsplit(url)
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    said = {
        "PGDATABASE": parts.path.removeprefix("/"),
        "PGHOST": query.get("host") or parts.hostname,
        "PGPASSWORD": parts.password,
        "PGPORT": query.get("port") or parts.port,
        "PGUSER": parts.username,
    }
    os.environ.update({name: unquote(str(value)) for name, value in said.items() if value})


if __name__ == "__main__":
    _tell_place(harness.database_url())
    system_program.main(RiverRust())
