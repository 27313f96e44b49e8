"""Directories with and without a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import QUICK, open_directory, provide

from millhand.embedded import embedded_postgres


@pytest.fixture(scope="module")
def made_data() -> Iterator[Path]:
    """The data of a cluster, for copying."""
    with open_directory() as directory:
        with embedded_postgres(directory, QUICK):
            pass
        yield directory / "data"


@pytest.fixture
def empty() -> Iterator[Path]:
    """A directory where no database was ever made."""
    with open_directory() as directory:
        yield directory / "postgres"


@pytest.fixture
def directory(empty: Path, made_data: Path) -> Path:
    """A directory with a database whose server is not running."""
    provide(empty, made_data)
    return empty
