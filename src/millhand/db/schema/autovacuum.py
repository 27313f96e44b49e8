"""
Autovacuum settings for the job table and those of limits, which change more often than an application's other tables.

Optional, and undone by a reset: no migration depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType

from millhand.core.errors import MigrationError
from millhand.db.driver.protocol import Driver
from millhand.db.index import table_get_options, table_reset_options, table_set_options
from millhand.db.query import Query
from millhand.db.schema.statement_text import text_of

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
# Millions of jobs may wait, and each start and end of a job changes rows. The other tables are small, and change seldom.
_OF_WAITING = MappingProxyType(
    {
        **TUNINGS,
        "autovacuum_vacuum_scale_factor": Tuning(
            "0",
            "the threshold is a number of dead rows, not a share of a table in which millions of jobs may wait",
        ),
    }
)
_OF_PARTITIONS = MappingProxyType(
    {
        **_OF_WAITING,
        "autovacuum_vacuum_scale_factor": Tuning(
            "0",
            "the threshold is a number of dead rows, not a share of a table with any number of partitions",
        ),
        "autovacuum_vacuum_threshold": Tuning(
            "1000", "the few rows change with each start and end of a job, and would fill many pages"
        ),
        "autovacuum_analyze_scale_factor": Tuning(
            "0.05", "the planner needs the number of partitions, and it changes quickly"
        ),
    }
)
TABLES: Mapping[str, Mapping[str, Tuning]] = MappingProxyType(
    {
        TABLE: TUNINGS,
        "millhand_limited_job": _OF_WAITING,
        "millhand_limit_arrival": _OF_PARTITIONS,
        "millhand_limit_partition": _OF_PARTITIONS,
    }
)
# PostgreSQL keeps a value as it was written.
_EQUAL_VALUES: Mapping[str, tuple[str, ...]] = MappingProxyType({"off": ("off", "false", "no", "0")})


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one parameter of a table; `before` and `after` are None for the server's default."""

    name: str
    before: str | None
    after: str | None
    table: str = TABLE

    @property
    def reason(self) -> str:
        """Why the parameter has its new value."""
        return TABLES[self.table][self.name].reason


def changes(found: Mapping[str, str], *, is_reset: bool, table: str = TABLE) -> list[Change]:
    """Return the changes that a table with the parameters `found` needs."""
    wanted = {name: None if is_reset else tuning.value for name, tuning in TABLES[table].items()}
    return [
        Change(name, found.get(name), after, table)
        for name, after in wanted.items()
        if not _is_same(found.get(name), after)
    ]


def _is_same(before: str | None, after: str | None) -> bool:
    if before is None or after is None:
        return before is after
    return before in _EQUAL_VALUES.get(after, (after,))


async def plan(driver: Driver, *, is_reset: bool = False) -> list[Change]:
    """
    Return the changes that `apply` would make; none of the tables that later migrations add.

    Raises: MigrationError if there is no job table; as the driver.
    """
    found = {table: await driver.pool.run(table_get_options(table)) for table in TABLES}
    if found[TABLE] is None:
        where = f" in schema {driver.schema!r}" if driver.schema else ""
        raise MigrationError(
            f"table {TABLE} must exist to be tuned, found none{where}; run: millhand migrate up"
        )
    return [
        change
        for table, options in found.items()
        if options is not None
        for change in changes(options, is_reset=is_reset, table=table)
    ]


async def apply(driver: Driver, planned: list[Change]) -> None:
    """
    Make the planned changes, in one statement for each table.

    Concurrency: needs the tables' owner, and waits only for a vacuum or a rebuild of their indexes.
    """
    for query in statements(planned):
        await driver.pool.run(query)


def statements(planned: list[Change]) -> list[Query[None]]:
    """Return the statements of the planned changes, one for each table that has any."""
    return [
        _statement(table, list(of_table))
        for table, of_table in groupby(planned, key=lambda change: change.table)
    ]


def _statement(table: str, planned: list[Change]) -> Query[None]:
    options = {change.name: change.after for change in planned if change.after is not None}
    if options:
        return table_set_options(table, options)
    return table_reset_options(table, [change.name for change in planned])


def sql(planned: list[Change], schema: str) -> str:
    """Return the SQL of the planned changes, without comments."""
    return text_of(statements(planned), schema)
