"""
Autovacuum settings for the job table, which changes more often than an application's other tables.

Optional, and undone by a reset: no migration depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from millhand.driver.protocol import Driver
from millhand.errors import MigrationError
from millhand.sql import compile_statement
from millhand.store.index import table_get_options, table_reset_options, table_set_options
from millhand.store.query import Query

# Only this one: the others are small, and the server's defaults keep them small.
TABLE = "river_job"


@dataclass(frozen=True, slots=True)
class Tuning:
    """The value of a storage parameter, and the reason."""

    value: str
    reason: str


TUNINGS: Mapping[str, Tuning] = MappingProxyType(
    {
        "autovacuum_vacuum_scale_factor": Tuning(
            "0",
            "the threshold is a number of dead rows, not a share of a table that may keep millions of finished jobs",
        ),
        "autovacuum_vacuum_threshold": Tuning(
            "20000",
            "a fetch takes about a millisecond longer with so many dead rows, which ten thousand jobs leave",
        ),
        "autovacuum_vacuum_cost_delay": Tuning(
            "0", "a vacuum with pauses is too slow for thousands of jobs a second"
        ),
        "autovacuum_analyze_scale_factor": Tuning(
            "0.05",
            "the planner needs the number of jobs in each state for lists and counts, and it changes quickly",
        ),
        "vacuum_truncate": Tuning(
            "off", "returning pages to the file system locks the table, and the pages are needed again"
        ),
    }
)
# PostgreSQL keeps a value as it was written.
_EQUAL_VALUES: Mapping[str, tuple[str, ...]] = MappingProxyType({"off": ("off", "false", "no", "0")})


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one parameter; `before` and `after` are None for the server's default."""

    name: str
    before: str | None
    after: str | None


def changes(found: Mapping[str, str], *, is_reset: bool) -> list[Change]:
    """Return the changes that a table with the parameters `found` needs."""
    wanted = {name: None if is_reset else tuning.value for name, tuning in TUNINGS.items()}
    return [
        Change(name, found.get(name), after)
        for name, after in wanted.items()
        if not _is_same(found.get(name), after)
    ]


def _is_same(before: str | None, after: str | None) -> bool:
    if before is None or after is None:
        return before is after
    return before in _EQUAL_VALUES.get(after, (after,))


async def plan(driver: Driver, *, is_reset: bool = False) -> list[Change]:
    """
    Return the changes that `apply` would make.

    Raises: MigrationError if there is no job table; as the driver.
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
    Make the planned changes, in one statement.

    Concurrency: needs the table's owner, and waits only for a vacuum or a rebuild of its indexes.
    """
    query = statement(planned)
    if query is not None:
        await driver.pool.run(query)


def statement(planned: list[Change]) -> Query[None] | None:
    """Return the statement of the planned changes; None if there are none."""
    options = {change.name: change.after for change in planned if change.after is not None}
    if options:
        return table_set_options(TABLE, options)
    return table_reset_options(TABLE, [change.name for change in planned]) if planned else None


def sql(planned: list[Change], schema: str) -> str:
    """Return the SQL of the planned changes, without comments."""
    query = statement(planned)
    if query is None:
        return ""
    text = compile_statement(query.name, schema, fragments=query.fragments).sql
    return "\n".join(line for line in text.splitlines() if not line.startswith("--")) + ";"
