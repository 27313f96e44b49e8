"""
How autovacuum is to treat the table of jobs, which changes as no other table of an application does.

Opt-in, and taken back by `reset`: nothing in River's migrations or ours depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from millhand.driver.protocol import Driver
from millhand.errors import MigrationError
from millhand.sql import compile_statement
from millhand.store.autovacuum import table_get_options, table_reset_options, table_set_options
from millhand.store.query import Query

# Only this one: the others are small, and what the server does by default keeps them so.
TABLE = "river_job"


@dataclass(frozen=True, slots=True)
class Tuning:
    """What a storage parameter is to be, and why."""

    value: str
    reason: str


TUNINGS: Mapping[str, Tuning] = MappingProxyType(
    {
        "autovacuum_vacuum_scale_factor": Tuning(
            "0",
            "dead rows are counted, not measured by a table that may keep millions of finished jobs",
        ),
        "autovacuum_vacuum_threshold": Tuning(
            "20000",
            "so many dead rows, of ten thousand jobs, cost a fetch from the start about a millisecond",
        ),
        "autovacuum_vacuum_cost_delay": Tuning(
            "0", "a vacuum that pauses does not keep up with thousands of jobs a second"
        ),
        "autovacuum_analyze_scale_factor": Tuning(
            "0.05", "lists and counts are planned by how many jobs are in which state, which changes quickly"
        ),
        "vacuum_truncate": Tuning(
            "off", "giving pages back to the file system locks out everybody, for pages that are needed again"
        ),
    }
)
# As others may have written them; PostgreSQL keeps that.
_SPELLINGS: Mapping[str, tuple[str, ...]] = MappingProxyType({"off": ("off", "false", "no", "0")})


@dataclass(frozen=True, slots=True)
class Change:
    """One parameter that is to be changed; `before` and `after` are None where the server's own value holds."""

    name: str
    before: str | None
    after: str | None


def changes(found: Mapping[str, str], *, is_reset: bool) -> list[Change]:
    """Return what is to be done with a table that has the parameters `found`; nothing that is so already."""
    wanted = {name: None if is_reset else tuning.value for name, tuning in TUNINGS.items()}
    return [
        Change(name, found.get(name), after)
        for name, after in wanted.items()
        if not _is_same(found.get(name), after)
    ]


def _is_same(before: str | None, after: str | None) -> bool:
    if before is None or after is None:
        return before is after
    return before in _SPELLINGS.get(after, (after,))


async def plan(driver: Driver, *, is_reset: bool = False) -> list[Change]:
    """
    Return what would be done.

    Raises: MigrationError if there is no table of jobs; as the driver.
    """
    found = await driver.pool.run(table_get_options(TABLE))
    if found is None:
        where = f" in schema {driver.schema!r}" if driver.schema else ""
        raise MigrationError(
            f"table {TABLE} must exist to be tuned, found none{where}; run: millhand migrate up"
        )
    return changes(found, is_reset=is_reset)


async def apply(driver: Driver, planned: list[Change]) -> None:
    """
    Change what was planned, in one statement.

    Concurrency: needs the table's owner, and waits for a vacuum or a rebuild of its indexes, and for nobody else.
    """
    query = statement(planned)
    if query is not None:
        await driver.pool.run(query)


def statement(planned: list[Change]) -> Query[None] | None:
    """Return the statement that does what was planned; None for nothing."""
    options = {change.name: change.after for change in planned if change.after is not None}
    if options:
        return table_set_options(TABLE, options)
    return table_reset_options(TABLE, [change.name for change in planned]) if planned else None


def sql(planned: list[Change], schema: str) -> str:
    """Return the SQL of what was planned, without the comments of the statement."""
    query = statement(planned)
    if query is None:
        return ""
    text = compile_statement(query.name, schema, fragments=query.fragments).sql
    return "\n".join(line for line in text.splitlines() if not line.startswith("--")) + ";"
