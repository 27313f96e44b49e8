"""Claims about `JobLog`: which log lines it keeps in the row of a job."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from millhand.core.errors import ConfigError
from millhand.core.job import JobId, JobRow, JobState, Json
from millhand.core.worker_job import Job, JobInternals
from millhand.observe.job_log import LOG_KEY, MAX_TOTAL_BYTES_MAX, JobLog, num_to_drop

log = logging.getLogger("shop.orders")
OURS = logging.getLogger("millhand.observe.job_log")
PLAIN = logging.Formatter("%(levelname)s %(message)s")


@pytest.fixture(autouse=True)
def _info() -> Iterator[None]:
    log.setLevel(logging.INFO)
    yield
    log.setLevel(logging.NOTSET)


def _job(metadata: dict[str, Json] | None = None, attempt: int = 2) -> Job[Any]:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    row = JobRow(
        JobId(1), JobState.RUNNING, attempt, 25, now, now, None, now, 1, "{}", ("me",), (), "act", metadata or {}, "default",
        (), None, None,
    )  # fmt: skip
    return JobInternals(row, None)


async def _kept(job_log: JobLog, say: Callable[[], object], metadata: dict[str, Json] | None = None) -> Json:
    """Return the entries that an attempt stages in its row."""
    job = _job(metadata)

    async def call_next() -> None:
        said = say()
        if isinstance(said, Awaitable):
            await said

    await job_log.work(job, call_next)
    return job.metadata_updates.get(LOG_KEY)


async def test_attempt_without_lines_has_no_entry() -> None:
    """The row stays unchanged; Millhand adds no args."""
    assert await _kept(JobLog(), lambda: None, {LOG_KEY: [{"attempt": 1, "log": "a"}]}) is None


async def test_line_has_time_level_logger_and_message() -> None:
    """By default a line starts with the time in UTC, and an exception has its traceback."""

    def fail() -> None:
        try:
            raise ValueError("boom")
        except ValueError:
            log.exception("it failed")

    [entry] = await _kept(JobLog(), fail)
    first, *stack = entry["log"].splitlines()

    instant, words = first.split(" ", 1)
    assert datetime.fromisoformat(instant).tzinfo is not None
    assert words == "ERROR shop.orders: it failed"
    assert stack[-1] == "ValueError: boom"


async def test_level_logger_and_formatter_can_be_set() -> None:
    """Only records of the level and the logger are kept, as the formatter renders them."""
    loud = JobLog(level=logging.WARNING, formatter=PLAIN)
    orders = JobLog(listens_to=log, formatter=logging.Formatter("<%(message)s>"))

    def say() -> None:
        log.info("low")
        logging.getLogger("other").warning("high")

    assert await _kept(loud, say) == [{"attempt": 2, "log": "WARNING high\n"}]
    assert await _kept(orders, say) == [{"attempt": 2, "log": "<low>\n"}]


async def test_task_that_outlives_its_attempt_is_not_kept() -> None:
    """A record after the end of the attempt is not kept and fails nothing."""
    go_on = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    async def later() -> None:
        await go_on.wait()
        log.info("late")

    def say() -> None:
        log.info("early")
        tasks.append(asyncio.ensure_future(later()))

    job_log = JobLog(formatter=PLAIN)
    kept = await _kept(job_log, say)
    go_on.set()

    async def meanwhile() -> None:
        await tasks[0]
        log.info("other")

    assert kept == [{"attempt": 2, "log": "INFO early\n"}]
    assert await _kept(job_log, meanwhile) == [{"attempt": 2, "log": "INFO other\n"}]


async def test_entry_of_one_attempt_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    """Bytes beyond the limit are cut at a whole character, and a warning is logged."""

    def say() -> None:
        for _ in range(10):
            log.info("ä" * 10)

    with caplog.at_level(logging.WARNING, "millhand.observe"):
        kept = await _kept(JobLog(formatter=logging.Formatter("%(message)s"), max_bytes=26), say)

    assert kept == [{"attempt": 2, "log": "ä" * 10 + "\n" + "ä" * 2}]
    [record] = [record for record in caplog.records if record.name == OURS.name]
    assert record.msg == "job log cut"
    assert (record.job_id, record.attempt, record.num_bytes, record.max_bytes) == (1, 2, 210, 26)


async def test_oldest_entries_are_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """The newest entry is always kept, and as many earlier ones as fit."""
    earlier = [{"attempt": n, "log": "x" * 100} for n in range(5)]
    job_log = JobLog(formatter=PLAIN, max_total_bytes=300)

    with caplog.at_level(logging.WARNING, "millhand.observe"):
        kept = await _kept(job_log, lambda: log.info("new"), {LOG_KEY: earlier})
        alone = await _kept(job_log, lambda: log.info("y" * 400), {LOG_KEY: earlier})

    new = {"attempt": 2, "log": "INFO new\n"}
    assert kept == [*earlier[3:], new]
    assert [one["attempt"] for one in alone] == [2]
    messages = [(r.msg, r.num_attempts) for r in caplog.records if r.name == OURS.name]
    assert messages == [
        ("job log of earlier attempts dropped", 6 - len(kept)),
        ("job log of earlier attempts dropped", 5),
    ]


@pytest.mark.parametrize("other", [None, "text", {"attempt": 1}])
async def test_value_that_is_no_array_is_kept(other: Json, caplog: pytest.LogCaptureFixture) -> None:
    """A row with another value under the key keeps it, as with River, and an error is logged."""
    with caplog.at_level(logging.ERROR, "millhand.observe"):
        kept = await _kept(JobLog(), lambda: log.info("x"), {LOG_KEY: other})

    assert kept is None
    assert [(r.msg, r.reason) for r in caplog.records if r.name == OURS.name] == [
        ("job log not kept", "river:log of the row is no array")
    ]


async def test_characters_that_no_row_can_hold_are_replaced() -> None:
    """U+0000 and surrogates become U+FFFD before they are counted."""
    job_log = JobLog(formatter=PLAIN)
    record = log.makeRecord(log.name, logging.INFO, __file__, 1, "a\x00b\ud83ec", (), None)

    # Not through the logger: pytest cannot send a surrogate between its workers.
    kept = await _kept(job_log, lambda: job_log._handler.handle(record))

    assert kept == [{"attempt": 2, "log": "INFO a\ufffdb\ufffdc\n"}]


async def test_record_that_cannot_be_formatted_does_not_fail_the_job(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Such a record is reported as `logging` reports it, and the other lines are kept."""

    def say() -> None:
        record = log.makeRecord(log.name, logging.INFO, __file__, 1, "%d", ("x",), None)
        job_log._handler.handle(record)
        log.info("good")

    job_log = JobLog(formatter=PLAIN)

    assert await _kept(job_log, say) == [{"attempt": 2, "log": "INFO good\n"}]
    assert "--- Logging error ---" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        ({"max_bytes": 0}, "max_bytes of a job's log must be between 1 and 67,108,864, got 0"),
        (
            {"max_total_bytes": MAX_TOTAL_BYTES_MAX + 1},
            "max_total_bytes of a job's log must be between 1 and 67,108,864, got 67108865",
        ),
        ({"max_bytes": True}, "max_bytes of a job's log must be between 1 and 67,108,864, got True"),
    ],
)
def test_impossible_limits_are_refused(settings: dict[str, Any], messages: str) -> None:
    """A limit must be between one byte and 64 MiB."""
    with pytest.raises(ConfigError) as refused:
        JobLog(**settings)

    assert str(refused.value) == messages


def test_entries_are_counted_as_river_counts_them() -> None:
    """An exact fit is kept, and one byte less drops one more entry."""
    earlier = [{"log": "a", "attempt": 1}, {"log": "é\n", "attempt": 2}]
    entry: dict[str, Json] = {"attempt": 3, "log": "<b>\n"}
    printed = json.dumps(earlier, ensure_ascii=False)
    written = '{"attempt":3,"log":"\\u003cb\\u003e\\n"}'
    exact = len(f"{printed[:-1]},{written}]".encode())
    last = len(f"[{json.dumps(earlier[1], ensure_ascii=False)},{written}]".encode())

    sizes = (exact, exact - 1, last, last - 1, 1)
    assert [num_to_drop(earlier, entry, size) for size in sizes] == [0, 1, 1, 2, 2]
    assert num_to_drop([], entry, 1) == 0
