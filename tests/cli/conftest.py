from __future__ import annotations

import os
from pathlib import Path

import pytest

from millhand.driver.asyncpg import AsyncpgDriver


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: an empty one, with nothing of Millhand in the environment."""
    for name in [name for name in os.environ if name.startswith("MILLHAND_") or name == "DATABASE_URL"]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def project(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, schema_driver: AsyncpgDriver, postgres_url: str
) -> Path:
    """The working directory of somebody whose DATABASE_URL is a migrated schema of the test's own."""
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    monkeypatch.setenv("MILLHAND_DATABASE_SCHEMA", schema_driver.schema)
    return elsewhere
