"""Claims about `millhand web`: whom it serves, what it prints and how it ends."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from cli_runner import millhand

from millhand import ConfigError
from millhand.cli.output import WrongUse
from millhand.cli.web import PageSettings, page_settings
from millhand.settings.load import load_settings
from millhand.web import Role
from millhand.web.credential import hashed_token, is_password
from millhand.web.user import RoleName
from served import served
from user_programs import fresh_database

USER = f'[web.users.ada]\ntoken = "{hashed_token("abc")}"\nrole = "admin"\n'
PROXIED = '[web]\nproxy_header = "X-User"\nproxy_networks = ["10.0.0.0/8"]\n[web.users.ada]\n'


@pytest.fixture
async def url(postgres_server_url: str) -> AsyncIterator[str]:
    async with fresh_database(postgres_server_url) as url:
        yield url


def _page(directory: Path, toml: str, role: RoleName | None = None, **environment: str) -> PageSettings:
    (directory / "millhand.toml").write_text(toml)
    return page_settings(load_settings(directory=directory, environment=environment), role)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_page_without_users_is_for_this_machine(tmp_path: Path, host: str) -> None:
    """On the loopback address, the page has one user with a token that is made at the start."""
    settings = load_settings(directory=tmp_path, environment={"MILLHAND_WEB_HOST": host})
    first, second = (page_settings(settings, None) for _ in range(2))
    [user] = first.config.users.values()

    assert first.token is not None
    assert (user.token, user.role, first.config.is_local) == (hashed_token(first.token), "operator", True)
    assert second.token != first.token


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
def test_role_of_the_printed_url_is_an_option(tmp_path: Path, role: RoleName) -> None:
    """`--role` is the role of the person at this machine."""
    page = page_settings(load_settings(directory=tmp_path, environment={}), role)
    [(name, user)] = page.config.users.items()

    assert user.user(name).role is Role[role.upper()]


@pytest.mark.parametrize(
    ("toml", "error"),
    [
        (
            '[web]\nhost = "0.0.0.0"',
            "host must be 127.0.0.1 or ::1 while the page has no users, got '0.0.0.0'",
        ),
        ('[web]\nhost = "jobs.example"', "host must be 127.0.0.1 or ::1 while the page has no users"),
        ("[web.users.ada]", "users must have a password or a token, got none with either"),
        ('[web.users.ada]\ntoken = "abc"', "users.ada: token must be a hash that begins with 'sha256:'"),
        (
            '[web.users.ada]\nrole = "root"',
            "users.ada.role must be one of 'viewer', 'operator', 'admin', got 'root'",
        ),
        ('[web.users.ada]\nqueue = ["a"]', "users.ada has no setting 'queue'; did you mean 'queues'?"),
        (
            '[web]\nproxy_header = "X"\n[web.users.ada]',
            "proxy_networks must name the networks of your proxies",
        ),
        ('[web]\nhide = ["password"]', "hide must be paths that begin with args, metadata or output"),
        ('[web]\nprefix = "jobs/"', "prefix must be empty or a path such as '/jobs', got 'jobs/'"),
    ],
)
def test_page_that_would_be_open_or_useless_is_refused(tmp_path: Path, toml: str, error: str) -> None:
    """Each error names the setting, the rule and a remedy, before anything listens."""
    with pytest.raises(ConfigError) as refused:
        _page(tmp_path, toml)
    assert error in str(refused.value)


@pytest.mark.parametrize("toml", [USER, PROXIED])
def test_page_with_users_listens_anywhere_and_prints_no_token(tmp_path: Path, toml: str) -> None:
    """With a user in the settings, any address will do, and no token is made."""
    page = _page(tmp_path, toml, MILLHAND_WEB_HOST="10.0.0.5")

    assert (page.token, page.host, page.config.is_local) == (None, "10.0.0.5", False)
    with pytest.raises(WrongUse, match="--role must be left out with users in the settings"):
        _page(tmp_path, toml, "admin")


async def test_command_hashes_passwords_and_makes_tokens(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is printed fits into millhand.toml."""
    secret = tmp_path / "secret"
    secret.write_text("correct horse\n")
    with secret.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        password = await millhand("web", "--hash-password")
    token = await millhand("web", "--new-token")

    assert (password.code, token.code) == (0, 0)
    assert is_password("correct horse", password.out.strip().removeprefix('password = "').removesuffix('"'))
    plain, hashed = re.findall(r'only: (\S+)\ntoken = "(.*)"', token.out)[0]
    assert hashed == hashed_token(plain)


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
