"""Plays of a race besides a usual run: a restored backup, a source that is suddenly empty, clocks that are wrong."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inventory_reports import FOLDER, Reports, objects_of
from world import DAY, World

from millhand.orphans import Mode, bind

if TYPE_CHECKING:
    from race import Race

MINUTES = timedelta(minutes=2)
SPANS = (MINUTES, DAY, 3 * DAY, 8 * DAY, 8 * DAY, 8 * DAY, 16 * DAY, 31 * DAY)
MODES = (Mode.DELETE,) * 4 + (Mode.QUARANTINE, Mode.REPORT)
OURS = ("run", "partition", "finding", "action", "binding")


class Violation(AssertionError):
    """Something live was lost, or a run that must abort did not."""


@dataclass(frozen=True)
class Play:
    """A play, and how often it is chosen."""

    of: Callable[[Race], Awaitable[None]]
    weight: int


async def usual(race: Race) -> None:
    """A run with random interventions."""
    await race.run(race.chance.choice(SPANS), mode=race.chance.choice(MODES))


async def attack(race: Race) -> None:
    """Orphans become due, and the application acts in the run that removes them."""
    keys = race.chance.sample(race.keys, race.chance.randrange(4, 12))
    for key in keys:
        await race.act_on(key, "put_orphan")
    await race.run(MINUTES, is_calm=True)
    race.targets = keys
    await race.run(8 * DAY)
    race.targets = []
    for key in race.chance.sample(keys, len(keys) // 2):
        await race.act_on(key, "refer")
    await race.run(race.chance.choice((MINUTES, DAY, 8 * DAY)), is_calm=True)


async def killed(race: Race) -> None:
    """A run is killed around a move, and rows come for the objects that it was removing."""
    keys = race.chance.sample(race.keys, 6)
    for key in keys:
        await race.act_on(key, "put_orphan")
    await race.run(MINUTES, is_calm=True)
    moment = (race.chance.choice(("move", "moved", "moved", "committed")), race.chance.randrange(1, 5))
    await race.run(8 * DAY, is_calm=True, fatal=moment)
    for key in race.chance.sample(keys, 4):
        await race.act_on(key, "refer")
    await race.run(race.chance.choice((MINUTES, 2 * DAY)), is_calm=True)


async def paused(race: Race) -> None:
    """A process is held up between a copy and its delete, rows come, another run ends, and then the process goes on."""
    await race.end_zombie()
    for key in race.chance.sample(race.keys, 6):
        await race.act_on(key, "put_orphan")
    await race.run(MINUTES, is_calm=True)
    await race.run(8 * DAY, is_calm=True, stalls_before="copied")
    for key in race.keys:
        if race.chance.random() < 0.5:
            await race.act_on(key, "refer_and_look")
    await race.run(race.chance.choice((MINUTES, 2 * DAY)), is_quiet=True)
    await race.end_zombie()
    await race.run(MINUTES, is_calm=True)


async def compared(race: Race) -> None:
    """Runs compare the rows with a report of the bucket that lacks objects, has others that are gone, and grows old."""
    with tempfile.TemporaryDirectory(prefix="millhand-race-inventory-") as name:
        reports = Reports(Path(name))
        (Path(name) / FOLDER).mkdir(parents=True)
        bucket, _, root = race.app.recon_store.url.partition("://")[2].partition("/")
        root = root if race.app.recon_store.url.startswith("s3:") else ""
        for _ in range(race.chance.randrange(1, 3)):
            objects = await objects_of(race.world.store)
            known = [replace(one, key=root + one.key) for one in objects if race.chance.random() < 0.95]
            format = race.chance.choice(("CSV", "Parquet"))
            reports.write(known, format=format, now=race.world.now, sourceBucket=bucket or "none")
            for span in (MINUTES, 8 * DAY):
                await race.some_acts(race.chance.randrange(1, 12))
                outcome = await race.run(span, inventory=reports.url, mode=race.chance.choice(MODES))
                race.done[f"compared {outcome.state}"] += 1


async def late(race: Race) -> None:
    """Rows come for quarantined objects in the run that would destroy them, after that run has restored others."""
    await race.run(8 * DAY, is_calm=True)
    for _ in range(3):
        await race.act("refer")
    await race.run(8 * DAY)
    for _ in range(3):
        await race.act("refer")
    await race.run(8 * DAY, is_calm=True)


async def emptied(race: Race) -> None:
    """The table is empty for several runs, and the rows come back."""
    await without_rows(race, "true", (8 * DAY, 8 * DAY), max_share=1.0)


async def halved(race: Race) -> None:
    """Nearly half of the rows are missing for several runs, and come back."""
    await without_rows(
        race, "id % 100 < 45 OR key LIKE 'k/0%.anchor'", (MINUTES, 8 * DAY, 8 * DAY), max_share=0.1
    )


async def skewed(race: Race) -> None:
    """The database's clock is wrong by days for one run, ahead or behind, and right again."""
    if race.chance.random() < 0.7:
        await race.act("put_first")
    before = await _places(race)
    days = race.chance.choice((-20, -10, -8, 8, 10, 20))
    outcome = await race.run(MINUTES, skew=days * DAY, mode=Mode.DELETE, is_quiet=True, is_audited=False)
    await must_be_idle(race, outcome, f"with a clock that is wrong by {days} days")
    await _must_be_as_before(race, before, f"a run whose clock was wrong by {days} days")
    await race.run(MINUTES, is_calm=True)
    await race.run(DAY)


