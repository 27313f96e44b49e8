"""
Migrate a schema.

Rule 1: a line is a numbered series of versions: `main` is River's, version for version; `millhand` is Millhand's own.
Rule 2: a version and its record are one transaction, and each version has its own. Version 6 uses an enum value that
        version 4 adds, which PostgreSQL allows only after a commit.
Rule 3: before each version a migrator takes the schema's advisory lock, and then reads again which versions are applied.
        River's migrator takes no lock: if both run at once a version may fail, and is rolled back.
Rule 4: a version waits only briefly for each lock, and is tried again: see `lock_limit`.
Rule 5: recorded versions that this release does not have are ignored; a newer release applied them.

Source: River v0.51.2, rivermigrate/river_migrate.go.
"""

from __future__ import annotations

import enum
import itertools
import re
import time
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from functools import cache

import msgspec

from millhand.core.errors import (
    ConfigError,
    ConnectionLost,
    DriverError,
    MigrationError,
    PoolClosed,
    SchemaError,
)
from millhand.core.log.logger import logger_of
from millhand.core.sqlstate import INSUFFICIENT_PRIVILEGE, LOCK_NOT_AVAILABLE
from millhand.db.driver.protocol import Driver, Executor
from millhand.db.migration import (
    MigrationShape,
    migration_delete,
    migration_get_conflicting_names,
    migration_get_other_lines,
    migration_get_shape,
    migration_get_versions,
    migration_insert,
    migration_lock,
)
from millhand.db.schema.lock_limit import LockLimit, limited, retried
from millhand.db.schema.waiting_jobs import (
    FLOWS_VERSION,
    JOBS_WAIT,
    LIMITS_VERSION,
    REMEDIES,
    require_no_waiting_flows,
    require_no_waiting_jobs,
)
from millhand.db.sql import LINE_MILLHAND, checked_schema, compile_script, migration_files, sql_directory

logger = logger_of(__name__)

LINE_MAIN = "main"
# Tables and types of the line, which must not exist before its first version.
MAIN_NAMES = ("river_job", "river_job_state", "river_leader", "river_notification", "river_queue")
# The version of line main that adds lines to the migration table.
LINE_VERSION = 5
# Another migrator may be building an index on a large table.
LOCK_SECONDS = 3600.0
FAILED_TRANSACTION, UNDEFINED_COLUMN, UNDEFINED_TABLE = "25P02", "42703", "42P01"
DEFAULT_LOCK_LIMIT = LockLimit()

_FILE = re.compile(r"(\d+)_(\w+)\.(up|down)\.sql")


class Direction(enum.StrEnum):
    """The direction of a step."""

    UP = "up"
    DOWN = "down"


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a line. `up` and `down` are its SQL with `/* schema */` where the schema belongs."""

    line: str
    version: int
    name: str
    up: str
    down: str


class MigrationStep(msgspec.Struct, frozen=True, kw_only=True):
    """A version that was applied or undone, or would be in a dry run; `sql` is as it was sent."""

    line: str
    version: int
    name: str
    direction: Direction
    sql: str
    duration: timedelta = timedelta(0)


class MigrationStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A version and whether it is applied; an applied version that this release does not have has no name."""

    version: int
    name: str
    is_applied: bool

    @property
    def is_known(self) -> bool:
        """Whether this release has the version."""
        return bool(self.name)


