"""Claims about the use of `millhand worker` with several databases, before it connects."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_runner import millhand
from two_databases import CLOSED_PORT, THREE, TWO

BUCKET = (
    "the orphan cleanup must run in a process of one database, because a bucket belongs to one; run it with "
)


@pytest.fixture
def directory(worker_modules: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a worker and two databases, which no command of these tests reaches."""
    for name in ("EU", "US"):
        monkeypatch.setenv(f"{name}_DATABASE_URL", f"{CLOSED_PORT}?application_name={name}")
    (worker_modules / "millhand.toml").write_text(TWO)
    (worker_modules / "blobs.py").write_text(
        "from shop import workers\nfrom millhand import Config\n"
        'config = Config(workers=workers, queues={"default": 1}, blob_store="file:blobs")\n'
    )
    return worker_modules


@pytest.mark.parametrize(
    ("arguments", "more", "error"),
    [
        ("--database ue", "", "--database must name a database of [databases], got 'ue'; known: 'eu', 'us'"),
        ("--database eu,us --database eu", "", "--database must name each database once, got 'eu' 2 times"),
        (
            "",
            '[archive]\nurl = "file:archive"',
            (
                "the archive must be of one database, because the files of several would be in one folder; run the worker "
                "with --database NAME, which adds the name to archive.url, or without a url in [archive]"
            ),
        ),
        (
            "",
            '[orphans]\nmode = "report"',
            f"{BUCKET}--database NAME, and set MILLHAND_ORPHANS_ENABLED=false",
        ),
    ],
)
async def test_worker_refuses_a_wrong_choice(directory: Path, arguments: str, more: str, error: str) -> None:
    """An unknown or repeated name, and the orphan cleanup over several databases, are wrong use; exit code 2."""
    (directory / "millhand.toml").write_text(f"{TWO}{more}")

    result = await millhand("worker", "shop:config", *arguments.split())

    assert (result.code, result.err.startswith(f"error: {error}")) == (2, True), result.err


async def test_worker_of_several_databases_refuses_blobs(directory: Path) -> None:
    """A bucket of blobs belongs to one database, so two clients of one process cannot share it."""
    result = await millhand("worker", "blobs:config")

    assert (result.code, result.err) == (
        2,
        (
            "error: blob_store must be empty with several databases, got blobs:config with one: a bucket belongs to one "
            "database, whose orphan cleanup deletes the blobs of others; run it with --database NAME\n"
        ),
    )


async def test_worker_shows_the_settings_of_several_databases(directory: Path) -> None:
    """`--show-config` names the databases, and the orphan cleanup does not run; with one database it may."""
    several = await millhand("worker", "--show-config")
    one = await millhand("worker", "--show-config", "--database", "us")

    assert (several.code, one.code) == (0, 0)
    assert 'us = { url_variable = "US_DATABASE_URL", color = "gray", schema = "" }' in several.out
    assert ["enabled = false", "several databases"] in [
        [part.strip() for part in line.split("#")] for line in several.out.splitlines()
    ]
    assert "several databases" not in one.out


async def test_page_of_a_worker_needs_only_the_databases_that_it_works(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `--web`, a database that `--database` does not name needs no URL."""
    monkeypatch.delenv("ASIA_DATABASE_URL", raising=False)
    (directory / "millhand.toml").write_text(THREE)

    two = await millhand("worker", "--web", "--show-config", "--database", "eu,us")
    three = await millhand("worker", "--web", "--show-config")

    assert (two.code, two.err) == (0, "")
    assert (three.code, "ASIA_DATABASE_URL" in three.err) == (2, True)
