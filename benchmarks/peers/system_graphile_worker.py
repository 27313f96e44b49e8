"""graphile-worker in Node, which deletes each job that succeeds."""

from __future__ import annotations

import harness
import system_program
from on_node import OnNode


class GraphileWorker(OnNode):
    """Its worker pool, with the local queue and the batches of the settings; jobs write no log line."""

    name = "graphile_worker"

    @property
    def keeps_rows(self) -> bool:
        return False

    async def open(self) -> None:
        await super().open()
        # Jobs of a backlog are older.
        self._last = await self.number("SELECT coalesce(max(id), 0) FROM graphile_worker._private_jobs")

    async def count_left(self) -> int:
        return await self.number(
            "SELECT count(*) FROM "
            f"(SELECT FROM graphile_worker._private_jobs WHERE id > {self._last} ORDER BY id LIMIT 1)"
        )

    async def audit(self, num_jobs: int) -> None:
        # A job that failed keeps its row until its next attempt.
        if (found := await self.count_left()) != num_jobs:
            raise harness.Failed(
                f"{num_jobs:,} rows must be left after all jobs have succeeded, got {found:,}"
            )

    def backlog_sql(self, num_rows: int) -> str:
        return (
            "INSERT INTO graphile_worker._private_tasks (identifier) VALUES ('noop') ON CONFLICT DO NOTHING;"
            "INSERT INTO graphile_worker._private_jobs (task_id, payload, priority) "
            f"SELECT id, json_build_object('n', {harness.NUM_SLOTS - 1}), 1 "
            f"FROM graphile_worker._private_tasks, generate_series(1, {num_rows}) WHERE identifier = 'noop'"
        )


if __name__ == "__main__":
    system_program.main(GraphileWorker())
