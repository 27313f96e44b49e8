"""The audit of dead letters finds each job whose dead letter is wrong."""

from __future__ import annotations

import pytest
from chaos_dead_jobs import Comparison, compare_dead_jobs, wrong_dead_jobs

from dead_jobs import copier_of, discard
from empty_schema import empty_schema
from factory import qualified
from lent_schema import GENEROUS_SECONDS
from millhand.db.driver.asyncpg import AsyncpgDriver

RIGHT = Comparison(id=7, is_discarded=True, is_copied=True, is_equal=True)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (
            Comparison(id=8, is_discarded=True, is_copied=False, is_equal=False),
            "job 8 is discarded, and has no dead letter",
        ),
        (
            Comparison(id=8, is_discarded=False, is_copied=True, is_equal=True),
            "job 8 has a dead letter, and is not discarded",
        ),
        (
            Comparison(id=8, is_discarded=True, is_copied=True, is_equal=False),
            "job 8 is discarded, and its dead letter differs from its row",
        ),
    ],
)
def test_audit_finds_each_violation(wrong: Comparison, text: str) -> None:
    """A discarded job without a dead letter, one too many, and one that differs are reported."""
    assert list(wrong_dead_jobs([RIGHT, wrong], 1, {})) == [text]
    assert list(wrong_dead_jobs([RIGHT], 1, {})) == []


async def test_comparison_copies_what_was_discarded_last(driver: AsyncpgDriver, postgres_url: str) -> None:
    """The workers' copies are counted before that, and a copy that differs from its row is found."""
    pool = driver.pool
    try:
        first = await discard(pool)
        await copier_of(pool).run_once()
        second = await discard(pool)
        await pool.fetch(qualified("UPDATE /* schema */millhand_dead_job SET attempt = 3", pool))

        found, num_copied = await compare_dead_jobs(postgres_url)
    finally:
        await empty_schema(pool, timeout_seconds=GENEROUS_SECONDS)

    assert num_copied == 1
    assert found == [
        Comparison(id=first.id, is_discarded=True, is_copied=True, is_equal=False),
        Comparison(id=second.id, is_discarded=True, is_copied=True, is_equal=True),
    ]