class Migrator:
    """
    Migrates one line of one schema.

    `database` is an open driver, whose schema is migrated, or an executor. `on_step` is called with each step that was made,
    after its commit: a later one may fail.
    Raises: ConfigError for an unknown line or target, or a `schema` that is not the driver's.
    Concurrency: any number may run at once; only one of them makes each step.
    """

    def __init__(
        self,
        database: Driver | Executor,
        line: str = LINE_MAIN,
        schema: str = "",
        *,
        lock_limit: LockLimit = DEFAULT_LOCK_LIMIT,
        on_step: Callable[[MigrationStep], None] = lambda _: None,
    ) -> None:
        self.line = checked_line(line)
        self.schema = checked_schema(schema)
        if isinstance(database, Driver):
            if self.schema not in ("", database.schema):
                raise ConfigError(f"schema must be the driver's {database.schema!r}, got {self.schema!r}")
            self.schema = database.schema
            database = database.pool
        self._executor = database
        self._known = migrations(line)
        self._lock_limit = lock_limit
        self._on_step = on_step

    async def up(
        self, *, target: int | None = None, max_steps: int | None = None, dry_run: bool = False
    ) -> tuple[MigrationStep, ...]:
        """
        Apply the missing versions up to and including `target`, and return the steps.

        With an applied target nothing is done. A dry run returns the steps without making them.
        Raises: MigrationError.
        """
        self._check_target(target)
        _check_max_steps(max_steps)
        applied = await self._get_applied(self._executor)
        pending = [one for one in self._known if one.version not in applied]
        if target is not None:
            pending = [] if target in applied else [one for one in pending if one.version <= target]
        if self.line == LINE_MAIN and not applied:
            await self._require_free_names()
        return await self._migrate(pending[:max_steps], Direction.UP, dry_run=dry_run)

    async def down(
        self, *, target: int | None = None, max_steps: int | None = None, dry_run: bool = False
    ) -> tuple[MigrationStep, ...]:
        """
        Undo the applied versions above `target`; 0 undoes all, and no target means one step.

        Raises: MigrationError, also for a target that is not applied, and while jobs wait for limits that a step drops.
        """
        self._check_target(target or None)
        _check_max_steps(max_steps)
        applied = await self._get_applied(self._executor)
        if target and target not in applied:
            raise MigrationError(
                f"target of a migration down must be applied, got version {target} of line {self.line!r}"
            )
        if max_steps is None and target is None:
            max_steps = 1
        above = [
            one for one in reversed(self._known) if one.version in applied and one.version > (target or 0)
        ]
        planned = above[:max_steps]
        if self.line == LINE_MAIN and any(one.version == LINE_VERSION for one in planned):
            await self._require_no_other_lines()
        versions = {one.version for one in planned} if self.line == LINE_MILLHAND else frozenset()
        if FLOWS_VERSION in versions:
            await require_no_waiting_flows(self._executor, self.schema)
        if LIMITS_VERSION in versions:
            await require_no_waiting_jobs(self._executor, self.schema)
        return await self._migrate(planned, Direction.DOWN, dry_run=dry_run)

    async def list(self) -> tuple[MigrationStatus, ...]:
        """Return all versions of the line that are known or applied, in order."""
        names = {one.version: one.name for one in self._known}
        applied = await self._get_applied(self._executor)
        return tuple(
            MigrationStatus(version=version, name=names.get(version, ""), is_applied=version in applied)
            for version in sorted(names.keys() | applied)
        )

    async def validate(self, *, target: int | None = None) -> tuple[int, ...]:
        """Return the missing versions, up to `target`."""
        self._check_target(target)
        applied = await self._get_applied(self._executor)
        return tuple(
            one.version
            for one in self._known
            if one.version not in applied and (target is None or one.version <= target)
        )

    def _check_target(self, target: int | None) -> None:
        versions = [one.version for one in self._known]
        if target is not None and target not in versions:
            raise ConfigError(
                f"target must be a version of line {self.line!r}, {versions[0]} to {versions[-1]}, got {target!r}"
            )

    async def _get_applied(self, executor: Executor) -> frozenset[int]:
        shape, applied = await _get_versions(executor, self.line)
        if not shape.has_schema:
            raise MigrationError(_missing_schema(self.schema or shape.schema_name))
        if self.line != LINE_MAIN and not shape.has_line:
            raise MigrationError(
                f"line {self.line!r} needs line {LINE_MAIN!r} at version {LINE_VERSION} or later; "
                f"run: millhand migrate up --line {LINE_MAIN}{_option(self.schema)}"
            )
        return applied

    async def _require_free_names(self) -> None:
        """Check before the first version that no table or type has one of River's names."""
        conflicting = await self._executor.run(migration_get_conflicting_names(MAIN_NAMES))
        # Another migrator may have made them meanwhile.
        if conflicting and not await self._get_applied(self._executor):
            raise MigrationError(
                f"schema must have no tables or types with River's names before the first migration, "
                f"got {conflicting[0]!r}; rename it, or choose another schema"
            )

    async def _require_no_other_lines(self) -> None:
        """Check before the table of migrations loses its lines that no other line is recorded."""
        others = await self._executor.run(migration_get_other_lines(self.line))
        if not others:
            return
        command = f"millhand migrate down --line {others[0]} --target-version 0{_option(self.schema)}"
        remedy = f"run: {command}" if others[0] in lines() else "undo it with the program that applied it"
        raise MigrationError(
            f"other lines must be undone before line {self.line!r} goes below version {LINE_VERSION}, "
            f"got {others[0]!r}; {remedy}"
        )

    async def _migrate(
        self, planned: Sequence[Migration], direction: Direction, *, dry_run: bool
    ) -> tuple[MigrationStep, ...]:
        if dry_run:
            return tuple(_step(one, direction, self.schema) for one in planned)
        steps: list[MigrationStep] = []
        for one in planned:
            if (step := await self._make_step(one, direction)) is not None:
                self._on_step(step)
                steps.append(step)
        return tuple(steps)

    async def _make_step(self, migration: Migration, direction: Direction) -> MigrationStep | None:
        """Make one step; return None if another migrator has made it meanwhile."""
        step = _step(migration, direction, self.schema)
        started_at = time.monotonic()

        async def attempt() -> bool:
            async with self._executor.begin() as tx:
                await tx.run(migration_lock().within(LOCK_SECONDS))
                is_applied = migration.version in await self._get_applied(tx)
                if is_applied is (direction is Direction.UP):
                    return False
                async with limited(tx, self._lock_limit):
                    await tx.execute_script(step.sql)
                    await _record(tx, migration, direction)
            return True

        try:
            is_made = await retried(self._executor, self._lock_limit, step.line, step.version, attempt)
        except (ConnectionLost, PoolClosed):
            raise
        except DriverError as error:
            raise _failure(step, error, self._lock_limit) from error
        duration = timedelta(seconds=time.monotonic() - started_at)
        return msgspec.structs.replace(step, duration=duration) if is_made else None


