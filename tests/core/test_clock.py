"""The system clock, jitter and backoff."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from millhand.core.clock import SystemClock, backoff_seconds, jittered


def test_system_clock_returns_the_time_in_utc() -> None:
    """Instants are aware and in UTC; monotonic seconds do not go back."""
    clock = SystemClock()

    before = datetime.now(UTC)
    assert before <= clock.now() <= datetime.now(UTC)
    assert clock.now().tzinfo is UTC
    assert clock.monotonic() <= clock.monotonic()


@given(st.floats(0.001, 1e6))
def test_jittered_is_never_early(seconds: float) -> None:
    """A wait is lengthened by at most a tenth."""
    assert seconds <= jittered(seconds) <= seconds * 1.1 * (1 + 1e-12)


@given(st.integers(1, 10_000))
def test_backoff_doubles_up_to_its_ceiling(num_failures: int) -> None:
    """The n-th wait is 2^(n-1) s ± 10 %, and never above 64 s ± 10 %."""
    expected = min(2.0 ** min(num_failures - 1, 50), 64.0)

    assert expected * 0.9 <= backoff_seconds(num_failures) <= expected * 1.1
