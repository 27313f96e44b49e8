"""
What a race must notice: one step of a run forgotten, in a process that is about to be thrown away.

Each is a function that breaks the process that it is called in. Whoever adds a guard adds what forgets it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from millhand.orphans import binding, evaluate
from millhand.orphans import run as reconciler
from millhand.orphans.ledger import ActionState, action_set_state_many
from millhand.orphans.removal import guard, quarantine, recovery, sweep, uploads, versions
from millhand.orphans.rules import Scope, Situation
from millhand.orphans.scan import compare, derived, partition_scan
from millhand.orphans.sources.references import References


def always(value: Any) -> Callable[..., Any]:
    """A function that says the same to everything."""
    return lambda *_, **__: value


def no_grace() -> None:
    """What nobody refers to is due at once."""
    evaluate._limit = always(timedelta(0))


def one_sighting() -> None:
    """What was seen by a run that never came to its end counts as seen."""
    Situation.is_past = property(lambda self: self.is_due)


def overwrites_keep_their_age() -> None:
    """Another object under the same key is as old as the one before."""
    evaluate.is_same_object = always(True)


def moves_whatever_is_there() -> None:
    """An object is moved although it is not the one that was seen."""
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

    async def quarantine_unreferenced(context: Any, state: Any, actions: Any) -> Any:
        moves = await quarantine.quarantine_objects(context.store, actions)
        await sweep.record_moves(context, state, moves)
        return moves

    sweep.quarantine_unreferenced = quarantine_unreferenced
    recovery.quarantine_unreferenced = quarantine_unreferenced


def no_look_after() -> None:
    """References are not read again after a move."""

    async def nothing(context: Any, moved: Any) -> dict[int, Any]:
        return {}

    sweep.restore_referenced = nothing
    recovery.restore_referenced = nothing


def nothing_is_healed() -> None:
    """What lies in quarantine and is referred to stays there."""

    async def restore_recalled(context: Any, state: Any) -> None:
        return None

    reconciler.restore_recalled = restore_recalled


def nothing_is_settled() -> None:
    """What a killed run had begun is left as it is."""

    async def settle_interrupted(context: Any, state: Any) -> None:
        return None

    reconciler.settle_interrupted = settle_interrupted


def purges_what_is_awaited() -> None:
    """What lies in quarantine ends in its time, whoever refers to it; and nothing is healed before."""

    async def purge_expired(context: Any, state: Any) -> None:
        before = context.now - context.config.quarantine_for
        async for actions in recovery._open_actions(context, ActionState.QUARANTINED, before):
            purged = await recovery.purge_objects(context.store, actions)
            await context.executor.run(action_set_state_many(purged.states, now=context.now))

    reconciler.purge_expired = purge_expired


def purges_at_once() -> None:
    """What was moved is destroyed in the same run, as a delete without a quarantine."""
    original = recovery.purge_expired

    async def purge_expired(context: Any, state: Any) -> None:
        now = context.now + timedelta(seconds=1)
        await original(
            replace(
                context,
                config=replace(context.config, quarantine_for=timedelta(0), allow_short_grace=True),
                now=now,
            ),
            state,
        )

    reconciler.purge_expired = purge_expired


def no_floors() -> None:
    """A source that is suddenly empty is believed."""
    guard._row_counts = always(())


def no_shares() -> None:
    """Any share of a bucket may go."""
    guard._shares = always(())


def no_overlap() -> None:
    """Rows that name other objects than there are may be those of this bucket."""
    guard._overlap = always(())


def no_search() -> None:
    """Nobody looks for keys where no source was declared."""

    async def find(*_: Any) -> tuple[str, ...]:
        return ()

    reconciler.find_undeclared = find


def no_clocks() -> None:
    """Clocks that disagree are believed."""
    reconciler.clock_abort_reasons = always(())


def no_binding() -> None:
    """Any database may judge the bucket."""
    binding.Binding.abort_reasons = always(())


def judges_parts_of_others() -> None:
    """A marker that lies below the root is nobody's."""

    async def check(*_: Any) -> None:
        return None

    partition_scan.check_below = check


def renews_only_what_it_removes() -> None:
    """A run with nothing to remove leaves the marker as it is."""

    async def advance(*_: Any) -> None:
        return None

    reconciler.advance_binding = advance


def no_failing_source() -> None:
    """A source that fails is a source without rows."""
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


def no_spelling() -> None:
    """A key that is only written otherwise is another key."""

    async def find_near_matches(context: Any, state: Any) -> None:
        return None

    reconciler.find_near_matches = find_near_matches


def no_scope() -> None:
    """Every key is ours to judge."""
    compare.KeyScope.__call__ = always(Scope.IN_SCOPE)
    compare.KeyScope.is_all = property(always(True))


def rows_go_unjudged() -> None:
    """A row that was due when it was seen is deleted, whatever it says when it is locked."""
    sweep._is_still_due = always(True)


def uploads_of_rows_go() -> None:
    """An upload in parts goes although a row waits for it."""
    uploads.waits_for = always(False)


def uploads_are_not_dated() -> None:
    """An upload in parts goes although its newest part is young."""
    original = uploads._evaluate

    def evaluate_upload(context: Any, upload: Any, touched_at: Any, rows: Any, prior: Any) -> Any:
        same = None if prior is None else replace(prior, modified_at=touched_at)
        return original(context, upload, touched_at, rows, same)

    uploads._evaluate = evaluate_upload


def hides_whatever_is_there() -> None:
    """In a bucket with versions, what a delete marker hides is not compared with what was seen."""

    async def hide(store: Any, seen: Any) -> str:
        await store.delete(seen.key)
        return ""

    quarantine.hide = hide


def destroys_all_versions() -> None:
    """In a bucket with versions, the end of one version is the end of all."""

    async def purge_version(store: Any, seen: Any) -> Any:
        for version in await versions.versions_of(store, seen.key):
            await store.delete_version(seen.key, version.version)
        return ActionState.PURGED, "gone"

    quarantine.purge_version = purge_version


MUTANTS: dict[str, Callable[[], None]] = {
    one.__name__: one
    for one in (
        no_grace,
        one_sighting,
        overwrites_keep_their_age,
        moves_whatever_is_there,
        no_look_at_all,
        no_look_after,
        nothing_is_healed,
        nothing_is_settled,
        purges_what_is_awaited,
        purges_at_once,
        no_floors,
        no_shares,
        no_overlap,
        no_search,
        no_clocks,
        no_binding,
        judges_parts_of_others,
        renews_only_what_it_removes,
        no_failing_source,
        no_parents,
        no_spelling,
        no_scope,
        rows_go_unjudged,
        uploads_of_rows_go,
        uploads_are_not_dated,
        hides_whatever_is_there,
        destroys_all_versions,
    )
}


def apply(name: str | None) -> None:
    """Break this process, if a mutant is named."""
    if name is not None:
        MUTANTS[name]()
