"""Services that work in batches."""

from __future__ import annotations

from typing import Any

from millhand.errors import OperationTimeout
from millhand.maintenance.batch import BatchService, BatchSize
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
