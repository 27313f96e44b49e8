from __future__ import annotations

from millhand.core.job import JobState
from millhand.db.sql import statements
from millhand.engine.store.job_condition import LARGE_BYTES, Among, Between, Contains
from millhand.engine.store.job_search import (
    READ_MAX,
    SORTED_MAX,
    IndexRange,
    JobSearch,
    SearchOrder,
    indexed,
    num_rows_at_once,
)


def test_order_of_a_search_depends_on_its_states() -> None:
    """All states are listed by id, live ones by what is due next, and others by what changed last."""
    orders = {states: JobSearch(states=states).order for states in [
        tuple(JobState), (JobState.RUNNING, JobState.PENDING), (JobState.COMPLETED,), (JobState.COMPLETED, JobState.RUNNING)
    ]}  # fmt: skip

    assert list(orders.values()) == [SearchOrder.ID, SearchOrder.NEXT, SearchOrder.LAST, SearchOrder.LAST]


def test_index_of_a_search_is_that_of_its_most_selective_condition() -> None:
    """Ids come first, then args, kinds and queues; a negated condition and a range of ids have no index."""
    conditions = (
        Among("queue", ("mail",)), Among("kind", ("a",)), Contains("args", ("{}",)), Between("id", ((1, 1),)),
        Among("kind", ("b",), is_negated=True), Between("id", ((1, 9),)), Among("tag", ("x",)),
    )  # fmt: skip

    found = indexed(JobSearch(states=(JobState.RUNNING,), conditions=conditions))

    assert [one.clause for one in found] == [
        "job.id = ANY(@indexed_3::bigint [])",
        "(job.args @> @indexed_2_0::text::jsonb)",
        "job.kind = ANY(@indexed_1::text [])",
        "job.state IN ('running') AND job.queue = ANY(@indexed_0::text [])",
    ]


def test_queues_of_a_search_are_those_that_all_its_tokens_name() -> None:
    """Two conditions on the queue leave the queues that both name; a negated one names none."""
    both = (Among("queue", ("a", "b")), Among("queue", ("b", "c")), Among("queue", ("b",), is_negated=True))
    named = JobSearch(conditions=both)

    assert (named.queues, JobSearch().queues) == (("b",), None)


def test_rows_of_a_statement_do_not_grow_with_the_queues() -> None:
    """However many queues there are, a statement sorts at most 10,000 rows, and reads at least one of each."""
    live = JobSearch(states=(JobState.RUNNING, JobState.COMPLETED))
    rows = {
        count: num_rows_at_once(live, [IndexRange("running", "q", 1)] * count) for count in (0, 3, 99, 20_000)
    }

    assert rows == {0: READ_MAX, 3: SORTED_MAX // 4, 99: SORTED_MAX // 100, 20_000: 1}


def test_statements_have_the_size_of_a_large_value() -> None:
    """The lines of a list leave out what the conditions do not search."""
    assert statements()["job_search_by_id"].count(f"<= {LARGE_BYTES}") == 2
