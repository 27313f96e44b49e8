"""How many jobs a fetch asks for after one that took too long."""

from __future__ import annotations

from millhand.errors import ConnectionLost, OperationTimeout
from millhand.runtime.fetch_size import FETCH_SIZE_MAX, FetchSize


def test_half_is_asked_for_after_a_timeout_and_twice_as_much_after_an_answer() -> None:
    """Down to one job, up to the most there is; another failure than a timeout says nothing of how much it was."""
    size, asked = FetchSize(), []
    for limit in (9, 4, 2, 1, 1):
        size.record_failed(OperationTimeout("job_get_available", 10.0), limit)
        asked.append(size.most)
    size.record_failed(ConnectionLost("job_get_available", "gone"), 1)

    assert asked == [4, 2, 1, 1, 1]
    for _ in range(3):
        size.record_answered()
    assert size.most == 8
    for _ in range(20):
        size.record_answered()
    assert size.most == FETCH_SIZE_MAX
