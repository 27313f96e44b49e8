"""
One short scene for each mutant: the events in which its missing step loses something live.

A random race finds them too, some within seconds and some not in an hour. Without the mutant, a scene must lose nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, cast

from adversary import Interrupter, break_source
from race_plays import (
    MINUTES,
    Violation,
    bring_back,
    dump,
    emptied,
    load,
    moved_elsewhere,
    must_be_idle,
    without_rows,
)
from world import DAY

from millhand.orphans import Mode
from millhand.storage.s3_bucket import S3Bucket

if TYPE_CHECKING:
    from race import Place, Race

    from millhand.storage.threaded_store import ThreadedStore

HOURS = timedelta(hours=2)  # older than any object that is too young for a finding
KEY = "k/05"
SEEN = "SELECT FROM {schema}.millhand_orphan_run WHERE state = 'sweeping'"
INTENDED = "SELECT FROM {schema}.millhand_orphan_action WHERE state = 'intended'"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The events, and their place: a directory, a server that copies, a bucket, or a bucket that keeps versions."""

    of: Callable[[Race], Awaitable[None]]
    where: str = "directory"


@dataclass(kw_only=True)
class InTheSweep(Interrupter):
    """Lets others act once: after the scan of a run, or after it has recorded what it will remove."""

    interventions: dict[object, list[Callable[[], Awaitable[None]]]] = field(default_factory=dict)  # type: ignore[assignment]
    acts: tuple[Callable[[], Awaitable[None]], ...]
    race: Race
    when: str = SEEN

    async def __call__(self, operation: str) -> None:
        # Not before a query of a source: it may be the last one before something is destroyed.
        if operation != "fetch" and self.acts and await self.race.world.sql(self.when):
            acts, self.acts = self.acts, ()
            for act in acts:
                await act()
        await super().__call__(operation)


async def _has_orphan(race: Race) -> None:
    """Make an orphan that the next run removes."""
    await race.act_on(KEY, "put_orphan")
    await race.run(HOURS, is_quiet=True)
    race.world.now += 8 * DAY


async def _is_taken(race: Race) -> None:
    """Let a run remove an orphan."""
    await _has_orphan(race)
    await race.run(MINUTES, is_quiet=True)


def _in_the_sweep(race: Race, *actions: str) -> InTheSweep:
    def act(action: str) -> Callable[[], Awaitable[None]]:
        return lambda: race.act_on(KEY, action)

    return InTheSweep(race=race, acts=tuple(act(action) for action in actions))


def _at_the_move(race: Race, action: str) -> Interrupter:
    return Interrupter(interventions={("move", 1): [lambda: race.act_on(KEY, action)]})


async def young(race: Race) -> None:
    """An orphan is seen three times within three days."""
    await race.act_on(KEY, "put_orphan")
    for _ in range(3):
        await race.run(DAY, is_quiet=True)


async def seen_by_a_broken_run(race: Race) -> None:
    """A run that records an orphan is killed before its end, and the next one comes when the orphan is old."""
    for number in range(3, 6):
        key = f"k/{number:02}"
        await race.act_on(key, "put_orphan")
        await race.run(HOURS, is_quiet=True, fatal=("committed", number))
        await race.run(8 * DAY, is_quiet=True)


async def overwritten(race: Race) -> None:
    """An orphan is overwritten two days before it would be old."""
    await race.act_on(KEY, "put_orphan")
    await race.run(HOURS, is_quiet=True)
    await race.run(5 * DAY, is_quiet=True)
    await race.act_on(KEY, "put_orphan")
    await race.run(3 * DAY, is_quiet=True)


async def replaced_in_the_sweep(race: Race) -> None:
    """Another object is put under a key that a run is about to remove."""
    await _has_orphan(race)
    await race.run(MINUTES, is_quiet=True, interrupter=_in_the_sweep(race, "put_first"))