async def require_schema(executor: Executor, schema: str = "", line: str = LINE_MAIN) -> None:
    """
    Check that all versions of `line` that this release has are applied; newer ones are only logged.

    Raises: SchemaError.
    """
    known = {one.version for one in migrations(checked_line(line))}
    shape, applied = await _get_versions(executor, line)
    name, expected, found = schema or shape.schema_name or "", max(known), max(applied, default=None)
    if missing := sorted(known - applied):
        raise SchemaError(name, expected=expected, found=found, line=line, missing=missing)
    if found is not None and found > expected:
        fields = {"schema": name, "line": line, "found": found, "expected": expected}
        logger.info("schema is newer than this release", extra=fields)


async def migrate_lines(
    driver: Driver, line: str | None = None, *, target: int | None = None, dry_run: bool = False
) -> tuple[MigrationStep, ...]:
    """Apply the missing versions of one line, or of all, and return the steps. Raises: as `Migrator.up`."""
    names = lines() if line is None else (line,)  # main sorts before millhand, which needs it
    migrators = [Migrator(driver, name) for name in names]
    steps = [await migrator.up(target=target, dry_run=dry_run) for migrator in migrators]
    return tuple(itertools.chain.from_iterable(steps))


@cache
def lines() -> tuple[str, ...]:
    """Return the names of all lines."""
    root = sql_directory() / "migration"
    return tuple(sorted(directory.name for directory in root.iterdir() if directory.is_dir()))


@cache
def migrations(line: str = LINE_MAIN) -> tuple[Migration, ...]:
    """Return all versions of a line, in order."""
    texts: dict[tuple[int, str], dict[str, str]] = {}
    for file in migration_files(checked_line(line)):
        if match := _FILE.fullmatch(file.name):
            key = int(match[1]), match[2].replace("_", " ")
            texts.setdefault(key, {})[match[3]] = file.read_text("utf-8")
    return tuple(
        Migration(line=line, version=version, name=name, up=text["up"], down=text["down"])
        for (version, name), text in sorted(texts.items())
    )


def migration_sql(
    line: str = LINE_MAIN,
    *,
    versions: Collection[int] | None = None,
    direction: Direction = Direction.UP,
    schema: str = "",
) -> str:
    """
    Return the SQL of `versions`, or of all, for a manual migration: one transaction for each version, with its record.

    Raises: ConfigError for an unknown version.
    """
    known = {one.version: one for one in migrations(line)}
    chosen = sorted(known if versions is None else versions, reverse=direction is Direction.DOWN)
    for version in chosen:
        if version not in known:
            raise ConfigError(f"version must be one of line {line!r}, 1 to {max(known)}, got {version!r}")
    return "\n".join(_script(known[version], direction, schema) for version in chosen)


def checked_line(line: str) -> str:
    """Return `line` if it is a known line. Raises: ConfigError."""
    if line not in lines():
        raise ConfigError(f"migration line must be one of {', '.join(map(repr, lines()))}, got {line!r}")
    return line


