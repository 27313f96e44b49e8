"""Claims about the databases that the settings name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from millhand.core.errors import ConfigError
from millhand.shells.settings.load import Settings, load_settings, shown_settings

EU, US = "postgresql://ann:sesame@eu.example/shop", "postgresql://ann:sesame@us.example/shop"
URLS = {"EU_DATABASE_URL": EU, "US_DATABASE_URL": US}
TWO = '[databases]\neu = "EU_DATABASE_URL"\nus = {url_variable = "US_DATABASE_URL", schema = "jobs", color = "red"}\n'
HERE = "millhand.toml: [databases]"
KNOWN = "one such as eu = "


def load(
    directory: Path,
    text: str,
    environment: Mapping[str, str] = URLS,
    flags: Mapping[str, tuple[str, str]] | None = None,
) -> Settings:
    (directory / "millhand.toml").write_text(text)
    return load_settings(directory=directory, environment=environment, flags=flags)


def test_each_named_database_has_its_url_and_schema(tmp_path: Path) -> None:
    """The order is the file's; a database without a schema of its own has that of the other settings."""
    settings = load(tmp_path, f'{TWO}[database]\nschema = "public"\n')
    eu, us = settings.in_database("eu", URLS), settings.in_database("us", URLS)

    assert [*settings.databases] == ["eu", "us"]
    assert settings.database_url is None
    assert (eu.database_name, eu.database_url, eu.get("database.schema")) == ("eu", EU, "public")
    assert (us.database_name, us.database_url, us.get("database.schema")) == ("us", US, "jobs")
    assert (eu.url_variable, settings.url_variable) == ("EU_DATABASE_URL", "DATABASE_URL")
    assert us.origin("database.schema") == "[databases] us"


def test_schema_of_a_flag_wins_over_that_of_a_database(tmp_path: Path) -> None:
    """`--schema` overrides the schema that a table in `[databases]` names; a variable does not."""
    flag = load(tmp_path, TWO, flags={"database.schema": ("--schema", "other")})
    variable = load(tmp_path, TWO, {**URLS, "MILLHAND_DATABASE_SCHEMA": "other"})

    assert flag.in_database("us", URLS).get("database.schema") == "other"
    assert variable.in_database("us", URLS).get("database.schema") == "jobs"
    assert variable.in_database("eu", URLS).get("database.schema") == "other"


def test_database_may_have_the_variable_database_url(tmp_path: Path) -> None:
    """DATABASE_URL may be set if a name uses it; no command then takes it without that name."""
    settings = load(tmp_path, '[databases]\nmain = "DATABASE_URL"\n', {"DATABASE_URL": EU})

    assert settings.database_url is None
    assert settings.in_database("main", {"DATABASE_URL": EU}).database_url == EU


def test_shown_settings_name_the_databases_without_their_urls(tmp_path: Path) -> None:
    """`--show-config` prints the variables, and a file of its lines names the same databases."""
    settings = load(tmp_path, TWO)
    lines = [*shown_settings(settings)]

    assert lines[:5] == [
        "# DATABASE_URL: not used, because [databases] names databases",
        "",
        "[databases]",
        'eu = { url_variable = "EU_DATABASE_URL", color = "gray", schema = "" }',
        'us = { url_variable = "US_DATABASE_URL", color = "red", schema = "jobs" }',
    ]
    assert load(tmp_path, "\n".join(lines)).databases == settings.databases


@pytest.mark.parametrize(
    ("text", "environment", "error"),
    [
        ("databases = 3", {}, f"{HERE} must be a table, got 3; write a line [databases]"),
        ("[databases]", {}, f'{HERE} must name a database, got none; write {KNOWN}"EU_DATABASE_URL"'),
        (
            f'[databases]\neu = "{EU}"',
            {},
            (
                f"{HERE} eu must not have a database URL, because it may contain a password; write the name of an "
                "environment variable that has it"
            ),
        ),
        (
            '[databases]\neu = "EU-URL"',
            {},
            f"{HERE} eu must name an environment variable such as 'EU_DATABASE_URL', got 'EU-URL'",
        ),
        (
            "[databases]\neu = 3",
            {},
            f"{HERE} eu must be the name of an environment variable or a table, got 3",
        ),
        ('[databases]\neu = {color = "red"}', {}, f"{HERE} eu must have a 'url_variable', got none"),
        (
            '[databases]\neu = {url_variable = "EU_URL", colour = "red"}',
            {},
            f"{HERE} eu has no setting 'colour'; did you mean 'color'?",
        ),
        (
            '[databases]\n"e/u" = "EU_URL"',
            {},
            f"{HERE}: the name of a database must have at most 40 letters, digits, '-' and '_', got 'e/u'",
        ),
        (
            '[databases]\neu = "EU_URL"\nus = "EU_URL"',
            {},
            f"{HERE} must name each variable once, got EU_URL for eu and us",
        ),
        (
            TWO,
            {"DATABASE_URL": EU},
            (
                "DATABASE_URL must be unset where [databases] names databases, got both it and eu, us; unset it, or name it "
                'too, such as main = "DATABASE_URL"'
            ),
        ),
        (
            f"{TWO}[database]\nembedded = true",
            {},
            "[database] embedded must be false where [databases] names databases, got true and eu, us",
        ),
    ],
)
def test_wrong_databases_are_refused(
    tmp_path: Path, text: str, environment: Mapping[str, str], error: str
) -> None:
    """Each error names the setting, the rule, the value and a remedy, without a password."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, environment)

    assert str(caught.value) == error


def test_two_equal_names_are_refused(tmp_path: Path) -> None:
    """TOML allows each name once."""
    with pytest.raises(ConfigError, match=r"^millhand.toml must be TOML, got: Cannot overwrite a value"):
        load(tmp_path, '[databases]\neu = "EU_URL"\neu = "US_URL"\n')


@pytest.mark.parametrize(
    ("environment", "error"),
    [
        (
            {},
            "variable EU_DATABASE_URL must have the URL of database 'eu', got none; set it in the environment",
        ),
        (
            {"EU_DATABASE_URL": ""},
            "EU_DATABASE_URL must name a database, got an empty value; set it, or unset it",
        ),
        (
            {"EU_DATABASE_URL": "mysql://ann:sesame@eu.example/shop"},
            (
                "EU_DATABASE_URL must begin with 'postgresql://', 'postgresql+psycopg://' or 'postgresql+asyncpg://', got "
                "'mysql://ann:***@eu.example/shop'"
            ),
        ),
    ],
)
def test_database_without_a_url_names_its_variable(
    tmp_path: Path, environment: Mapping[str, str], error: str
) -> None:
    """An unset or wrong variable is an error about that variable, once its database is chosen."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, TWO).in_database("eu", environment)

    assert str(caught.value) == error
