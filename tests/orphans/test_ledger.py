"""The ledger: runs that one process holds, findings by identity, and actions in order."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from world import World

from millhand.orphans.ledger import (
    Action,
    ActionState,
    Finding,
    Run,
    RunLost,
    Totals,
    action_announce_purge,
    action_claim,
    action_get_by_key,
    action_get_open,
    action_get_restorable,
    action_insert_many,
    action_set_state_many,
    finding_delete_many,
    finding_get_due,
    finding_get_many,
    finding_list,
    finding_put_many,
    run_beat,
    run_finish,
    run_get_scanned,
    run_get_unfinished,
    run_insert,
    run_list,
    run_scanned,
    run_take_over,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


async def begun(world: World, *, fingerprint: str = "f", now: datetime = NOW) -> Run:
    query = run_insert(bucket="b", mode="delete", fingerprint=fingerprint, now=now, is_ordered=True)
    run = await world.executor.run(query)
    assert run is not None
    return run


def finding(key: str, **changes: object) -> Finding:
    plain = Finding(
        key=key,
        kind="orphan",
        reference="none",
        rule=11,
        is_present=True,
        first_seen_at=NOW,
        last_seen_at=NOW,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_totals_survive_json_of_another_release() -> None:
    """Unknown counts are ignored, and missing ones are zero."""
    totals = Totals(objects=3, rows_of={"a": 2, "b": 5})

    assert Totals.from_json(totals.to_json()) == totals
    assert Totals.from_json('{"objects": 1, "counted_by_another_release": 9}') == Totals(objects=1)
    assert totals.rows == 7


async def test_a_bucket_has_one_unfinished_run(world: World) -> None:
    """A second run is not inserted until the first one has ended."""
    run = await begun(world)
    query = run_insert(bucket="b", mode="delete", fingerprint="f", now=NOW, is_ordered=True)
    second = await world.executor.run(query)
    unfinished = await world.executor.run(run_get_unfinished("b"))
    await world.executor.run(run_finish(run, state="completed", now=NOW, totals=Totals(objects=2)))

    third = await world.executor.run(query)

    assert (second, unfinished and unfinished.id) == (None, run.id)
    assert third is not None
    assert await world.executor.run(run_get_unfinished("b")) == third


async def test_a_process_whose_run_was_taken_over_has_lost_it(world: World) -> None:
    """The old epoch can neither write a heartbeat nor end the run, and a second takeover of it fails."""
    run = await begun(world)

    taken = await world.executor.run(run_take_over(run, now=NOW + MINUTE))

    assert taken is not None
    assert (taken.epoch, taken.heartbeat_at) == (2, NOW + MINUTE)
    assert await world.executor.run(run_take_over(run, now=NOW)) is None
    for query in (
        run_beat(run, now=NOW),
        run_scanned(run, now=NOW, beat_at=NOW),
        run_finish(run, state="completed", now=NOW),
    ):
        with pytest.raises(RunLost):
            await world.executor.run(query)
    await world.executor.run(run_beat(taken, now=NOW))


async def test_an_aborted_run_has_its_reasons(world: World) -> None:
    """State, reasons and totals are those of the end of the run; runs are listed newest first."""
    run = await begun(world)
    totals = Totals(objects=5)
    await world.executor.run(
        run_finish(run, state="aborted", now=NOW + MINUTE, totals=totals, abort_reasons=["one", "two"])
    )
    later = await begun(world, now=NOW + 2 * MINUTE)

    runs = await world.executor.run(run_list(bucket="b", limit=10))

    assert [one.id for one in runs] == [later.id, run.id]
    assert (runs[1].state, runs[1].abort_reasons, runs[1].totals) == ("aborted", ("one", "two"), totals)
    assert runs[1].finished_at == NOW + MINUTE


async def test_only_complete_runs_with_the_same_sources_are_scanned_runs(world: World) -> None:
    """A run counts once it has scanned the whole bucket, for its own fingerprint only."""
    run = await begun(world)
    before = await world.executor.run(run_get_scanned("b", "f"))
    await world.executor.run(run_scanned(run, now=NOW, beat_at=NOW))

    after = await world.executor.run(run_get_scanned("b", "f"))

    assert (before, after and after.id) == (None, run.id)
    assert await world.executor.run(run_get_scanned("b", "other")) is None


async def test_a_scanned_run_counts_until_one_of_the_same_prefix_has_other_sources(world: World) -> None:
    """A run over another prefix changes nothing for this one; one over this prefix with other sources does."""
    found = []
    for fingerprint in ("a-1", "b-1", "a-2", "b-2", "b-1"):
        run = await begun(world, fingerprint=fingerprint)
        await world.executor.run(run_scanned(run, now=NOW, beat_at=NOW))
        await world.executor.run(run_finish(run, state="completed", now=NOW))
        last = [await world.executor.run(run_get_scanned("b", name)) for name in ("a-1", "a-2", "b-1")]
        found.append([one and one.id - run.id for one in last])

    assert found == [[0, None, None], [-1, None, 0], [None, 0, -1], [None, -1, None], [None, -2, 0]]


async def test_a_finding_replaces_the_one_of_the_same_identity(world: World) -> None:
    """Key, source and row id identify a finding; a later run writes over it."""
    first, row = finding("k"), finding("k", source="uploads", row_id="1", rule=4)
    await world.executor.run(finding_put_many("b", 1, [first, row], now=NOW))
    await world.executor.run(
        finding_put_many("b", 2, [replace(first, sightings=1, rule=12)], now=NOW + MINUTE)
    )

    found = await world.executor.run(finding_get_many("b", ["k"]))

    assert sorted((one.identity, one.run_id, one.rule, one.sightings) for one in found) == [
        (("k", "", ""), 2, 12, 1),
        (("k", "uploads", "1"), 1, 4, 0),
    ]


async def test_due_findings_are_those_of_a_run_with_a_rule(world: World) -> None:
    """They come by id, after an id, and are gone once deleted."""
    await world.executor.run(
        finding_put_many("b", 1, [finding("a", rule=12), finding("b"), finding("c", rule=15)], now=NOW)
    )
    due = await world.executor.run(finding_get_due(1, rules=[12, 15], after=0, limit=10))
    rest = await world.executor.run(finding_get_due(1, rules=[12, 15], after=due[0].id, limit=10))
    await world.executor.run(finding_delete_many([due[0].id]))

    left = await world.executor.run(finding_list(bucket="b", kind="orphan", after=0, limit=10))

    assert [one.key for one in due] == ["a", "c"]
    assert [one.key for one in rest] == ["c"]
    assert [one.key for one in left] == ["b", "c"]


async def test_actions_come_back_in_the_order_given(world: World) -> None:
    """Their ids ascend, so each result belongs to its argument."""
    actions = [Action(key=key, rule=12) for key in ("c", "a", "b")]

    written = await world.executor.run(action_insert_many("b", 1, actions, now=NOW))

    assert [one.key for one in written] == ["c", "a", "b"]
    assert [one.id for one in written] == sorted(one.id for one in written)
    assert {one.state for one in written} == {ActionState.INTENDED}


async def test_open_actions_are_intended_or_quarantined(world: World) -> None:
    """Actions in their last state are not open, and `updated_before` leaves out those that were quarantined later."""
    written = await world.executor.run(
        action_insert_many("b", 1, [Action(key=key, rule=12) for key in "abc"], now=NOW)
    )
    a, b, _ = (one.id for one in written)
    await world.executor.run(action_set_state_many({a: (ActionState.QUARANTINED, "")}, was=None, now=NOW))
    await world.executor.run(
        action_set_state_many({b: (ActionState.QUARANTINED, "")}, was=None, now=NOW + MINUTE)
    )

    async def keys(state: ActionState, before: datetime | None = None) -> list[str]:
        query = action_get_open("b", state=state, after=0, limit=10, updated_before=before)
        return [action.key for action in await world.executor.run(query)]

    quarantined = await keys(ActionState.QUARANTINED)
    early = await keys(ActionState.QUARANTINED, NOW)
    intended = await keys(ActionState.INTENDED)
    await world.executor.run(action_set_state_many({a: (ActionState.PURGED, "over")}, was=None, now=NOW))

    assert [quarantined, early, intended] == [["a", "b"], ["a"], ["c"]]
    assert await keys(ActionState.PURGED) == []


async def test_a_purge_announces_no_action_that_a_restore_has_claimed(world: World) -> None:
    """A claimed action is not announced, an announced one can be claimed and says so, and one in place keeps its date."""
    written = await world.executor.run(
        action_insert_many("b", 1, [Action(key=key, rule=12) for key in "abc"], now=NOW)
    )
    a, b, c = (one.id for one in written)
    states = dict.fromkeys((a, b), (ActionState.QUARANTINED, ""))
    await world.executor.run(action_set_state_many(states, was=None, now=NOW))
    read = await world.executor.run(
        action_get_open("b", state=ActionState.QUARANTINED, after=0, limit=10, updated_before=NOW)
    )

    before = await world.executor.run(action_claim(a, now=NOW + MINUTE))
    announced = await world.executor.run(action_announce_purge(read, reason="doomed"))
    after = await world.executor.run(action_claim(b, now=NOW + MINUTE))
    intended = await world.executor.run(action_claim(c, now=NOW + MINUTE))

    assert announced == frozenset([b])
    assert [one.reason for one in (before, after, intended)] == ["", "doomed", ""]
    assert [one.updated_at for one in (before, after, intended)] == [NOW + MINUTE, NOW + MINUTE, NOW]


async def test_actions_are_found_by_key_and_by_what_can_be_restored(world: World) -> None:
    """The newest comes first, by key and of what can be restored; actions that kept their object cannot be restored."""
    for run_id in (1, 2):
        await world.executor.run(action_insert_many("b", run_id, [Action(key="p/a", rule=12)], now=NOW))
    kept = Action(key="p/b", rule=12, state=ActionState.KEPT)
    await world.executor.run(action_insert_many("b", 2, [kept], now=NOW))

    by_key = await world.executor.run(action_get_by_key("b", ["p/a", "p/b"]))
    found = await world.executor.run(
        action_get_restorable("b", run_id=None, prefix="p/", key=None, before=0, limit=10)
    )
    of_run = await world.executor.run(
        action_get_restorable("b", run_id=1, prefix=None, key=None, before=0, limit=10)
    )

    assert [(one.key, one.run_id) for one in by_key] == [("p/b", 2), ("p/a", 2), ("p/a", 1)]
    assert [(one.key, one.run_id) for one in found] == [("p/a", 2), ("p/a", 1)]
    assert [one.run_id for one in of_run] == [1]
