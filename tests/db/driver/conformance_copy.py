"""Conformance tests: COPY."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator

import msgspec
import pytest
from conformance_values import Connected, batches, num_jobs, params, plain, table, wait_for

from millhand.core.errors import ConnectionLost, DriverError, OperationTimeout
from millhand.core.insert_opts import InsertParams
from millhand.db.driver.protocol import Driver
from millhand.db.query import CopyOut
from millhand.engine.store.job_copy import job_copy
from millhand.engine.store.job_insert import job_insert_many
from millhand.engine.store.job_list import JobListParams, job_list


class CopyConformance:
    async def test_copy_writes_the_rows_of_an_insert(self, database: Driver, connected: Connected) -> None:
        """Copied rows, on the pool or in a transaction, equal those of an insert."""
        rows = [
            params(),
            params(kind="a\tb\\N\r\n", encoded_args='{"b":"\\\\ \\" é"}', tags=("null", 'a"\\b')),
        ]
        inserted = await database.pool.run(job_insert_many(rows))

        num_copied = await database.pool.copy(job_copy(batches(rows[:1], rows[1:])))
        async with connected() as tx:
            copied = await database.executor(tx).copy(job_copy(batches(rows)))
            in_tx = await database.executor(tx).run(job_list(JobListParams()))

        jobs = await database.pool.run(job_list(JobListParams()))
        assert (num_copied, copied, len(jobs), len(in_tx)) == (2, 2, 4, 6)
        assert [plain(job) for job in jobs] == [plain(one.job) for one in inserted] * 2
        assert jobs[2].created_at == jobs[2].scheduled_at == jobs[3].created_at > jobs[0].created_at

    async def test_copy_raises_what_its_source_raises(self, database: Driver, connected: Connected) -> None:
        """An OSError of the source is not a database error, and nothing stays copied."""
        error = OSError("the file is gone")

        async def broken() -> AsyncIterator[list[InsertParams]]:
            yield [params()]
            raise error

        with pytest.raises(OSError, match="gone") as raised:
            await database.pool.copy(job_copy(broken()))
        async with connected() as tx:
            with pytest.raises(OSError, match="gone"):
                await database.executor(tx).copy(job_copy(broken()))
            with pytest.raises(DriverError) as aborted:
                await num_jobs(database.executor(tx))

        assert (raised.value, aborted.value.sqlstate) == (error, "25P02")
        assert await asyncio.gather(*(num_jobs(database.pool) for _ in range(20))) == [0] * 20

    async def test_copy_with_an_invalid_row_copies_nothing(self, database: Driver) -> None:
        """One invalid row fails the whole copy, and the pool still works."""
        with pytest.raises(DriverError) as refused:
            await database.pool.copy(job_copy(batches([params()], [params(priority=7)], [params()] * 1000)))

        assert (refused.value.operation, refused.value.constraint) == ("job_copy", "priority_in_range")
        assert await num_jobs(database.pool) == 0

    async def test_copy_waits_for_its_source_but_not_for_the_server(self, database: Driver) -> None:
        """The deadline is for the server: a slow source does not exceed it, a held lock does."""

        async def slow() -> AsyncIterator[list[InsertParams]]:
            yield [params()]
            await database.pool.fetch("SELECT pg_sleep(1.2)")
            yield [params()]

        copied = await database.pool.copy(msgspec.structs.replace(job_copy(slow()), timeout_seconds=1.0))
        async with database.pool.begin() as other:
            await other.fetch(f"LOCK TABLE {table(database)}")
            with pytest.raises(
                OperationTimeout, match=r"^job_copy must answer within 0\.1 s, got no answer$"
            ):
                await database.pool.copy(
                    msgspec.structs.replace(job_copy(batches([params()])), timeout_seconds=0.1)
                )

        assert (copied, await num_jobs(database.pool)) == (2, 2)

    async def test_copy_whose_connection_is_lost_is_an_error(self, database: Driver) -> None:
        """If the server closes the connection during a copy, the connection is lost, whatever rows are left."""
        asked = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE state = 'active' AND query LIKE 'COPY \"' || $1 || '\"%'"
        )

        async def is_killed() -> bool:
            return bool(await database.pool.fetch(asked, [database.schema]))

        async def mortal() -> AsyncIterator[list[InsertParams]]:
            yield [params()]
            await wait_for(is_killed)
            for _ in range(100):
                yield [params()] * 1000

        with pytest.raises(ConnectionLost):
            await database.pool.copy(job_copy(mortal()))

        assert await num_jobs(database.pool) == 0

    async def test_copy_out_writes_the_rows_of_a_select(self, database: Driver, connected: Connected) -> None:
        """A SELECT arrives as CSV in pieces, on the pool or in a transaction, with unusual texts as they are."""
        text = 'a"b,\r\n\\é'
        select = (
            "SELECT number, 'a\"b,' || chr(13) || chr(10) || chr(92) || 'é' || number "
            "FROM generate_series(1, 3000) AS number"
        )
        pieces: list[bytes] = []

        async def write(piece: bytes) -> None:
            pieces.append(piece)

        copy = CopyOut("texts", select, write)
        num_rows = await database.pool.copy_out(copy)
        first = b"".join(pieces)
        pieces.clear()
        async with connected() as tx:
            num_rows_in_tx = await database.executor(tx).copy_out(copy)

        assert (num_rows, num_rows_in_tx, first == b"".join(pieces)) == (3000, 3000, True)
        lines = csv.reader(io.StringIO(first.decode(), newline=""))
        assert list(lines) == [[str(number), f"{text}{number}"] for number in range(1, 3001)]

    async def test_copy_out_reads_tables_without_their_index(self, database: Driver) -> None:
        """The settings that make Millhand's own statements use indexes do not hold for a whole table."""
        pieces: list[bytes] = []

        async def write(piece: bytes) -> None:
            pieces.append(piece)

        await database.pool.copy_out(CopyOut("setting", "SELECT current_setting('enable_seqscan')", write))

        assert b"".join(pieces) == b"on\n"

    async def test_copy_out_raises_what_its_function_raises(self, database: Driver) -> None:
        """An OSError of the function is not a database error, and the pool still works."""
        error = OSError("the disk is full")

        async def fail(piece: bytes) -> None:
            raise error

        with pytest.raises(OSError, match="full") as raised:
            await database.pool.copy_out(
                CopyOut("texts", "SELECT repeat('a', 1000) FROM generate_series(1, 9999)", fail)
            )

        assert raised.value is error
        assert await asyncio.gather(*(num_jobs(database.pool) for _ in range(20))) == [0] * 20

    async def test_copy_out_has_a_deadline(self, database: Driver) -> None:
        """A SELECT that takes longer than its deadline raises, and so does one that the server refuses."""

        async def write(piece: bytes) -> None:
            del piece

        with pytest.raises(OperationTimeout, match=r"^texts must answer within 0\.1 s, got no answer$"):
            await database.pool.copy_out(CopyOut("texts", "SELECT pg_sleep(60)", write, timeout_seconds=0.1))
        with pytest.raises(DriverError) as refused:
            await database.pool.copy_out(CopyOut("texts", "SELECT 1 / 0", write))

        assert (refused.value.operation, refused.value.sqlstate) == ("texts", "22012")
        assert await num_jobs(database.pool) == 0
