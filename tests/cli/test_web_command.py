"""Claims about `millhand web`: whom it serves, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from cli_runner import millhand
from millhand import ConfigError
from millhand.cli.web import PageSettings, page_settings
from millhand.shells.cli.output import WrongUse
from millhand.shells.settings.load import load_settings
from millhand.shells.settings.web_user import RoleName
from millhand.web import Role
from millhand.web.credential import hashed_password, hashed_token, is_password

USER = f'[web.users.ada]\ntoken = "{hashed_token("abc")}"\nrole = "admin"\n'
PROXIED = '[web]\nproxy_header = "X-User"\nproxy_networks = ["10.0.0.0/8"]\n[web.users.ada]\n'


def _page(
    directory: Path, toml: str, role: RoleName | None = None, names: Sequence[str] = (), **environment: str
) -> PageSettings:
    (directory / "millhand.toml").write_text(toml)
    return page_settings(load_settings(directory=directory, environment=environment), role, names)


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
        (
            '[web]\ntime_zone = "Mars"',
            "time_zone must be the name of a time zone such as Europe/Berlin, got 'Mars'",
        ),
        ('[web]\nhide = ["password"]', "hide must be paths that begin with args, metadata or output"),
        (
            f'{USER}[web.databases.shop]\nurl_variable = "UNSET_SHOP_URL"',
            "databases.shop: variable UNSET_SHOP_URL must have the URL of the database, got none; set it in the environment",
        ),
        ('[web.databases.shop]\nschema = "jobs"', "databases.shop must have a 'url_variable', got none"),
        (
            '[web.databases.shop]\nurl_variable = "SHOP_URL"\ncolor = "pink"',
            "databases.shop.color must be one of 'red', 'orange', 'green', 'blue', 'violet', 'gray', got 'pink'",
        ),
        (
            f'{USER}databases = {{ shop = "root" }}',
            "users.ada.databases.shop must be one of 'viewer', 'operator', 'admin', got 'root'",
        ),
        (
            f'{USER}databases = {{ shop = "admin" }}',
            "databases of user 'ada' must be left out on a page of one database",
        ),
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


def test_urls_of_several_databases_are_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each database has the URL of its variable, its schema and its color; DATABASE_URL is one only if it is named."""
    monkeypatch.setenv("SHOP_URL", "postgresql://shop.example/shop")
    monkeypatch.setenv("DATABASE_URL", "postgresql://staging.example/shop")
    page = _page(
        tmp_path,
        '[web.databases]\nproduction = { url_variable = "SHOP_URL", color = "red", schema = "jobs" }\n'
        'staging = { url_variable = "DATABASE_URL" }\n',
    )

    assert {name: driver.schema for name, driver in page.databases.items()} == {
        "production": "jobs",
        "staging": "",
    }
    assert page.config.colors == {"production": "red", "staging": "gray"}


def test_invalid_url_of_a_database_is_refused_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the database, and no part of the password."""
    monkeypatch.setenv("SHOP_URL", "mysql://ada:correct_horse@shop.example/shop")
    with pytest.raises(ConfigError) as refused:
        _page(tmp_path, '[web.databases.shop]\nurl_variable = "SHOP_URL"\n')

    assert "databases.shop" in str(refused.value)
    assert "correct_horse" not in str(refused.value)


@pytest.mark.slow
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


async def test_shown_settings_have_no_hash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`--show-config` shows each user with role and limits, and masks the hashes."""
    password = hashed_password("x", log2_rounds=1)
    (tmp_path / "millhand.toml").write_text(f'{USER}password = "{password}"\nqueues = ["mail"]\n')
    monkeypatch.chdir(tmp_path)

    shown = await millhand("worker", "--show-config")

    assert (
        'users = { ada = { role = "admin", password = "***", token = "***", queues = ["mail"] } }'
        in shown.out
    )
    assert "scrypt:" not in shown.out
    assert "sha256:" not in shown.out


def test_page_has_the_databases_that_the_settings_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The page serves all that `[databases]` names, each with its color and schema, and one that is chosen alone."""
    for name in ("EU", "US"):
        monkeypatch.setenv(f"{name}_URL", f"postgresql://127.0.0.1:1/{name}")
    toml = f'{USER}[databases]\neu = "EU_URL"\nus = {{ url_variable = "US_URL", color = "red", schema = "jobs" }}\n'
    page = _page(tmp_path, toml)
    alone = page_settings(load_settings(directory=tmp_path, environment={}).in_database("us"), None)

    assert {name: driver.schema for name, driver in page.databases.items()} == {"eu": "", "us": "jobs"}
    assert page.config.colors == {"eu": "gray", "us": "red"}
    assert (alone.databases, alone.config.schema) == ({}, "jobs")


def test_page_of_a_worker_has_the_databases_that_it_works(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A database that was not chosen needs no URL and has no user, and a user of an unknown one is still an error."""
    for name in ("EU", "US"):
        monkeypatch.setenv(f"{name}_URL", f"postgresql://127.0.0.1:1/{name}")
    monkeypatch.delenv("ASIA_URL", raising=False)
    toml = (
        f'{USER}databases = {{ asia = "admin", us = "viewer" }}\n'
        '[databases]\neu = "EU_URL"\nus = "US_URL"\nasia = "ASIA_URL"\n'
    )
    page = _page(tmp_path, toml, names=("eu", "us"))

    assert (page.databases.keys(), page.config.colors.keys()) == ({"eu", "us"}, {"eu", "us"})
    assert page.config.users["ada"].databases == {"us": "viewer"}
    with pytest.raises(ConfigError, match="user 'ada' must name databases of the page, got 'ue'"):
        _page(tmp_path, toml.replace('us = "viewer"', 'ue = "viewer"'), names=("eu", "us"))


def test_databases_of_the_page_are_named_once(tmp_path: Path) -> None:
    """With `[databases]`, those of the page are an error, which says where to write them."""
    toml = f'{USER}[web.databases.shop]\nurl_variable = "SHOP_URL"\n[databases]\neu = "EU_URL"\n'

    with pytest.raises(ConfigError) as refused:
        _page(tmp_path, toml)

    assert str(refused.value) == (
        "millhand.toml: [web] databases must be left out where [databases] names them, got shop; move them there"
    )
