"""pg-boss in Node, whose handler gets a batch: it succeeds or fails as a whole."""

from __future__ import annotations

import harness
import system_program
from on_node import OnNode


class PgBoss(OnNode):
    """One queue, with the options of `work` in the settings; `notify` also turns its listener on."""

    name = "pg_boss"

    @property
    def tables(self) -> str:
        return f"pg_boss_{'notify' if harness.settings().get('notify') else 'poll'}"

    async def count_left(self) -> int:
        # Two questions that an index answers, also beside a million other rows.
        return await self.number(
            "SELECT (EXISTS (SELECT FROM pgboss.job WHERE name = 'noop' AND state = 'active') OR EXISTS (SELECT "
            "FROM pgboss.job WHERE name = 'noop' AND priority = 0 AND state < 'active' AND NOT blocked))::int"
        )

    async def audit(self, num_jobs: int) -> None:
        found = await self.number(
            "SELECT count(*) FROM pgboss.job WHERE state = 'completed' AND retry_count = 0 AND priority = 0"
        )
        if found != num_jobs:
            raise harness.Failed(f"each of {num_jobs:,} jobs must be completed once, got {found:,}")

    def history_sql(self, num_rows: int) -> str:
        return self._rows_sql(num_rows, "completed", "now()", 0)

    def backlog_sql(self, num_rows: int) -> str:
        return self._rows_sql(num_rows, "created", "NULL", -1)

    def _rows_sql(self, num_rows: int, state: str, completed_on: str, priority: int) -> str:
        return (
            "INSERT INTO pgboss.job (name, data, state, completed_on, priority, policy) "
            f"SELECT 'noop', jsonb_build_object('n', {harness.NUM_SLOTS - 1}), '{state}', {completed_on}, "
            f"{priority}, 'standard' FROM generate_series(1, {num_rows})"
        )


if __name__ == "__main__":
    system_program.main(PgBoss())
