"""Claims about the values of flows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from client_harness import Act
from millhand.core.errors import InvalidJob
from millhand.flows.flow import Flow, entries_to_insert, is_task, plan


@pytest.mark.slow
def test_tasks_that_wait_for_the_same_set_share_a_join() -> None:
    """A thousand tasks that wait for a thousand make one join."""
    flow = Flow("layers")
    first = [flow.add(Act("a")) for _ in range(1_000)]
    for _ in range(1_000):
        flow.add(Act("b"), after=first)

    found = plan(entries_to_insert(flow))

    assert found.num_joins == 1
    assert set(found.after[1_000:]) == {0}
    assert all(joins == [0] for joins in found.member_of[:1_000])


def test_names_of_tasks_are_unique() -> None:
    """A task without a name has its kind's, numbered if that is taken, also by an explicit name."""
    flow = Flow("names")

    names = [flow.add(Act("a"), name=name).name for name in ("act_2", None, None, None)]

    assert names == ["act_2", "act", "act_3", "act_4"]


def test_only_ids_of_flows_are_of_tasks() -> None:
    """The ids of River Pro's workflows, which have letters, are of other tasks."""
    ids: list[Any] = ["17", "01HZX3", 17, None, ""]

    assert [is_task({"workflow_id": id}) for id in ids] == [True, False, False, False, False]
    assert not is_task({})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Flow(""), "name of a flow must be 1 to 255 characters, got ''"),
        (
            lambda: Flow("a").add(Act("x"), after=Flow("b").add(Act("y"))),
            "after must be tasks of flow 'a', got FlowTask('act') of Flow('b')",
        ),
        (
            lambda: Flow("a").add(Act("x"), after="act"),  # type: ignore[arg-type]
            "after must be a task, or a list of tasks, got 'act'; write after=flow.add(…)",
        ),
        (
            lambda: Flow("a").add(Act("x"), when="done"),  # type: ignore[arg-type]
            "when must be one of completed, ended, failed, got 'done'",
        ),
        (
            lambda: Flow("a").add(Act("x"), when="failed"),
            "when must have tasks to wait for, got 'failed' without after",
        ),
        (
            lambda: Flow("a").add_many(Act("x")),  # type: ignore[arg-type]
            "jobs must be a list of args, got Act(what='x'); write flow.add(…) for one job",
        ),
        (
            lambda: entries_to_insert(Flow("a")),
            "flow must have at least one task, got Flow('a') with none; write flow.add(…)",
        ),
    ],
)
def test_mistakes_are_explained(make: Callable[[], object], message: str) -> None:
    """Each mistake has an error with the rule, the value and the remedy."""
    with pytest.raises(InvalidJob) as refused:
        make()

    assert str(refused.value) == message


def test_a_name_that_is_taken_is_refused() -> None:
    """Two explicit names, and an explicit one that a kind has, collide."""
    flow = Flow("names")
    flow.add(Act("a"), name="fetch")

    with pytest.raises(InvalidJob) as refused:
        flow.add(Act("b"), name="fetch")

    assert str(refused.value) == "name must be unique in its flow, got 'fetch' twice"
