"""Services that work in batches."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import pytest

from millhand.core.errors import DriverError, OperationTimeout
from millhand.engine.maintenance.batch import (
    NUM_REFUSED_MAX,
    REFUSED_SECONDS,
    BatchService,
    BatchSize,
    Refused,
    write_allowed,
)
from millhand.testing import ManualClock, Probe


class FakeService(BatchService):
    """Finds as many rows as given for each batch; None times out."""

    interval_seconds = 3600.0
    _pause_seconds = (0.0, 0.0)

    def __init__(self, batch_size: BatchSize, num_rows: list[int | None]) -> None:
        nowhere: Any = None
        super().__init__(nowhere, ManualClock(), batch_size)
        self.asked: list[int] = []
        self.num_rows = num_rows

    async def run_batch(self, num_rows: int) -> int:
        self.asked.append(num_rows)
        found = self.num_rows.pop(0)
        if found is None:
            raise OperationTimeout("service", 30.0)
        return found


async def test_pass_continues_until_a_batch_is_not_full() -> None:
    """One pass works off a backlog, and the first batch that is not full is its last."""
    service = FakeService(BatchSize(ManualClock(), num_rows=10), [10, 10, 9, 10])

    await service.run_once()

    assert service.asked == [10, 10, 10]


async def test_pass_ends_between_batches_when_stopped() -> None:
    """A long backlog does not delay a stop."""
    service = FakeService(BatchSize(ManualClock(), num_rows=1), [1] * 1000)
    probe = Probe(service)

    await service.start()
    await probe.wait("batch")
    await service.stop()

    assert service.num_rows


def test_batch_size_is_reduced_after_three_timeouts_in_a_row() -> None:
    """After three timeouts of ten thousand rows, batches have a thousand."""
    size = BatchSize(ManualClock())

    sizes = []
    for _ in range(4):
        size.record_timeout()
        sizes.append(size.num_rows)
    size.record_success()

    assert (sizes, size.num_rows) == ([10_000, 10_000, 1_000, 1_000], 1_000)


def test_batch_size_forgets_timeouts_after_a_success() -> None:
    """Only timeouts in a row count."""
    size = BatchSize(ManualClock())

    for _ in range(3):
        size.record_timeout()
        size.record_timeout()
        size.record_success()

    assert size.num_rows == 10_000


def test_batch_size_forgets_timeouts_of_long_ago() -> None:
    """Three timeouts count only within ten minutes."""
    clock = ManualClock()
    size = BatchSize(clock)

    for _ in range(6):
        size.record_timeout()
        clock.advance(301)

    assert size.num_rows == 10_000


async def test_service_keeps_its_reduced_batch_size() -> None:
    """The reduced size applies to the service's later passes."""
    service = FakeService(BatchSize(ManualClock(), num_rows=2_000), [None, None, None, 0])

    for _ in range(4):
        await service.try_pass()

    assert service.asked == [2_000, 2_000, 2_000, 1_000]


class Table:
    """Refuses batches that hold one of some numbers, with an error of PostgreSQL."""

    def __init__(
        self, refused: Container[int], sqlstate: str | None = "P0001", *, retryable: bool = False
    ) -> None:
        self.batches: list[Sequence[int]] = []
        self.error = DriverError("write", "no", sqlstate=sqlstate, retryable=retryable)
        self.logged: list[int] = []
        self.refused = refused

    async def write(self, numbers: Sequence[int]) -> None:
        if any(number in self.refused for number in numbers):
            raise self.error
        self.batches.append(numbers)

    def log(self, number: int, error: DriverError) -> None:
        assert error is self.error
        self.logged.append(number)


async def test_refused_rows_are_left_out_and_all_others_written_once() -> None:
    """The batch is halved around them, and its order stays."""
    table = Table({3, 7})

    await write_allowed(range(10), table.write, table.log)

    written = [number for batch in table.batches for number in batch]
    assert (written, table.logged) == ([0, 1, 2, 4, 5, 6, 8, 9], [3, 7])


@pytest.mark.parametrize(
    ("sqlstate", "retryable"), [("40P01", True), ("42501", False), ("42P01", False), (None, False)]
)
async def test_error_that_no_row_causes_is_raised_at_once(sqlstate: str | None, *, retryable: bool) -> None:
    """A deadlock, a missing privilege or a closed pool would fail for each row."""
    table = Table({3}, sqlstate, retryable=retryable)

    with pytest.raises(DriverError):
        await write_allowed(range(10), table.write, table.log)

    assert (table.batches, table.logged) == ([], [])


async def test_too_many_refused_rows_are_an_error() -> None:
    """What the database refuses for each row is not the fault of rows, and the log does not fill up with them."""
    table = Table(range(10_000))

    with pytest.raises(DriverError):
        await write_allowed(range(10_000), table.write, table.log)

    assert table.logged == list(range(NUM_REFUSED_MAX))


def test_refused_row_is_left_out_for_a_while() -> None:
    """It is tried again after five minutes."""
    clock = ManualClock()
    refused = Refused(clock)
    refused.add(2)

    others = [refused.without([3, 2, 1])]
    clock.advance(REFUSED_SECONDS)
    others.append(refused.without([3, 2, 1]))

    assert others == [[1, 3], [1, 2, 3]]
