"""
Mutants: each breaks one step of a run in the process that calls it. The race must notice every one of them.

If you add a guard, add a function that removes it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from millhand.db.query import Query
from millhand.orphans import Mode, binding, evaluate
from millhand.orphans import run as run_module
from millhand.orphans.ledger import ActionState, action_set_state_many, run_get_scanned
from millhand.orphans.removal import guard, quarantine, recovery, sweep, undeclared, uploads, versions
from millhand.orphans.rules import Scope, Situation
from millhand.orphans.scan import compare, derived, partition_scan
from millhand.orphans.sources.references import References


def always(value: Any) -> Callable[..., Any]:
    """Return a function that returns `value` for any arguments."""
    return lambda *_, **__: value


def no_grace() -> None:
    """An orphan is due at once."""
    evaluate._limit = always(timedelta(0))


def one_sighting() -> None:
    """One sighting is enough, even of an incomplete run."""
    Situation.is_past = property(lambda self: self.is_due)


def overwrites_keep_their_age() -> None:
    """An overwritten object keeps its age."""
    evaluate.is_same_object = always(True)


def rows_bring_their_age() -> None:
    """A row is as old as the time that it holds, whenever it got its state."""
    evaluate._since = lambda row, seen_at: seen_at if row is None else row.left_at or seen_at


def moves_whatever_is_there() -> None:
    """An object is moved although it is another one than was seen."""
    quarantine_object = quarantine.quarantine_object

    async def move(store: Any, action: Any) -> Any:
        try:
            info = await store.head(action.key)
        except Exception:
            return await quarantine_object(store, action)
        return await quarantine_object(
            store, replace(action, size=info.size, etag=info.etag, modified_at=info.modified_at)
        )

    quarantine.quarantine_object = move


def no_look_at_all() -> None:
    """References are not read again around a move."""

    async def quarantine_unreferenced(context: Any, actions: Any) -> Any:
        return await quarantine.quarantine_objects(context.store, actions)

    sweep.quarantine_unreferenced = quarantine_unreferenced
    recovery.quarantine_unreferenced = quarantine_unreferenced


def no_look_after() -> None:
    """References are not read again after a move."""

    async def nothing(context: Any, moved: Any) -> dict[int, Any]:
        return {}

    sweep.restore_referenced = nothing
    recovery.restore_referenced = nothing


def nothing_is_healed() -> None:
    """An object in quarantine stays there although a row names it."""

    async def restore_recalled(context: Any, state: Any) -> None:
        return None

    run_module.restore_recalled = restore_recalled


def nothing_is_settled() -> None:
    """Actions that a killed run began stay as they are."""

    async def settle_interrupted(context: Any, state: Any) -> None:
        return None

    run_module.settle_interrupted = settle_interrupted


def settles_at_once() -> None:
    """The next run takes an object in place for one that stays there, although a paused process may move it."""
    original = recovery._is_cleared

    async def is_cleared(context: Any, action: Any, location: Any) -> bool:
        return location is quarantine.ObjectLocation.IN_PLACE or await original(context, action, location)

    recovery._is_cleared = is_cleared


def settles_what_it_did_not_move() -> None:
    """The next run closes an action whose row is gone and whose object it leaves, although a paused process may move it."""
    recovery._is_left = always(False)


def last_process_wins() -> None:
    """A process records that an object is gone, whose copy it does not look for, over what another run has recorded."""

    async def move_aside(store: Any, action: Any, seen: Any) -> None:
        await store.move(action.key, action.quarantine_key, if_same=seen)

    quarantine._move_aside = move_aside
    sweep.action_set_state_many = lambda states, *, now, **_: action_set_state_many(states, was=None, now=now)


def dooms_unannounced() -> None:
    """In a bucket with versions, no other run knows which versions a stalled process is about to destroy."""

    async def announced(_: Any, actions: Any) -> Any:
        return actions

    recovery._announced = announced


def copies_go_at_once() -> None:
    """The next run deletes the copy of an interrupted move, although a paused process may delete the object."""
    recovery._may_be_paused = always(False)


def purges_what_is_awaited() -> None:
    """Objects in quarantine are destroyed in time, even if a row names them."""

    async def purge_expired(context: Any, *_: Any) -> None:
        async for actions in undeclared.expired_actions(context):
            purged = await recovery.purge_objects(context.store, actions)
            await context.executor.run(action_set_state_many(purged.states, was=None, now=context.now))

    run_module.purge_expired = purge_expired


def purges_at_once() -> None:
    """An object is destroyed in the run that moved it, as without a quarantine."""
    original = recovery.purge_expired

    async def purge_expired(context: Any, state: Any, found: Any) -> None:
        now = context.now + timedelta(seconds=1)
        await original(
            replace(
                context,
                config=replace(context.config, quarantine_for=timedelta(0), allow_short_grace=True),
                now=now,
            ),
            state,
            found,
        )

    run_module.purge_expired = purge_expired


def no_min_rows() -> None:
    """A source that is suddenly empty does not abort the run."""
    guard._row_counts = always(())


def the_last_run_counts_rows() -> None:
    """Rows are compared with those of the last run, even one that aborted or had nothing to remove."""

    def last_rows(bucket: str, fingerprint: str, **_: Any) -> Query[dict[str, int]]:
        last = run_get_scanned(bucket, fingerprint)
        return Query(
            last.name, last.params, lambda rows: run.totals.rows_of if (run := last.parse(rows)) else {}
        )

    run_module.run_get_most_rows = last_rows


def no_shares() -> None:
    """A run may remove any share of a bucket."""
    guard._shares = always(())


def no_overlap() -> None:
    """Rows without their objects do not abort the run."""
    guard._overlap = always(())


def no_search() -> None:
    """Undeclared references are not searched."""

    async def due(_: Any) -> AsyncIterator[Any]:
        for nothing in ():
            yield nothing

    undeclared._due = due
    _lets_go_what_was_not_searched()


def no_search_of_rows() -> None:
    """Objects that go with their row are not searched."""
    original = undeclared._due

    async def due(context: Any) -> AsyncIterator[Any]:
        async for finding in original(context):
            if not finding.source:
                yield finding

    undeclared._due = due
    _lets_go_what_was_not_searched()


def no_search_of_the_quarantine() -> None:
    """Objects in quarantine are not searched before they are destroyed."""

    async def expired(_: Any) -> AsyncIterator[Any]:
        for nothing in ():
            yield nothing

    undeclared.expired_actions = expired
    _lets_go_what_was_not_searched()


def _lets_go_what_was_not_searched() -> None:
    undeclared.Search.clears = lambda self, key: key not in self.notes


def no_clocks() -> None:
    """Clocks that disagree do not abort the run."""
    run_module.clock_abort_reasons = always(())


def no_binding() -> None:
    """Any database may scan the bucket."""
    binding.Binding.abort_reasons = always(())


def judges_parts_of_others() -> None:
    """A marker below the root is ignored."""

    async def check(*_: Any) -> None:
        return None

    partition_scan.check_nested_markers = check


def renews_only_what_it_removes() -> None:
    """A run with nothing to remove does not advance the marker."""

    async def compare_only(context: Any, **_: Any) -> tuple[str, ...]:
        return (await binding.read_binding(context.executor, context.store)).abort_reasons()

    run_module._bind = compare_only


def reports_bind_nothing() -> None:
    """A run in mode report does not bind the bucket."""
    bind = run_module._bind

    async def bind_what_it_removes(context: Any, *, is_writable: bool) -> tuple[str, ...]:
        return await bind(context, is_writable=is_writable and context.config.mode is not Mode.REPORT)

    run_module._bind = bind_what_it_removes


def no_failing_source() -> None:
    """A source that fails has no rows."""
    original = References._read

    async def read(self: Any, *args: Any, **options: Any) -> Any:
        try:
            return await original(self, *args, **options)
        except Exception:
            return []

    References._read = read


def no_parents() -> None:
    """A derived object has no parent."""
    derived.DerivedFrom.parents = always([])


def no_near_matches() -> None:
    """A key that is written differently is another key."""

    async def find_near_matches(context: Any, state: Any) -> None:
        return None

    run_module.find_near_matches = find_near_matches


def no_scope() -> None:
    """Every key is in scope."""
    compare.KeyScope.__call__ = always(Scope.IN_SCOPE)
    compare.KeyScope.is_all = property(always(True))


def rows_go_unjudged() -> None:
    """A row that was due at the scan is deleted, whatever its state is when it is locked."""
    sweep._is_still_due = always(True)


def rows_go_unlooked() -> None:
    """A row that was due at the scan is deleted, whatever object has its key by then."""
    sweep.why_row_stays = always("")


def uploads_of_rows_go() -> None:
    """A multipart upload is aborted although a row waits for it."""
    uploads.waits_for = always(False)


def uploads_are_not_dated() -> None:
    """A multipart upload is aborted although its newest part is young."""
    original = uploads._evaluate

    def evaluate_upload(context: Any, upload: Any, touched_at: Any, rows: Any, prior: Any) -> Any:
        same = None if prior is None else replace(prior, modified_at=touched_at)
        return original(context, upload, touched_at, rows, same)

    uploads._evaluate = evaluate_upload


def hides_whatever_is_there() -> None:
    """In a bucket with versions, the hidden version is not compared with the object that was seen."""

    async def hide(store: Any, seen: Any) -> str:
        await store.delete(seen.key)
        return ""

    quarantine.hide = hide


def destroys_all_versions() -> None:
    """In a bucket with versions, all versions are destroyed with one."""

    async def purge_version(store: Any, seen: Any) -> Any:
        for version in await versions.versions_of(store, seen.key):
            await store.delete_version(seen.key, version.version)
        return ActionState.PURGED, "gone"

    quarantine.purge_version = purge_version


def hides_what_has_no_version() -> None:
    """In a bucket with versions, an object without a version id is hidden too."""
    quarantine.NO_VERSION = ()  # type: ignore[assignment]


MUTANTS: dict[str, Callable[[], None]] = {
    one.__name__: one
    for one in (
        copies_go_at_once,
        settles_at_once,
        settles_what_it_did_not_move,
        last_process_wins,
        dooms_unannounced,
        no_grace,
        one_sighting,
        overwrites_keep_their_age,
        rows_bring_their_age,
        moves_whatever_is_there,
        no_look_at_all,
        no_look_after,
        nothing_is_healed,
        nothing_is_settled,
        purges_what_is_awaited,
        purges_at_once,
        no_min_rows,
        the_last_run_counts_rows,
        no_shares,
        no_overlap,
        no_search,
        no_search_of_rows,
        no_search_of_the_quarantine,
        no_clocks,
        no_binding,
        judges_parts_of_others,
        renews_only_what_it_removes,
        reports_bind_nothing,
        no_failing_source,
        no_parents,
        no_near_matches,
        no_scope,
        rows_go_unjudged,
        rows_go_unlooked,
        uploads_of_rows_go,
        uploads_are_not_dated,
        hides_whatever_is_there,
        destroys_all_versions,
        hides_what_has_no_version,
    )
}


def apply(name: str | None) -> None:
    """Apply a mutant to this process, if one is named."""
    if name is not None:
        MUTANTS[name]()
