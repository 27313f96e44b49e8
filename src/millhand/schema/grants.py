"""
The roles that an installation may be divided into, and the SQL that gives each what it needs and no more.

Rule 1: nobody but the owner of the tables changes them; a role of ours reads and writes rows.
Rule 2: what a role has had before is taken away first, so that the same SQL, run again, also takes back.
Rule 3: the SQL is printed and never run from here: who may do what is not for a worker to say.
"""

from __future__ import annotations

import re
from dataclasses import asdict, astuple, dataclass

from millhand.errors import ConfigError
from millhand.sql import compile_script, folder
from millhand.store.job_insert import COLUMNS, UNIQUE_COLUMNS

ROLE_BYTES_MAX = 63
_ROLE = re.compile(rf"(?!pg_)[A-Za-z_][A-Za-z0-9_.@-]{{0,{ROLE_BYTES_MAX - 1}}}")
_RESERVED = ("none", "public")

# River's inserts answer a conflict with an update of the kind, to what it was.
_RIVER_INSERTER = """
-- River's clients update another column there. Who may do so may also rename the kinds of jobs that wait.
GRANT UPDATE (kind) ON TABLE /* schema */river_job TO /* inserter */;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """
    What the roles are called.

    Raises: ConfigError for a name that PostgreSQL would refuse, or two that are one.
    """

    worker: str = "millhand_worker"
    inserter: str = "millhand_inserter"
    feeder: str = "millhand_feeder"
    reader: str = "millhand_reader"

    def __post_init__(self) -> None:
        names = astuple(self)
        for name in names:
            _check_role(name)
        if len(set(names)) < len(names):
            raise ConfigError(f"roles must have different names, got {', '.join(map(repr, names))}")


def grants_sql(roles: Roles | None = None, *, schema: str = "", is_river_inserter: bool = False) -> str:
    """
    Return the SQL that makes the roles and gives each what it needs, in one transaction, to be run by the owner.

    `is_river_inserter` lets clients of River's insert as the inserter too.

    Raises: ConfigError for a schema that cannot be.
    """
    roles = Roles() if roles is None else roles
    template = (folder() / "grants" / "grants.sql").read_text("utf-8")
    names = tuple((name, f'"{role}"') for name, role in asdict(roles).items())
    fragments = (
        ("insert_columns", ", ".join((*COLUMNS, *UNIQUE_COLUMNS))),
        ("river_inserter", compile_script(_RIVER_INSERTER, schema, names) if is_river_inserter else ""),
        ("role_literals", ", ".join(f"'{role}'" for role in astuple(roles))),
        ("roles", ", ".join(role for _, role in names)),
        ("schema_said", schema or "of the search path"),
    )
    return compile_script(template, schema, (*names, *fragments))


def _check_role(name: str) -> None:
    if not _ROLE.fullmatch(name) or name in _RESERVED:
        raise ConfigError(
            "role must be letters, digits and any of _.@-, begin with a letter, not be 'none', 'public' or like 'pg_…', "
            f"and be at most {ROLE_BYTES_MAX} bytes long, got {name!r}; choose another name"
        )
