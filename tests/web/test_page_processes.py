"""Claims about the processes that serve the web page: `millhand web`, and `millhand worker --web`."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from several import CLOSED_PORT

from millhand.web.credential import hashed_token
from served import served, until
from user_programs import fresh_database

USER = f'[web.users.ada]\ntoken = "{hashed_token("abc")}"\n'


@pytest.fixture
async def url(postgres_server_url: str) -> AsyncIterator[str]:
    async with fresh_database(postgres_server_url) as url:
        yield url


@pytest.mark.slow
async def test_page_is_served_to_the_person_at_this_machine(url: str, tmp_path: Path) -> None:
    """The printed URL opens the page; the log has the address without the token; SIGTERM ends it with exit code 0."""
    async with served(["-m", "millhand", "web", "--port", "0"], tmp_path, DATABASE_URL=url) as page:
        address = await page.found(r"^Open (http://127\.0\.0\.1:\d+/login\?token=\S+)$")
        async with httpx.AsyncClient(follow_redirects=True) as http:
            refused = await http.get(address.partition("?")[0].replace("/login", "/"))
            opened = await http.get(address)
        code = await page.stop()

    assert "Log in to millhand" in refused.text
    assert "Overview" in opened.text
    assert (code, page.lines[-1].find("web page stopped") > 0) == (0, True)
    token = address.partition("token=")[2]
    assert [token in line for line in page.lines].count(True) == 1


@pytest.mark.slow
@pytest.mark.parametrize("command", ["web", "worker --web"])
async def test_stop_does_not_wait_for_an_open_browser(command: str, url: str, tmp_path: Path) -> None:
    """SIGTERM ends the page at once with exit code 0, although a browser receives live updates."""
    (tmp_path / "millhand.toml").write_text(f"[web]\nport = 0\n{USER}")
    async with served(["-m", "millhand", *command.split()], tmp_path, DATABASE_URL=url) as program:
        address = await program.address()
        async with (
            httpx.AsyncClient(base_url=address, headers={"Authorization": "Bearer abc"}) as http,
            http.stream("GET", "/live") as live,
        ):
            lines = live.aiter_lines()
            assert await anext(lines) == "retry: 3000"
            code = await program.stop()

    assert code == 0
    assert f"{command.partition(' ')[0].replace('web', 'web page')} stopped" in program.lines[-1]
    assert "ancel" not in program.text  # no task had to be cancelled
    assert "Bearer" not in program.text


SEVERAL = """
[web]
port = 0
[web.databases.production]
url_variable = "SHOP_URL"
color = "red"
[web.databases.away]
url_variable = "AWAY_URL"
"""


@pytest.mark.slow
@pytest.mark.parametrize("command", ["web", "worker --web --migrate"])
async def test_several_databases_are_served_although_one_is_away(
    command: str, url: str, tmp_path: Path
) -> None:
    """The page starts without the one, and its first page has the other's verdict; the history of that one is written."""
    (tmp_path / "millhand.toml").write_text(SEVERAL + USER)
    async with served(["-m", "millhand", "migrate", "up"], tmp_path, DATABASE_URL=url) as migration:
        assert await migration.ended() == 0
    variables = {"SHOP_URL": url, "AWAY_URL": CLOSED_PORT}
    if command != "web":
        variables["DATABASE_URL"] = url
    async with served(["-m", "millhand", *command.split()], tmp_path, **variables) as program:
        address = await program.address()
        headers = {"Authorization": "Bearer abc"}
        async with httpx.AsyncClient(base_url=address, headers=headers) as http:

            async def unavailable() -> dict[str, bool]:
                lines = (await http.get("/api/v1/databases")).json()["databases"]
                return {line["name"]: line["state"] == "unavailable" for line in lines}

            # The first verdict of a page that has just started may come too late for the list.
            found = await until(unavailable, lambda found: not found["production"])
            page = await http.get("/db/production/")
        if command == "web":
            await program.found("HistoryWriter away")
        code = await program.stop()

    assert found == {"production": False, "away": True}
    assert page.status_code == 200
    assert code == 0


@pytest.mark.slow
async def test_several_processes_serve_no_page(url: str, tmp_path: Path) -> None:
    """Workers that would share one port are refused, with the way out."""
    arguments = ["-m", "millhand", "worker", "--web", "--processes", "2"]
    async with served(arguments, tmp_path, DATABASE_URL=url) as program:
        assert await program.ended() == 2

    assert program.text.startswith(
        "error: --web must be left out with several processes, got 2; run millhand web"
    )


@pytest.mark.slow
async def test_port_in_use_is_an_error_with_a_remedy(url: str, tmp_path: Path) -> None:
    """A second page on the same port is one line, not a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with served(["-m", "millhand", "web", "--port", str(port)], tmp_path, DATABASE_URL=url) as page:
            assert await page.ended() == 2

    assert page.text.splitlines()[-1].startswith(
        f"error: address 127.0.0.1:{port} must be free and of this machine, got: Address already in use; "
    )
