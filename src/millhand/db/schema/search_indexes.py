"""
River's two search indexes, which can be dropped and built again.

Every insert and every completion writes them, and only searches by args and metadata read them.

Rule 1: no step is in a transaction or locks the table against reads and writes, so jobs go on.
Rule 2: the steps follow from the catalog alone. What an interrupted call has left is dropped by the next one, whichever
        direction that has.
Rule 3: an index with the name of River's and another definition is refused, and so is one that another session builds.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

from millhand.core.errors import DriverError, MigrationError
from millhand.db.driver.protocol import Driver
from millhand.db.index import SearchIndex, index_create_search, index_drop, index_get_searches
from millhand.db.query import Query
from millhand.db.schema.statement_text import text_of

# A build reads the whole table, and waits for every transaction that is open.
STEP_SECONDS = 7 * 86_400.0
QUERY_CANCELED = "57014"


class Action(enum.StrEnum):
    """What a step does."""

    BUILD = "build"
    DROP = "drop"


class IndexStep(msgspec.Struct, frozen=True, kw_only=True):
    """An index is built or dropped. `num_bytes` is the size of a dropped one; `is_left` says that it was left half done."""

    action: Action
    name: str
    num_bytes: int = 0
    is_left: bool = False


def steps(found: Sequence[SearchIndex], *, is_wanted: bool) -> list[IndexStep]:
    """Return the steps after which the indexes are there, or are not."""
    planned = []
    for one in found:
        planned += [IndexStep(action=Action.DROP, name=name, is_left=True) for name in one.others]
        if one.is_there and not (is_wanted and one.is_valid):
            planned.append(
                IndexStep(
                    action=Action.DROP, name=one.name, num_bytes=one.num_bytes, is_left=not one.is_valid
                )
            )
        if is_wanted and not one.is_valid:
            planned.append(IndexStep(action=Action.BUILD, name=one.name))
    return planned


def refusal(found: Sequence[SearchIndex], planned: Sequence[IndexStep], schema: str) -> str | None:
    """Return why the planned steps must not be taken; None if they may."""
    where = f" in schema {schema!r}" if schema else ""
    if not found:
        return f"table river_job must exist to be tuned, found none{where}; run: millhand migrate up"
    for one in found:
        if one.is_there and not one.is_rivers:
            return (
                f"{one.name} must be River's index, gin ({one.column}) of river_job, got another definition{where}; "
                "rename it or drop it"
            )
        if planned and one.used_by is not None:
            return (
                f"{one.name} must not be in use, got session {one.used_by}, which builds or drops it; wait for its end, or "
                f"run: SELECT pg_terminate_backend({one.used_by})"
            )
    first = found[0]
    if planned and not first.is_owner:
        return (
            f"role {first.role!r} must own table river_job to change its indexes, got owner {first.owner!r}; "
            "run it as the owner"
        )
    if any(one.action is Action.BUILD for one in planned) and not first.may_create:
        return f"role {first.role!r} must have CREATE on the schema of river_job to build indexes, got no right; grant it"
    return None


def missing(found: Sequence[SearchIndex]) -> list[str]:
    """Return the names of the indexes that no search can read."""
    return [one.name for one in found if not one.is_valid]


async def plan(driver: Driver, *, is_wanted: bool) -> list[IndexStep]:
    """Return the steps that remain. Raises: MigrationError if they must not be taken; as the driver."""
    found = await driver.pool.run(index_get_searches())
    planned = steps(found, is_wanted=is_wanted)
    if (reason := refusal(found, planned, driver.schema)) is not None:
        raise MigrationError(reason)
    return planned


async def apply(driver: Driver, step: IndexStep) -> None:
    """
    Take one step, which may take minutes.

    Raises: MigrationError if the server refuses or ends it; as the driver.
    Concurrency: not in a transaction. It waits for transactions that are open, and nothing waits for it.
    """
    try:
        await driver.pool.run(_query(step).within(STEP_SECONDS))
    except DriverError as error:
        if error.sqlstate is None:
            raise
        remedy = "run the command again: it drops what is left, which every insert writes until then"
        if error.sqlstate == QUERY_CANCELED:
            remedy = f"set statement_timeout = 0 for the role, and {remedy}"
        raise MigrationError(f"{step.name} must {step.action}, got {error.reason}; {remedy}") from error


def sql(planned: Sequence[IndexStep], schema: str) -> str:
    """Return the SQL of the steps, without comments. Each statement must run outside a transaction."""
    return text_of(map(_query, planned), schema)


def _query(step: IndexStep) -> Query[None]:
    return index_create_search(step.name) if step.action is Action.BUILD else index_drop(step.name)