async def _get_versions(executor: Executor, line: str) -> tuple[MigrationShape, frozenset[int]]:
    """Return the shape of the migration table, and the applied versions of a line: none if the table has no such line."""
    shape = await executor.run(migration_get_shape())
    while shape.has_table and (shape.has_line or line == LINE_MAIN):
        try:
            return shape, await executor.run(migration_get_versions(line, has_line=shape.has_line))
        except DriverError as error:
            if error.sqlstate not in (UNDEFINED_COLUMN, UNDEFINED_TABLE):
                raise
            before, shape = shape, await _get_shape_again(executor, shape)
            if shape == before and error.sqlstate == UNDEFINED_TABLE:
                raise
            if shape == before:
                raise MigrationError(
                    f"table 'river_migration' must be River's, got one without a column 'version' in schema "
                    f"{shape.schema_name!r}; choose another schema"
                ) from error
    return shape, frozenset()


async def _get_shape_again(executor: Executor, before: MigrationShape) -> MigrationShape:
    """Return the shape after a statement failed: another migrator may have changed it. A failed transaction cannot ask."""
    try:
        return await executor.run(migration_get_shape())
    except DriverError as error:
        if error.sqlstate != FAILED_TRANSACTION:
            raise
        return before


async def _record(tx: Executor, migration: Migration, direction: Direction) -> None:
    line, version = migration.line, migration.version
    if direction is Direction.UP:
        await tx.run(migration_insert(line, version, has_line=_has_line_after(migration, direction)))
    elif not _drops_record(migration):
        await tx.run(migration_delete(line, version, has_line=_has_line_after(migration, direction)))


def _has_line_after(migration: Migration, direction: Direction) -> bool:
    """Return whether the migration table has lines after the step."""
    first = LINE_VERSION if direction is Direction.UP else LINE_VERSION + 1
    return migration.line != LINE_MAIN or migration.version >= first


def _drops_record(migration: Migration) -> bool:
    """Return whether undoing a version drops the migration table itself."""
    return migration.line == LINE_MAIN and migration.version == 1


def _step(migration: Migration, direction: Direction, schema: str) -> MigrationStep:
    text = migration.up if direction is Direction.UP else migration.down
    return MigrationStep(
        line=migration.line,
        version=migration.version,
        name=migration.name,
        direction=direction,
        sql=compile_script(text, schema),
    )


def _script(migration: Migration, direction: Direction, schema: str) -> str:
    step = _step(migration, direction, schema)
    title = f"-- line {step.line}, version {step.version:03} {step.name}, {direction}"
    record = compile_script(_record_sql(migration, direction), schema)
    return f"{title}\nBEGIN;\n\n{step.sql.strip()}\n{record}\nCOMMIT;\n"


def _record_sql(migration: Migration, direction: Direction) -> str:
    line, version = migration.line, migration.version
    has_line = _has_line_after(migration, direction)
    if direction is Direction.UP:
        columns, values = ("line, version", f"'{line}', {version}") if has_line else ("version", str(version))
        return f"\nINSERT INTO /* schema */river_migration ({columns}) VALUES ({values});\n"
    if _drops_record(migration):
        return ""
    condition = f"line = '{line}' AND version = {version}" if has_line else f"version = {version}"
    return f"\nDELETE FROM /* schema */river_migration WHERE {condition};\n"


def _failure(step: MigrationStep, error: DriverError, lock_limit: LockLimit) -> MigrationError:
    remedy = "check for other tables of these names and for another running migrator, and run it again"
    if error.sqlstate == LOCK_NOT_AVAILABLE and lock_limit.timeout is not None:
        remedy = (
            f"it waited {lock_limit.timeout.total_seconds():g} s in each of {lock_limit.tries} tries; end the transactions "
            "that are open for long, or give it more with --lock-timeout and --lock-tries, and run it again"
        )
    if error.sqlstate == INSUFFICIENT_PRIVILEGE:
        remedy = "run it as the owner of the tables, with CREATE on their schema"
    if error.sqlstate == JOBS_WAIT:
        remedy = REMEDIES[step.version]
    return MigrationError(
        f"version {step.version} ({step.name}) of line {step.line!r} must migrate {step.direction}, got {error.reason}; "
        f"it was rolled back; {remedy}"
    )


def _missing_schema(schema: str | None) -> str:
    if schema:
        return f'schema must exist before it is migrated, found none named {schema!r}; run: CREATE SCHEMA "{schema}"'
    return "search path must name an existing schema, found none; set it, or set the schema"


def _option(schema: str) -> str:
    return f" --schema {schema}" if schema else ""


def _check_max_steps(max_steps: int | None) -> None:
    if max_steps is not None and max_steps < 0:
        raise MigrationError(f"max_steps must not be negative, got {max_steps!r}")
