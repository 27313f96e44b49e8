"""
Database roles with least privilege, and the SQL that creates them.

Rule 1: only the owner of the tables changes them; the roles read and write rows.
Rule 2: the SQL first revokes all privileges of the roles, so that running it again also removes old ones.
Rule 3: Millhand prints the SQL and never runs it: an administrator decides about privileges.
"""

from __future__ import annotations

import re
from dataclasses import asdict, astuple, dataclass
from functools import cache
from typing import NamedTuple

from millhand.core.errors import ConfigError
from millhand.core.insert_opts import INSERT_COLUMNS, UNIQUE_COLUMNS
from millhand.db.sql import compile_script, sql_directory

ROLE_BYTES_MAX = 63
_ROLE = re.compile(rf"(?!pg_)[A-Za-z_][A-Za-z0-9_.@-]{{0,{ROLE_BYTES_MAX - 1}}}")
_RESERVED = ("none", "public")
_GRANT = re.compile(r"^GRANT ([^;]+?) ON (?:TABLE|SEQUENCE)\s+([^;]+?)\s+TO /\* (\w+) \*/;", re.MULTILINE)
_PRIVILEGE = re.compile(r"([A-Z]+)(?: \(([^)]*)\))?")

# On a unique conflict River's inserts set the kind to its own value.
_RIVER_INSERTER = """
-- River's clients update this column on a unique conflict. The role can then also change the kinds of waiting jobs.
GRANT UPDATE (kind) ON TABLE /* schema */river_job TO /* inserter */;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """
    The names of the roles.

    Raises: ConfigError for an invalid name, or for one that is used twice.
    """

    worker: str = "millhand_worker"
    inserter: str = "millhand_inserter"
    feeder: str = "millhand_feeder"
    reader: str = "millhand_reader"

    def __post_init__(self) -> None:
        names = astuple(self)
        for name in names:
            if not _ROLE.fullmatch(name) or name in _RESERVED:
                raise ConfigError(
                    "role must be letters, digits and any of _.@-, begin with a letter, not be 'none', 'public' or like "
                    f"'pg_…', and be at most {ROLE_BYTES_MAX} bytes long, got {name!r}; choose another name"
                )
        if len(set(names)) < len(names):
            raise ConfigError(f"roles must have different names, got {', '.join(map(repr, names))}")


class Right(NamedTuple):
    """A privilege on a table or sequence, or on one of its columns."""

    name: str
    column: str
    privilege: str


@cache
def role_rights(role: str) -> tuple[Right, ...]:
    """Return the rights on tables and sequences that the SQL grants to `worker`, `inserter`, `feeder` or `reader`."""
    template = (sql_directory() / "grants" / "grants.sql").read_text("utf-8")
    columns = ", ".join((*INSERT_COLUMNS, *UNIQUE_COLUMNS))
    text = compile_script(template, "", (("insert_columns", columns), ("river_inserter", "")))
    return tuple(
        Right(name.strip(), column.strip(), privilege)
        for granted, names, to in _GRANT.findall(text)
        if to in (role, "roles")
        for privilege, listed in _PRIVILEGE.findall(granted)
        for column in listed.split(",")
        for name in names.split(",")
    )


def grants_sql(roles: Roles | None = None, *, schema: str = "", is_river_inserter: bool = False) -> str:
    """
    Return the SQL that creates the roles and grants their privileges in one transaction; the owner runs it.

    With `is_river_inserter`, River's clients can insert in the inserter's role too.
    Raises: ConfigError for an invalid schema.
    """
    roles = Roles() if roles is None else roles
    template = (sql_directory() / "grants" / "grants.sql").read_text("utf-8")
    names = tuple((name, f'"{role}"') for name, role in asdict(roles).items())
    fragments = (
        ("insert_columns", ", ".join((*INSERT_COLUMNS, *UNIQUE_COLUMNS))),
        ("river_inserter", compile_script(_RIVER_INSERTER, schema, names) if is_river_inserter else ""),
        ("role_literals", ", ".join(f"'{role}'" for role in astuple(roles))),
        ("roles", ", ".join(role for _, role in names)),
        ("schema_title", schema or "of the search path"),
    )
    return compile_script(template, schema, (*names, *fragments))