async def referred_to_before(race: Race) -> None:
    """A row comes after the scan."""
    await _has_orphan(race)
    await race.run(MINUTES, is_quiet=True, interrupter=_in_the_sweep(race, "refer_and_look"))


async def referred_to_at_the_move(race: Race) -> None:
    """A row comes between the last read of the references and the move."""
    await _has_orphan(race)
    await race.run(MINUTES, is_quiet=True, interrupter=_at_the_move(race, "refer_and_look"))


async def referred_to_after(race: Race) -> None:
    """A row comes for an object in quarantine."""
    await _is_taken(race)
    await race.act_on(KEY, "refer")
    await race.run(DAY, is_quiet=True)


async def killed_at_the_move(race: Race) -> None:
    """A run is killed after it has moved an object, and a row comes for that."""
    await _has_orphan(race)
    await race.run(MINUTES, is_quiet=True, fatal=("moved", 1))
    await race.act_on(KEY, "refer")
    await race.run(DAY, is_quiet=True)


async def paused_at_the_move(race: Race) -> None:
    """A process is held up after it has copied an object. A row comes, another run ends, and then the process goes on."""
    await _has_orphan(race)
    await race.run(MINUTES, is_quiet=True, stalls_before="copied")
    await race.act_on(KEY, "refer_and_look")
    await race.run(HOURS, is_quiet=True)
    await race.end_zombie()
    await race.run(HOURS, is_quiet=True)


async def moved_late(race: Race) -> None:
    """A process is held up before a move. A row comes, another run ends, and the process moves the object and is killed."""
    await _has_orphan(race)
    await race.run(MINUTES, is_quiet=True, stalls_before="move")
    await race.act_on(KEY, "refer_and_look")
    await race.run(HOURS, is_quiet=True)
    await race.end_zombie(fatal=("moved", 1))
    await race.run(HOURS, is_quiet=True)


async def moved_late_without_its_row(race: Race) -> None:
    """As `moved_late`, but the process has deleted the row of an upload that never ended. Another row comes."""
    await race.act_on(KEY, "upload")
    await race.run(HOURS, is_quiet=True)
    race.world.now += 8 * DAY
    await race.run(MINUTES, is_quiet=True, stalls_before="move")
    await race.act_on(KEY, "finish_upload")
    await race.act_on(KEY, "refer_and_look")
    await race.run(HOURS, is_quiet=True)
    await race.end_zombie(fatal=("moved", 1))
    await race.run(HOURS, is_quiet=True)


async def paused_at_the_purge(race: Race) -> None:
    """A process is held up before it destroys a version. A row comes, another run restores the object, and it goes on."""
    await _is_taken(race)
    await race.run(8 * DAY, is_quiet=True, stalls_before="delete version")
    await race.act_on(KEY, "refer")
    await race.run(HOURS, is_quiet=True)
    await race.act_on(KEY, "look")
    await race.end_zombie()


async def overtaken_at_the_move(race: Race) -> None:
    """A process is held up before a move, and the next run moves the object. The process finds it gone, and a row comes."""
    await race.act_on(KEY, "upload")
    await race.run(HOURS, is_quiet=True)
    race.world.now += 8 * DAY
    await race.run(MINUTES, is_quiet=True, stalls_before="move")
    await race.run(HOURS, is_quiet=True)
    await race.end_zombie()
    await race.act_on(KEY, "finish_upload")
    await race.act_on(KEY, "refer")
    await race.run(HOURS, is_quiet=True)


async def referred_to_at_the_end(race: Race) -> None:
    """A row comes for a quarantined object in the run that would destroy it, after that run has restored others."""
    await _is_taken(race)
    await race.run(8 * DAY, is_quiet=True, interrupter=_in_the_sweep(race, "refer"))
    await race.run(DAY, is_quiet=True)


async def wrong_clock(race: Race) -> None:
    """An object waits for its row, and the database's clock is ten days ahead for one run."""
    await race.act_on(KEY, "put_first")
    await race.run(HOURS, is_quiet=True)
    outcome = await race.run(MINUTES, skew=10 * DAY, is_quiet=True, is_audited=False)
    await must_be_idle(race, outcome, "with a clock that is wrong by ten days")