async def restored(race: Race) -> None:
    """The database is restored from a backup that is older than the bucket; then its rows are brought up to date."""
    await race.end_zombie()
    if not (await race.run(8 * DAY, is_calm=True)).is_whole:
        return
    backup, num_runs = await dump(race.world), race.chance.randrange(4)
    for _ in range(num_runs):
        await race.some_acts(race.chance.randrange(1, 12))
        outcome = await race.run(race.chance.choice((MINUTES, 8 * DAY)), is_calm=True)
        if not outcome.is_whole:
            return
    await race.some_acts(race.chance.randrange(1, 12))
    await bring_back(race, backup, is_followed=num_runs > 0)


async def bring_back(race: Race, backup: Mapping[str, str], *, is_followed: bool) -> None:
    """
    Restore a backup of a database whose runs may remove. If a run came after the backup, runs must abort.

    Raises: Violation.
    """
    truth, generation = await dump(race.world), await _generation(race.world)
    # Whatever runs moved after the backup stays where it is: the restored ledger does not know it.
    race.app.forgotten = await race.app.in_quarantine()
    race.app.orphans.clear()
    race.app.taken.clear()
    race.app.awaited.clear()
    await load(race.world, backup)
    is_bound = await _generation(race.world) > 0
    is_given_away = await _generation(race.world) < generation
    if is_bound and is_followed and not is_given_away:
        raise Violation("the marker must know of every run that may remove, got one that it does not know of")
    before = await _places(race)
    race.app.record_all("restored" + (", and the marker knows" if is_given_away else ""))
    for span in (MINUTES, 8 * DAY, 8 * DAY) if is_given_away else (MINUTES, DAY):
        outcome = await race.run(span, is_quiet=True, is_audited=False, mode=race.chance.choice(MODES))
        if is_given_away:
            if outcome.state != "aborted":
                raise Violation(
                    f"a run of a database that is older than its bucket must abort, got {outcome.state}"
                )
            await _must_be_as_before(race, before, "runs of a database that is older than its bucket")
    race.done["restored, and the marker knew" if is_given_away else "restored, and no run since"] += 1
    await load(race.world, {"uploads": truth["uploads"]})
    await bind(race.world.executor, race.app.recon_store, now=race.world.now)
    await race.run(MINUTES, is_calm=True)


