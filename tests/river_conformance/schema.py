"""Methods for the schema and its leader: migrate, empty all tables, read the leader."""

from __future__ import annotations

from msgspec import UNSET

from millhand.db.schema.migrator import MigrationStep, Migrator
from millhand.engine.store.leader import leader_get
from river_conformance import params as p
from river_conformance.jobs import tx_of
from river_conformance.normalized import Normalized, utc_text
from river_conformance.session import Session

EMPTY = """
DO $body$
DECLARE
    names text;
BEGIN
    SELECT string_agg(format('%I.%I', schemaname, tablename), ', ') INTO names
    FROM pg_tables
    WHERE schemaname = /* schema_name */
    AND (tablename LIKE 'river\\_%' OR tablename LIKE 'millhand\\_%')
    AND tablename <> 'river_migration';
    EXECUTE 'TRUNCATE ' || names;
END
$body$
"""


async def migrate(session: Session, params: p.MigrateParams) -> Normalized:
    """Migrate River's line, and return the versions of the steps and those that are applied then; make the schema."""
    await session.forget_client(params.schema)
    driver = session.driver(params.schema)
    await driver.open()
    try:
        if params.schema:
            await driver.pool.execute_script(f'CREATE SCHEMA IF NOT EXISTS "{driver.schema}"')
        migrator = Migrator(driver)
        steps = await _steps(migrator, params)
        existing = [one.version for one in await migrator.list() if one.is_applied]
        return {
            "applied": [step.version for step in steps],
            "existing": existing,
            "valid": not await migrator.validate(),
        }
    finally:
        await driver.close()


async def _steps(migrator: Migrator, params: p.MigrateParams) -> tuple[MigrationStep, ...]:
    max_steps = None if params.max_steps is UNSET else params.max_steps
    target: int | None = params.target_version or None
    if params.direction == "up":
        return await migrator.up(target=target, max_steps=max_steps, dry_run=params.dry_run)
    target = 0 if target == -1 else target  # River's -1: undo all
    return await migrator.down(target=target, max_steps=max_steps, dry_run=params.dry_run)


async def reset(session: Session, params: p.SchemaParams) -> Normalized:
    """Delete the rows of all tables but the record of migrations."""
    client = await session.client(params.schema)
    await client.driver.pool.execute_script(EMPTY)
    return {}


async def leader(session: Session, params: p.Params) -> Normalized:
    """Return the leader and the start of its term, or nulls."""
    row = await (await session.client()).driver.pool.run(leader_get())
    if row is None:
        return {"elected_at": None, "leader_id": None}
    return {"elected_at": utc_text(row.elected_at), "leader_id": row.leader_id}


async def request_resign(session: Session, params: p.ResignParams) -> Normalized:
    """Ask the leader to resign."""
    tx = tx_of(session, params)
    await (await session.client()).request_resign(tx=tx)
    return {}
