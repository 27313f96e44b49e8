"""Rows whose change the database refuses, as for a user's trigger."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from millhand.core.job import JobId
from millhand.db.driver.protocol import Executor


@contextlib.asynccontextmanager
async def refused(pool: Executor, *ids: JobId) -> AsyncIterator[None]:
    """Let the database refuse every change of these jobs."""
    await pool.execute_script(f"""
        CREATE FUNCTION /* schema */refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION 'not this one'; END
        $$;
        CREATE TRIGGER refuse BEFORE UPDATE ON /* schema */river_job
            FOR EACH ROW WHEN (old.id IN ({", ".join(map(str, ids))})) EXECUTE FUNCTION /* schema */refuse();
    """)
    try:
        yield
    finally:
        await pool.execute_script("""
            DROP TRIGGER refuse ON /* schema */river_job;
            DROP FUNCTION /* schema */refuse();
        """)
