"""The charts of a history: attempts by outcome, waits and runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from millhand.history.series import Durations, HistoryPoint, HistorySeries
from millhand.web.chart import Plot, Series, columns, lines

Value = Callable[[HistoryPoint], float | None]


def attempts_plot(history: HistorySeries) -> Plot:
    """Return the chart of attempts by outcome."""
    outcomes: tuple[tuple[str, str, Value], ...] = (
        ("completed", "completed", lambda point: point.completed),
        ("failed, retried", "retryable", lambda point: point.failed),
        ("discarded", "discarded", lambda point: point.discarded),
        ("cancelled", "cancelled", lambda point: point.cancelled),
    )
    return columns("Attempts by outcome", _instants(history), [_series(history, *one) for one in outcomes])


def waits_plot(history: HistorySeries) -> Plot:
    """Return the chart of how long jobs waited from due to fetched."""
    return _durations(history, "Time from due to fetched", lambda point: point.wait)


def runs_plot(history: HistorySeries) -> Plot:
    """Return the chart of how long attempts ran."""
    return _durations(history, "Time from fetched to the end", lambda point: point.run)


def errors_trend(history: HistorySeries) -> tuple[int, ...]:
    """Return the failed attempts of each point."""
    return tuple(point.failed + point.discarded for point in history.points)


def _durations(history: HistorySeries, title: str, of: Callable[[HistoryPoint], Durations]) -> Plot:
    percentiles: tuple[tuple[str, str, Value], ...] = (
        ("95th percentile", "2", lambda point: of(point).p95),
        ("median", "1", lambda point: of(point).p50),
    )
    series = [_series(history, *one) for one in percentiles]
    return lines(title, _instants(history), series, is_seconds=True)


def _series(history: HistorySeries, name: str, tone: str, value: Value) -> Series:
    return Series(name=name, tone=tone, values=tuple(map(value, history.points)))


def _instants(history: HistorySeries) -> Sequence[datetime]:
    return [point.began_at for point in history.points]
