from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kinds_module import KINDS_MODULE
from worker_module import WORKER_MODULE

from millhand.db.driver.asyncpg import AsyncpgDriver


@pytest.fixture
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty working directory and remove Millhand's variables from the environment."""
    for name in [name for name in os.environ if name.startswith("MILLHAND_") or name == "DATABASE_URL"]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def project(
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch, schema_driver: AsyncpgDriver, postgres_url: str
) -> Path:
    """Change to a working directory whose DATABASE_URL and schema are migrated and belong to the test."""
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    monkeypatch.setenv("MILLHAND_DATABASE_SCHEMA", schema_driver.schema)
    return empty_directory


@pytest.fixture
def kinds_target(empty_directory: Path) -> str:
    """Write a user's configuration, and return its MODULE:CONFIG."""
    name = f"shop_{secrets.token_hex(6)}"
    (empty_directory / f"{name}.py").write_text(KINDS_MODULE)
    return f"{name}:config"


@pytest.fixture
def worker_modules(empty_directory: Path) -> Iterator[Path]:
    """Write a user's modules, and remove them from `sys.modules` afterwards."""
    (empty_directory / "shop.py").write_text(WORKER_MODULE)
    (empty_directory / "broken.py").write_text("import shop\nvalue = {}['no such key']\n")
    (empty_directory / "needy.py").write_text("import no_such\n")
    (empty_directory / "bakery" / "ovens").mkdir(parents=True)
    for name in ("__init__", "jobs", "ovens/__init__", "ovens/jobs"):
        (empty_directory / "bakery" / f"{name}.py").touch()
    path = sys.path[:]
    yield empty_directory
    sys.path[:] = path
    for name in ("shop", "broken", "needy", "bakery", "bakery.ovens"):
        sys.modules.pop(name, None)
