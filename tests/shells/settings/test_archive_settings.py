"""The section `[archive]` of the settings."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from millhand.core.archive import Archive
from millhand.core.config import Config
from millhand.core.errors import ConfigError
from millhand.shells.settings.load import Settings, load_settings


def settings(directory: Path, text: str) -> Settings:
    (directory / "millhand.toml").write_text(text, encoding="utf-8")
    return load_settings(directory=directory, environment={})


def test_without_a_url_there_is_no_archive(tmp_path: Path) -> None:
    """Other keys alone make none."""
    assert settings(tmp_path, "[archive]\nkeep = '400d'").config().archive is None


def test_archive_of_a_file_is_that_of_the_config(tmp_path: Path) -> None:
    """Each key is a field, and the others have their defaults."""
    text = "[archive]\nurl = 's3://bucket'\nformat = 'jsonl'\nevery = '1m'\nkeep = '400d'\nmax_delay = '2d'"

    assert settings(tmp_path, text).config().archive == Archive(
        url="s3://bucket",
        every=timedelta(minutes=1),
        format="jsonl",
        keep=timedelta(days=400),
        max_delay=timedelta(days=2),
    )
    assert settings(tmp_path, "[archive]\nurl = 's3://bucket'").config().archive == Archive(url="s3://bucket")


def test_archive_of_code_is_kept_and_overridden_by_key(tmp_path: Path) -> None:
    """A file overrides the keys that it has."""
    base = Config(archive=Archive(url="s3://bucket", keep=timedelta(days=9)))
    found = settings(tmp_path, "[archive]\nformat = 'jsonl'").with_config(base, "shop:config").config(base)

    assert found.archive == Archive(url="s3://bucket", keep=timedelta(days=9), format="jsonl")


def test_wrong_archive_names_its_place(tmp_path: Path) -> None:
    """The error names the file, the section and the key."""
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, "[archive]\nurl = 's3://bucket'\nkeep = '1h'").config()

    assert str(caught.value) == (
        "millhand.toml: [archive] keep must be at least a day and at most 100 years, got '1h'"
    )


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://bucket", "s3://bucket/eu"),
        ("s3://bucket/shop/?region=eu-west-1", "s3://bucket/shop/eu?region=eu-west-1"),
        ("file:/srv/archive", "file:/srv/archive/eu"),
    ],
)
def test_each_named_database_has_a_folder(tmp_path: Path, url: str, expected: str) -> None:
    """One URL serves all databases of `[databases]`: each adds its name."""
    found = settings(tmp_path, f"[databases]\neu = 'EU_URL'\n[archive]\nurl = '{url}'")
    archive = found.in_database("eu", {"EU_URL": "postgresql://localhost/eu"}).archive()

    assert archive == Archive(url=expected)