async def thinned(race: Race) -> None:
    """Five of twelve rows are gone, which the guard on row counts allows."""
    await without_rows(race, "key < 'k/05'", (MINUTES, 8 * DAY, 8 * DAY), max_share=0.1)


async def mostly_emptied(race: Race) -> None:
    """Nine of twelve rows are gone, and first seen so by a run that has nothing to remove."""
    await race.run(HOURS, is_quiet=True)
    await without_rows(race, "key < 'k/09'", (MINUTES, 8 * DAY, 8 * DAY), max_share=1.0)


async def of_another_bucket(race: Race) -> None:
    """All rows name objects of another bucket, and then name their own again."""
    await race.run(HOURS, is_quiet=True)
    truth = await dump(race.world)
    await race.world.sql("UPDATE {schema}.uploads SET key = md5(key)")
    for _ in range(2):
        await race.run(8 * DAY, is_quiet=True, is_audited=False, min_overlap=0.95)
    await load(race.world, {"uploads": truth["uploads"]})
    await race.audit(after_run=True)


async def _is_named_in_a_note(race: Race) -> None:
    note = json.dumps({"cover": KEY})
    await race.world.sql("UPDATE {schema}.uploads SET note = $1::text::jsonb WHERE key = 'k/00.anchor'", note)


async def named_in_a_note(race: Race) -> None:
    """An object has no row of its own, and its key is in the JSON of another row."""
    race.app.out_of_scope[KEY] = race.app.content(KEY)
    await race.world.put(KEY, race.app.out_of_scope[KEY])
    await _is_named_in_a_note(race)
    for span in (HOURS, 8 * DAY):
        await race.run(span, is_quiet=True, not_references=())


async def pending_and_named_in_a_note(race: Race) -> None:
    """An object has a row whose upload never ended, and its key is in the JSON of another row."""
    race.app.out_of_scope[KEY] = race.app.content(KEY)
    await race.world.put(KEY, race.app.out_of_scope[KEY])
    await race.world.row(KEY, state="pending")
    await _is_named_in_a_note(race)
    for span in (HOURS, 8 * DAY):
        await race.run(span, is_quiet=True, not_references=())


async def named_in_quarantine(race: Race) -> None:
    """The key of an object in quarantine comes into the JSON of another row."""
    await _has_orphan(race)
    content = await race.world.store.get(KEY)
    await race.run(MINUTES, is_quiet=True)
    race.app.out_of_scope[KEY] = content
    await _is_named_in_a_note(race)
    await race.run(8 * DAY, is_quiet=True, not_references=())


async def another_database(race: Race) -> None:
    """The bucket is bound, and another database runs over it."""
    await _is_taken(race)
    await moved_elsewhere(race)


async def another_while_reporting(race: Race) -> None:
    """A database only reports so far, and another one runs over its bucket."""
    for span in (HOURS, MINUTES):
        await race.run(span, is_quiet=True, mode=Mode.REPORT)
    await moved_elsewhere(race, must_be_bound=True)


async def part_of_another(race: Race) -> None:
    """Another database has bound a part of the bucket, and its objects have no rows here."""
    marker = {"bound_at": "a day", "database": "1/2", "generation": 1, "name": "other", "token": "another"}
    await race.world.put("part/.millhand/binding.json", json.dumps(marker).encode())
    race.app.out_of_scope["part/of another"] = race.app.content("part/of another")
    await race.world.put("part/of another", race.app.out_of_scope["part/of another"])
    await _runs_of_a_month(race)


async def restored_in_good_order(race: Race) -> None:
    """The database is restored from a backup; the only run since then had nothing to remove."""
    await _is_taken(race)
    for _ in range(2):
        await race.run(8 * DAY, is_quiet=True)
    backup = await dump(race.world)
    await race.act_on(KEY, "put_and_adopt")
    await race.run(MINUTES, is_quiet=True)
    await bring_back(race, backup, is_followed=True)


