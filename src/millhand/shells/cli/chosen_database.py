"""The databases that `--database` and `--all-databases` choose of those that the settings name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from millhand.core.errors import ConfigError
from millhand.shells.cli.command import META, Choice, Command
from millhand.shells.cli.output import WrongUse
from millhand.shells.settings.databases import SECTION
from millhand.shells.settings.decode import guess
from millhand.shells.settings.load import Settings, load_settings

ONE, ALL = "--database", "--all-databases"


def command_settings(
    config_path: Path | None, *, flags: Mapping[str, tuple[str, str]] | None = None
) -> Settings:
    """
    Return the settings for the one database of the command that runs.

    Raises: ConfigError; WrongUse if the options do not choose one of several.
    """
    settings = load_settings(config_path, flags=flags)
    choice = _choice()
    if choice is Choice.NONE:
        return settings
    name = _given(ONE)
    if not settings.databases:
        if name is not None:
            checked_name(settings, str(name))
        return settings
    return settings.in_database(one_name(settings, name, has_all=choice is Choice.ANY))


def all_settings_of(settings: Settings) -> list[Settings]:
    """Return the settings for each database that the settings name. Raises: ConfigError; WrongUse without names."""
    if _given(ONE) is not None:
        raise WrongUse(f"{ONE} must be left out with {ALL}, got {_given(ONE)!r}")
    if not settings.databases:
        raise _unnamed(ALL, None)
    return several_settings(settings, [*settings.databases])


def worked_names(settings: Settings, given: Sequence[str]) -> tuple[str, ...]:
    """Return the names that a worker works: the given ones, or all; none where the settings name none. Raises: WrongUse."""
    for name in given:
        checked_name(settings, name)
        if given.count(name) > 1:
            raise WrongUse(f"{ONE} must name each database once, got {name!r} {given.count(name)} times")
    return tuple(given or settings.databases)


def without_orphans(settings: Settings) -> Settings:
    """
    Return the settings of a process with several databases, which does not run the orphan cleanup.

    A bucket belongs to one database. Raises: WrongUse if the settings ask for the cleanup.
    """
    if settings.section("orphans") and settings.get("orphans.enabled"):
        raise WrongUse(
            f"the orphan cleanup must run in a process of one database, because a bucket belongs to one; run it with {ONE} "
            "NAME, and set MILLHAND_ORPHANS_ENABLED=false for this process"
        )
    return settings.with_fallback("orphans.enabled", value=False, origin="several databases")


def several_settings(settings: Settings, names: Sequence[str]) -> list[Settings]:
    """Return the settings for each of these databases. Raises: ConfigError if two have one URL."""
    found = [settings.in_database(name) for name in names]
    by_url: dict[str | None, str] = {}
    for one in found:
        other = by_url.setdefault(one.database_url, one.database_name)
        if other != one.database_name:
            raise ConfigError(
                f"each database must have a URL of its own, got the same for {other!r} and {one.database_name!r}; "
                f"correct {one.url_variable}"
            )
    return found


def is_for_all() -> bool:
    """Return whether the command that runs got `--all-databases`."""
    return bool(_given(ALL))


def checked_name(settings: Settings, name: str) -> str:
    """Return the name of a database that the settings name. Raises: WrongUse."""
    if "://" in name:  # not shown: it may hold a password
        raise WrongUse(f"{ONE} must name a database of [{SECTION}], got a URL; set DATABASE_URL to it")
    if not settings.databases:
        raise _unnamed(ONE, name)
    if name not in settings.databases:
        raise WrongUse(
            f"{ONE} must name a database of [{SECTION}], got {name!r}{guess(name, settings.databases)}"
        )
    return name


def chosen_name(settings: Settings) -> str | None:
    """Return the name that `--database` chose, or that of the only database; None for several, or without names."""
    name = _given(ONE)
    return one_name(settings, name) if name is not None or len(settings.databases) == 1 else None


def one_name(settings: Settings, name: object, *, has_all: bool = False) -> str:
    """Return the chosen name, or that of the only database. Raises: WrongUse."""
    if name is not None:
        return checked_name(settings, str(name))
    if len(settings.databases) == 1:
        return next(iter(settings.databases))
    other = f", or {ALL}" if has_all else ""
    raise WrongUse(
        f"{ONE} must name one of the databases {', '.join(settings.databases)}, got none; add {ONE} NAME{other}"
    )


def _unnamed(option: str, name: str | None) -> WrongUse:
    got = "" if name is None else f"{name!r} and "
    return WrongUse(
        f"{option} needs databases in [{SECTION}] of millhand.toml, got {got}none there; write one such as "
        f'{name or "eu"} = "{(name or "eu").upper()}_DATABASE_URL", or leave {option} out'
    )


def _choice() -> Choice:
    context = _context()
    command = None if context is None else context.command
    return command.choice if isinstance(command, Command) else Choice.ONE


def _given(option: str) -> object:
    context = _context()
    return None if context is None else context.meta.get(f"{META}{option}")


def _context() -> click.Context | None:
    """Return the context of the command that runs; None for code that no command calls."""
    try:
        return click.get_current_context()
    except RuntimeError:
        return None
