"""A password in DATABASE_URL is in nothing that a command says, whatever is wrong with the URL or the server."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_room import millhand

from planted import BAD_URLS, PLAIN, found_in


@pytest.mark.parametrize("url", BAD_URLS.values(), ids=BAD_URLS)
async def test_command_of_a_url_shows_no_password(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """Commands that connect, and the one that shows all settings, say what is wrong, and not the password."""
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PLAIN)
    commands = (("job", "list"), ("migrate", "up"), ("client", "list", "--json"), ("worker", "--show-config"))

    results = [await millhand(*command) for command in commands]

    assert [result.code for result in results[:3]] in ([1, 1, 1], [2, 2, 2])
    assert found_in("\n".join(result.out + result.err for result in results)) == []