async def broken_in_the_sweep(race: Race) -> None:
    """A row comes, and from then on its source fails in this run."""
    await _has_orphan(race)
    hook = _in_the_sweep(race, "refer_and_look")
    hook.when = INTENDED
    hook.acts = (*hook.acts, lambda: break_source(hook))
    await race.run(MINUTES, is_quiet=True, interrupter=hook)


async def derived(race: Race) -> None:
    """A variant of a live object has no row of its own."""
    await race.act_on(KEY, "put_and_adopt")
    await race.act_on(KEY, "derive")
    await _runs_of_a_month(race)


async def miswritten(race: Race) -> None:
    """A row writes the key of its object in another case."""
    await race.act_on(KEY, "miswrite")
    await _runs_of_a_month(race)


async def _runs_of_a_month(race: Race) -> None:
    for span in (HOURS, 8 * DAY, 8 * DAY):
        await race.run(span, is_quiet=True)


async def pending_again(race: Race) -> None:
    """The row of a live object is a year old, and pending again for a new upload."""
    await race.act_on(KEY, "put_and_adopt")
    await race.run(HOURS, is_quiet=True)
    again = "UPDATE {schema}.uploads SET state = 'pending', created_at = created_at - interval '1 year' WHERE key = $1"
    await race.world.sql(again, KEY)
    for _ in range(2):
        await race.run(HOURS, is_quiet=True, is_audited=False)
    await race.world.sql("UPDATE {schema}.uploads SET state = 'ready' WHERE key = $1", KEY)
    await race.audit(after_run=True)


async def finished_in_the_sweep(race: Race) -> None:
    """A pending row is old, and its upload is finished after the run has seen it."""
    await race.act_on(KEY, "upload")
    await race.run(HOURS, is_quiet=True)
    await race.run(8 * DAY, is_quiet=True, interrupter=_in_the_sweep(race, "finish_upload"))


async def uploaded_in_the_sweep(race: Race) -> None:
    """A pending row is old, and its object comes after the run has seen none. The application then finishes the upload."""
    await race.act_on(KEY, "begin_upload")
    await race.run(HOURS, is_quiet=True)
    await race.run(8 * DAY, is_quiet=True, interrupter=_in_the_sweep(race, "put_upload"))
    await race.act_on(KEY, "finish_upload")
    if KEY not in race.app.live:
        raise Violation(f"{KEY!r} was uploaded in the sweep, and its row is gone")


async def awaited_parts(race: Race) -> None:
    """A multipart upload is old, and a young row waits for it."""
    await race.act_on(KEY, "begin_loose_parts")
    await race.run(HOURS, is_quiet=True)
    await race.run(5 * DAY, is_quiet=True)
    await race.act_on(KEY, "await_parts")
    await race.run(3 * DAY, is_quiet=True)


async def slow_parts(race: Race) -> None:
    """A multipart upload was begun long ago, and still gets parts."""
    await race.act_on(KEY, "begin_loose_parts")
    await race.run(HOURS, is_quiet=True)
    race.world.now += 5 * DAY
    deadline = time.monotonic() + 10
    while race.app.parts[KEY].at < race.world.now:
        if time.monotonic() > deadline:
            raise TimeoutError("a second part must be sent in another second than the first, got none in ten")
        await race.act_on(KEY, "put_more_parts")
    await race.run(3 * DAY, is_quiet=True)


async def replaced_behind_a_marker(race: Race) -> None:
    """A removed object has a new object on top of it when its time in quarantine is over."""
    await _is_taken(race)
    await race.act_on(KEY, "put_and_adopt")
    await race.run(8 * DAY, is_quiet=True)


