"""What the archive adds to a client: an archiver where it leads, and a cleaner that waits for the files."""

from __future__ import annotations

from collections.abc import Sequence

from millhand.core.archive import Archive
from millhand.core.clock import Clock
from millhand.core.config import Config
from millhand.core.errors import ConfigError
from millhand.db.driver.protocol import Executor
from millhand.engine.capability import Capability, LateService, LeaderContext
from millhand.engine.maintenance.batch import STATEMENT_SECONDS
from millhand.engine.maintenance.keeper import Keeper
from millhand.engine.service import Service
from millhand.engine.store.job import Kept

# So long after the start of a term, the leader with an archive has written, if the fleet has one.
GRACE_SECONDS = 3_600.0
# Without a row no leader has an archive.
ARCHIVED = Kept("""
finalized_at < coalesce(
    (SELECT progress.archived_at FROM /* schema */millhand_archive_cursor AS progress), 'infinity'
)
""")
# One that has stopped working is waited for as long as its row says.
ARCHIVED_OR_LATE = Kept("""
finalized_at < coalesce(
    (
        SELECT progress.archived_at FROM /* schema */millhand_archive_cursor AS progress
        WHERE progress.worked_at >= now() - progress.max_delay
    ),
    'infinity'
)
""")


class JobArchive(Capability):
    """The archive. Cleaners of all clients wait for it, also of those that have none themselves."""

    def keeper(self, config: Config) -> ArchivedJobs:
        return ArchivedJobs(config.clock)

    def periodic_services(self, leader: LeaderContext) -> Sequence[Service]:
        """Raises: ConfigError if the archive needs DuckDB, which is not installed."""
        archive = leader.config.archive
        if archive is None:
            return []
        import importlib.util  # noqa: PLC0415 - most clients have no archive

        if archive.format == "parquet" and importlib.util.find_spec("duckdb") is None:
            raise ConfigError(
                "archive.format 'parquet' needs duckdb, which is not installed; run: pip install 'millhand[inventory]', "
                "or set format to 'jsonl'"
            )
        return [LateService("JobArchiver", lambda: _archiver(leader, archive))]


class ArchivedJobs(Keeper):
    """
    Keeps each job until it is archived, if the fleet has an archive.

    An archive that cannot be written is waited for as long as its `max_delay` says, and for an hour after the start of a
    term, as after a fleet was stopped for days. While its tables are not there, each pass looks for them: the archiver
    begins as soon as they are.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._grace_until = 0.0
        self._is_there = False

    def begin_term(self) -> None:
        self._grace_until = self._clock.monotonic() + GRACE_SECONDS
        self.look_again()

    def look_again(self) -> None:
        self._is_there = False

    async def kept(self, pool: Executor) -> Kept | None:
        from millhand.archive.store import archive_get_shape  # noqa: PLC0415 - only a client that leads needs it

        if not self._is_there:
            shape = await pool.run(archive_get_shape().within(STATEMENT_SECONDS))
            self._is_there = shape.is_readable
        if not self._is_there:
            return None
        return ARCHIVED if self._clock.monotonic() < self._grace_until else ARCHIVED_OR_LATE


def _archiver(leader: LeaderContext, archive: Archive) -> Service:
    from millhand.archive.archiver import JobArchiver  # noqa: PLC0415 - a client that never leads does not need it

    return JobArchiver(leader.pool, archive=archive, clock=leader.clock, registration=leader.registration)
