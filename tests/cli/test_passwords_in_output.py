"""No command prints a secret in DATABASE_URL or in the URL of the store, whatever is wrong with it or the server."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_runner import millhand
from planted import BAD_STORE_URLS, BAD_URLS, NOBODY, PLAIN, found_in


@pytest.mark.parametrize("url", BAD_URLS.values(), ids=BAD_URLS)
async def test_command_of_a_url_shows_no_password(
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """Commands that connect, and `--show-config`, print the error without the password."""
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PLAIN)
    commands = (("job", "list"), ("migrate", "up"), ("client", "list", "--json"), ("worker", "--show-config"))

    results = [await millhand(*command) for command in commands]

    assert [result.code for result in results[:3]] in ([1, 1, 1], [2, 2, 2])
    assert found_in("\n".join(result.out + result.err for result in results)) == []


@pytest.mark.parametrize("url", BAD_STORE_URLS.values(), ids=BAD_STORE_URLS)
async def test_command_of_a_store_url_shows_no_secret(
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """Commands that use the store refuse a secret in its URL, and neither they nor `--show-config` print it."""
    monkeypatch.setenv("DATABASE_URL", f"postgresql://{NOBODY}/shop")
    monkeypatch.setenv("MILLHAND_STORAGE_URL", url)
    commands = (
        ("orphans", "scan"),
        ("orphans", "init"),
        ("orphans", "bind"),  # the question shows the URL
        ("worker", "--show-config"),
    )

    results = [await millhand(*command) for command in commands]

    assert [result.code for result in results] == [2] * 3 + [0]
    assert "storage" in results[0].err
    assert found_in("\n".join(result.out + result.err for result in results)) == []


SPACED = f"postgresql://ann:{PLAIN} x@db/shop"


@pytest.mark.parametrize(
    "text",
    [
        f'["{SPACED}"]',
        f'[worker]\n"{SPACED}" = 5',
        f'[worker.queues]\n"{SPACED}" = 5',
        f'[worker.queues]\n"{SPACED}" = "many"',
        f'[database]\nschema = "{SPACED}"',
        f'[orphans]\nprefix = "{SPACED}"',
        f'[orphans]\nexclude = ["{SPACED}"]',
        f'[orphans]\ncanaries = ["{SPACED}"]\nkey_patterns = ["{SPACED}("]',
    ],
)
async def test_settings_that_were_given_a_url_show_no_password(empty_directory: Path, text: str) -> None:
    """An error about a URL in another setting does not show its password."""
    (empty_directory / "millhand.toml").write_text(text, encoding="utf-8")

    result = await millhand("worker", "--show-config")

    assert result.code == 2
    assert "postgresql://ann:***@db/shop" in result.err
    assert found_in(result.out + result.err) == []
