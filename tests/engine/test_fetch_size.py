"""The limit of a fetch after a timeout and after an answer."""

from __future__ import annotations

from millhand.core.errors import ConnectionLost, OperationTimeout
from millhand.engine.fetch_size import FETCH_SIZE_MAX, FetchSize


def test_timeout_halves_the_limit_and_an_answer_doubles_it() -> None:
    """It stays between one job and the maximum; other failures do not change it."""
    size, asked = FetchSize(), []
    for limit in (9, 4, 2, 1, 1):
        size.record_failed(OperationTimeout("job_get_available", 10.0), limit)
        asked.append(size.limit)
    size.record_failed(ConnectionLost("job_get_available", "gone"), 1)

    assert asked == [4, 2, 1, 1, 1]
    for _ in range(3):
        size.record_answered()
    assert size.limit == 8
    for _ in range(20):
        size.record_answered()
    assert size.limit == FETCH_SIZE_MAX
