"""`millhand migrate sql --grants`: what each role may do, as SQL for the owner of the tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import click

from millhand.cli.output import WrongUse
from millhand.schema.grants import Roles, grants_sql
from millhand.settings.decode import guess

Function = TypeVar("Function", bound=Callable[..., Any])

_ROLES = tuple(field.name for field in fields(Roles))


def grants_options(function: Function) -> Function:
    """Add the options of the grants to a command."""
    for option in (
        click.option("--river-inserter", is_flag=True, help="Let the inserter be a client of River's too."),
        click.option(
            "--role",
            "roles",
            multiple=True,
            metavar="ROLE=NAME",
            help=f"What a role is called, {', '.join(_ROLES[:-1])} or {_ROLES[-1]}; repeatable. "
            f"If not said: {Roles().worker} and so on.",
        ),
        click.option(
            "--grants", "is_grants", is_flag=True, help="The SQL that makes roles of least privilege."
        ),
    ):
        function = option(function)
    return function


def grants_text(roles: Sequence[str], *, schema: str, is_river_inserter: bool) -> str:
    """
    Return the SQL for `roles`, each written `worker=NAME`.

    Raises: WrongUse for what is not written so; ConfigError for a name that cannot be.
    """
    named = dict(map(_named, roles))
    return grants_sql(Roles(**named), schema=schema, is_river_inserter=is_river_inserter)


def _named(text: str) -> tuple[str, str]:
    role, equals, name = text.partition("=")
    if not equals or role not in _ROLES:
        raise WrongUse(
            f"--role must be one of {', '.join(_ROLES)} and its name, got {text!r}; "
            f"write it like 'worker=shop_worker'{guess(role, _ROLES) if equals else ''}"
        )
    return role, name