async def suspended_at_the_move(race: Race) -> None:
    """The versions of a bucket are suspended, and a row comes, right before the move of an object without version id."""
    _set_versions(race, "Suspended")
    await race.act_on(KEY, "put_orphan")
    _set_versions(race, "Enabled")

    async def suspend() -> None:
        _set_versions(race, "Suspended")
        await race.act_on(KEY, "refer_and_look")

    await race.run(HOURS, is_quiet=True)
    race.world.now += 8 * DAY
    interrupter = Interrupter(interventions={("move", 1): [suspend], ("delete", 1): [suspend]})
    try:
        await race.run(MINUTES, is_quiet=True, interrupter=interrupter)
    finally:
        _set_versions(race, "Enabled")


def _set_versions(race: Race, status: str) -> None:
    bucket = cast("ThreadedStore", race.world.store).blocking
    assert isinstance(bucket, S3Bucket)
    bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": status})


# The mutants of race_mutants.py, by name.
SCENES = {
    "copies_go_at_once": Scene(of=paused_at_the_move, where="clumsy"),
    "destroys_all_versions": Scene(of=replaced_behind_a_marker, where="versions"),
    "dooms_unannounced": Scene(of=paused_at_the_purge, where="versions"),
    "hides_what_has_no_version": Scene(of=suspended_at_the_move, where="versions"),
    "hides_whatever_is_there": Scene(of=replaced_in_the_sweep, where="versions"),
    "judges_parts_of_others": Scene(of=part_of_another),
    "last_process_wins": Scene(of=overtaken_at_the_move),
    "moves_whatever_is_there": Scene(of=replaced_in_the_sweep),
    "no_binding": Scene(of=another_database),
    "no_clocks": Scene(of=wrong_clock),
    "no_failing_source": Scene(of=broken_in_the_sweep),
    "no_min_rows": Scene(of=emptied),
    "no_grace": Scene(of=young),
    "no_look_after": Scene(of=referred_to_at_the_move),
    "no_look_at_all": Scene(of=referred_to_before),
    "no_overlap": Scene(of=of_another_bucket),
    "no_parents": Scene(of=derived),
    "no_scope": Scene(of=_runs_of_a_month),
    "no_search": Scene(of=named_in_a_note),
    "no_search_of_rows": Scene(of=pending_and_named_in_a_note),
    "no_search_of_the_quarantine": Scene(of=named_in_quarantine),
    "no_shares": Scene(of=thinned),
    "no_near_matches": Scene(of=miswritten),
    "nothing_is_healed": Scene(of=referred_to_after),
    "nothing_is_settled": Scene(of=killed_at_the_move),
    "one_sighting": Scene(of=seen_by_a_broken_run),
    "overwrites_keep_their_age": Scene(of=overwritten),
    "purges_at_once": Scene(of=_is_taken),
    "purges_what_is_awaited": Scene(of=referred_to_at_the_end),
    "renews_only_what_it_removes": Scene(of=restored_in_good_order),
    "reports_bind_nothing": Scene(of=another_while_reporting),
    "rows_bring_their_age": Scene(of=pending_again),
    "rows_go_unjudged": Scene(of=finished_in_the_sweep),
    "rows_go_unlooked": Scene(of=uploaded_in_the_sweep),
    "settles_at_once": Scene(of=moved_late),
    "settles_what_it_did_not_move": Scene(of=moved_late_without_its_row),
    "the_last_run_counts_rows": Scene(of=mostly_emptied),
    "uploads_are_not_dated": Scene(of=slow_parts, where="bucket"),
    "uploads_of_rows_go": Scene(of=awaited_parts, where="bucket"),
}


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The result of a scene: `lost` is the text of the violation, or None."""

    lost: str | None
    seconds: float


async def show(race: Race, scene: Scene, place: Place, *, mutant: str | None) -> Shown:
    """Play a scene, with or without a mutant."""
    race.mutant = mutant
    began_at = time.monotonic()
    lost = None
    try:
        async with race.founded(place):
            await scene.of(race)
    except Violation as violation:
        lost = str(violation)
    return Shown(lost=lost, seconds=time.monotonic() - began_at)
