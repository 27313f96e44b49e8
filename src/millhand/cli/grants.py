"""`millhand migrate sql --grants`: the SQL that creates roles of least privilege."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import click

from millhand.cli.options import options
from millhand.cli.output import WrongUse
from millhand.schema.grants import Roles, grants_sql
from millhand.settings.decode import guess

_ROLES = tuple(field.name for field in fields(Roles))


grants_options = options(
    click.option(
        "--grants", "is_grants", is_flag=True, help="Print the SQL that creates roles of least privilege."
    ),
    click.option(
        "--role",
        "roles",
        multiple=True,
        metavar="ROLE=NAME",
        help=f"Name the role {', '.join(_ROLES[:-1])} or {_ROLES[-1]}; repeatable. "
        f"The default is {Roles().worker} and so on.",
    ),
    click.option("--river-inserter", is_flag=True, help="Allow the inserter to use River's client, too."),
)


def grants_text(roles: Sequence[str], *, schema: str, is_river_inserter: bool) -> str:
    """
    Return the SQL for `roles`, each written `worker=NAME`.

    Raises: WrongUse for another form; ConfigError for an impossible name.
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
