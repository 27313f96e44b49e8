"""What a run counts, and how it reports progress and events."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from world import World

from millhand.core.orphans import Mode
from millhand.orphans import OrphanEvent, OrphanEventKind, OrphansConfig, Progress
from millhand.orphans.ledger import ActionState, Finding, Totals, database_facts, run_insert
from millhand.orphans.rules import BY_NUMBER, Kind
from millhand.orphans.scan.context import RunContext, RunState
from millhand.orphans.scan.derived import DerivedFrom
from millhand.orphans.sources.references import open_references

NOW = datetime(2026, 1, 1, tzinfo=UTC)
REFERENCES = {3: "pending", 6: "soft_deleted"}


def finding(rule: int, **changes: Any) -> Finding:
    kind = BY_NUMBER[rule].kind
    plain = Finding(
        key="key", kind=kind or "", reference="none", rule=rule, is_present=True, size=10, first_seen_at=NOW,
        last_seen_at=NOW,
    )  # fmt: skip
    return replace(plain, **changes)


def counted(state: RunState) -> dict[str, int]:
    """Return all counts that are not zero."""
    names = (name for name in Totals.__dataclass_fields__ if name != "rows_of")
    return {name: number for name in names if (number := getattr(state.totals, name))}


@pytest.mark.parametrize(
    ("rule", "counts"),
    [
        (2, {"size_mismatches": 1}),
        (5, {"shared": 1}),
        (3, {"pending_rows": 1}),
        (6, {"soft_deleted_rows": 1}),
        (8, {"abandoned_rows": 1, "candidates": 1}),
        (11, {"orphan_objects": 1, "orphan_bytes": 10, "candidates": 1}),
        (12, {"orphan_objects": 1, "orphan_bytes": 10, "due": 1, "due_objects": 1, "due_bytes": 10}),
        (18, {"missing": 1}),
    ],
)
def test_a_finding_counts_by_kind_and_if_it_is_due(rule: int, counts: dict[str, int]) -> None:
    """Every kind has its number, and only rules that remove something count as due."""
    state = RunState(totals=Totals())

    state.count_finding(finding(rule, reference=REFERENCES.get(rule, "none")), is_removable=True)

    assert counted(state) == counts


def test_a_row_that_may_not_be_deleted_is_not_due() -> None:
    """A row of a SELECT counts as abandoned, and not as due."""
    state = RunState(totals=Totals())

    state.count_finding(finding(4, source="uploads"), is_removable=False)

    assert counted(state) == {"abandoned_rows": 1}


def test_a_near_match_takes_its_orphan_back_out_of_the_counts() -> None:
    """An orphan that turns out to be a near match is neither an orphan nor due any more, and may become one again."""
    state = RunState(totals=Totals())
    state.count_finding(finding(12), is_removable=True)

    state.count_near_match(finding(12))
    as_near_match = counted(state)
    state.add(orphan_objects=1, orphan_bytes=finding(24).size)

    assert as_near_match == {"near_matches": 1}
    assert counted(state) == {"near_matches": 1, "orphan_objects": 1, "orphan_bytes": 10}


def test_a_shared_row_takes_its_abandoned_row_back_out_of_the_counts() -> None:
    """A row that turns out to be shared is neither abandoned nor due any more."""
    state = RunState(totals=Totals())
    state.count_finding(finding(7, source="uploads", kind=Kind.ABANDONED), is_removable=True)

    state.count_shared(finding(7, source="uploads"), is_removable=True)

    assert counted(state) == {"shared": 1}


def test_moves_count_by_the_state_of_their_action() -> None:
    """Quarantined objects are removed, restored ones restored, and objects left in place are kept."""
    state = RunState(totals=Totals())

    state.count_moves(
        [ActionState.QUARANTINED, ActionState.RESTORED, ActionState.KEPT, ActionState.ROW_DELETED]
    )

    assert counted(state) == {"removed": 1, "restored": 1, "kept": 2}


def test_a_restarted_scan_keeps_what_was_done_before_it() -> None:
    """Restored and removed objects stay counted; everything that the scan counted starts again."""
    state = RunState(totals=Totals(kept=1, live=5, objects=9, removed=2, restored=3, rows_of={"a": 4}))

    state.restart()

    assert state.totals == Totals(kept=1, removed=2, restored=3)


async def context_of(world: World, config: OrphansConfig, **changes: Any) -> RunContext:
    facts = await world.executor.run(database_facts())
    query = run_insert(bucket=world.store.url, mode="delete", fingerprint="", now=facts.now, is_ordered=True)
    run = await world.executor.run(query)
    assert run is not None
    plain = RunContext(
        capabilities=await world.store.probe(),
        config=config,
        derived=DerivedFrom.of(config),
        executor=world.executor,
        ledger_now=None,
        now=facts.now,
        on_event=None,
        previous=None,
        progress=None,
        references=await open_references(world.executor, config),
        run=run,
        started=0.0,
        store=world.store,
    )
    return replace(plain, **changes)


async def test_a_first_run_may_not_act(world: World) -> None:
    """Without an earlier complete run the mode is report, whatever the configuration."""
    first = await context_of(world, world.config)
    second = replace(first, previous=first.run)

    assert (first.is_first, first.mode, first.may_act) == (True, Mode.REPORT, False)
    assert (second.is_first, second.mode, second.may_act) == (False, Mode.DELETE, True)
    assert (first.complete_run_id, second.complete_run_id) == (None, first.run.id)


async def test_events_and_progress_reach_their_functions(world: World) -> None:
    """An event has bucket and run, and progress has the totals."""
    events: list[OrphanEvent] = []
    seen: list[Progress] = []
    context = await context_of(world, world.config, on_event=events.append, progress=seen.append)

    context.emit(OrphanEventKind.RUN_FAILED, "a reason")
    context.report_progress("scan", "key", Totals(bytes=3, objects=2, rows_of={"a": 1}))

    assert [(one.bucket, one.run_id, one.reason) for one in events] == [
        (world.store.url, context.run.id, "a reason")
    ]
    assert [(one.phase, one.key, one.bytes, one.objects, one.rows) for one in seen] == [
        ("scan", "key", 3, 2, 1)
    ]


async def test_only_rows_of_a_table_are_removable(world: World) -> None:
    """A finding about an object, or about a row of a table, may be removed; a row of a SELECT may not."""
    context = await context_of(world, world.config)

    found = [context.is_removable(finding(12, source=source)) for source in ("", "uploads", "avatars")]

    assert found == [True, True, False]
