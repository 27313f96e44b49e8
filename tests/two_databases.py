"""Two databases of the run's server, and a third that is away, as `[databases]` of a project."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from user_programs import fresh_database

CLOSED_PORT = "postgresql://ann:sesame@127.0.0.1:1/shop"
TWO = '[databases]\neu = "EU_DATABASE_URL"\nus = "US_DATABASE_URL"\n'
THREE = f'{TWO}asia = "ASIA_DATABASE_URL"\n'


@contextlib.asynccontextmanager
async def two_databases(
    directory: Path, monkeypatch: pytest.MonkeyPatch, server_url: str
) -> AsyncIterator[Path]:
    """Write settings with `eu` and `us`, and set the variables; that of `asia` names a server that does not run."""
    async with fresh_database(server_url) as eu, fresh_database(server_url) as us:
        monkeypatch.setenv("EU_DATABASE_URL", eu)
        monkeypatch.setenv("US_DATABASE_URL", us)
        monkeypatch.setenv("ASIA_DATABASE_URL", CLOSED_PORT)
        (directory / "millhand.toml").write_text(TWO)
        yield directory
