"""The base classes of hooks and middleware."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from language_values import row

from millhand.core.hooks import FetchMetric, Hook, Middleware, overrides
from millhand.core.worker_job import Job


class Watching(Hook):
    async def work_begin(self, job: Job[Any]) -> None: ...


class Around(Middleware):
    async def work(self, job: Job[Any], call_next: Callable[[], Awaitable[None]]) -> None: ...


@pytest.mark.parametrize(
    ("part", "methods"),
    [(Hook(), []), (Watching(), ["work_begin"]), (Middleware(), []), (Around(), ["work"])],
    ids=lambda part: type(part).__name__,
)
def test_overrides_finds_overridden_methods(part: Hook | Middleware, methods: list[str]) -> None:
    """Only a method that the subclass overrides is reported."""
    base = Hook if isinstance(part, Hook) else Middleware
    names = [name for name in vars(base) if not name.startswith("_")]

    assert [name for name in names if overrides(part, name)] == methods


async def test_base_hooks_and_middleware_change_nothing() -> None:
    """The base classes pass everything on as it is."""
    job: Job[Any] = Job(row(), None)
    error = ValueError("why")
    called = []

    async def insert(params: Any) -> Any:
        called.append(params)
        return ["result"]

    async def work() -> None:
        called.append("work")

    assert await Hook().insert_begin("params") == "params"  # type: ignore[arg-type, comparison-overlap]
    assert await Hook().work_end(job, error) is error
    await Hook().work_begin(job)
    await Hook().periodic_jobs_start()
    Hook().metric_emit(FetchMetric(num_jobs=1, queue="default", seconds=0.1))
    assert await Middleware().insert(["params"], insert) == ["result"]  # type: ignore[list-item, comparison-overlap]
    await Middleware().work(job, work)
    assert called == [["params"], "work"]