async def moved_elsewhere(race: Race, *, must_be_bound: bool = False) -> None:
    """Another database, with its own rows and no ledger, runs over the bucket. Raises: Violation."""
    await race.end_zombie()
    ledger = await dump(race.world)
    if not must_be_bound and not await _generation(race.world):
        return
    before = await _places(race)
    await load(race.world, {name: "[]" for name in ledger if name != "avatars"})
    for key in ("other/a", "other/b"):
        await race.world.row(key)
    for span in (MINUTES, 8 * DAY, 8 * DAY):
        outcome = await race.run(span, is_quiet=True, is_audited=False, mode=Mode.DELETE)
        if outcome.state != "aborted":
            raise Violation(
                f"a run of a database that the bucket is not bound to must abort, got {outcome.state}"
            )
    await _must_be_as_before(race, before, "runs of another database")
    await load(race.world, ledger)
    await race.run(MINUTES, is_calm=True)


async def without_rows(race: Race, condition: str, spans: tuple[timedelta, ...], *, max_share: float) -> None:
    """Run without some rows of the table, and bring them back. Raises: Violation."""
    await race.end_zombie()
    if not (await race.run(MINUTES, is_quiet=True)).is_whole:
        return
    before = await _places(race)
    truth = await dump(race.world)
    await race.world.sql(f"DELETE FROM {{schema}}.uploads WHERE {condition}")
    for span in spans:
        await race.run(span, is_quiet=True, is_audited=False, mode=Mode.DELETE, max_share=max_share)
        await _must_be_as_before(race, before, f"runs with too few rows ({condition})")
    await load(race.world, {"uploads": truth["uploads"]})
    race.app.uncertain.update(race.app.orphans)
    race.app.orphans.clear()
    race.app.taken.clear()
    race.app.awaited.clear()
    await race.run(MINUTES, is_calm=True)


async def must_be_idle(race: Race, outcome: Any, when: str) -> None:
    """Raises: Violation, if a run removed anything."""
    if outcome.num_removed:
        raise Violation(await race.story({"": f"{outcome.num_removed} removed {when}"}))


async def _places(race: Race) -> dict[str, str]:
    """Return the place of each object that the application relies on."""
    return {key: await race.app.where(key, data) for key, data in race.app.live.items()}


async def _must_be_as_before(race: Race, before: Mapping[str, str], what: str) -> None:
    now = await _places(race)
    lost = {
        key: f"{now.get(key)} after {what}"
        for key, found in before.items()
        if found == "place" != now.get(key)
    }
    if lost:
        raise Violation(await race.story(lost))


def _tables(world: World) -> list[str]:
    return ["uploads", "avatars", *(f"millhand_orphan_{name}" for name in OURS)]


async def dump(world: World) -> dict[str, str]:
    """Return all rows of the application and of the ledger, as in a backup."""
    found = {}
    for table in _tables(world):
        rows = await world.sql(
            f"SELECT coalesce(jsonb_agg(t), '[]')::text AS rows FROM {{schema}}.{table} AS t"
        )
        found[table] = str(rows[0]["rows"])
    return found


async def load(world: World, dump: Mapping[str, str]) -> None:
    """Restore tables, with their sequences: ids are assigned again."""
    for table, rows in dump.items():
        name = f"{world.schema}.{table}"
        await world.sql(f"DELETE FROM {name}")
        await world.sql(
            f"INSERT INTO {name} OVERRIDING SYSTEM VALUE "
            f"SELECT * FROM jsonb_populate_recordset(NULL::{name}, $1::text::jsonb)",
            rows,
        )
        if table in ("uploads", "millhand_orphan_run", "millhand_orphan_action", "millhand_orphan_finding"):
            await world.sql(
                f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), coalesce(max(id), 0) + 1) FROM {name}"
            )


async def _generation(world: World) -> int:
    rows = await world.sql("SELECT coalesce(max(generation), 0) AS n FROM {schema}.millhand_orphan_binding")
    return int(rows[0]["n"])


PLAYS = {
    "usual": Play(usual, 30),
    "attack": Play(attack, 40),
    "killed": Play(killed, 12),
    "paused": Play(paused, 8),
    "late": Play(late, 8),
    "compared": Play(compared, 10),
    "emptied": Play(emptied, 8),
    "halved": Play(halved, 8),
    "skewed": Play(skewed, 12),
    "restored": Play(restored, 10),
    "moved elsewhere": Play(moved_elsewhere, 6),
}
