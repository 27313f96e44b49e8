"""The one promise: over random worlds, interleavings and kills, nothing live is ever deleted."""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from chaos import ACTIONS, MINUTES, App, ChaosExecutor, ChaosStore, ClumsyStore, Interrupter, Killed
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from world import DAY, World

from millhand.errors import MillhandError
from millhand.orphans import reconcile
from millhand.storage import open_store

KEYS = ("a.b", "a/b", "a/c", "b", "é")
MAX_STEPS = 70
EXAMPLES = int(os.environ.get("MILLHAND_CHAOS_EXAMPLES", "60"))


@dataclass(frozen=True)
class Act:
    """The application does something to a key."""

    action: str
    key: str


@dataclass(frozen=True)
class Run:
    """Time passes, then a run; at some of its steps the application acts, a source breaks or the process is killed."""

    after: timedelta
    at_steps: tuple[tuple[int, Act | str], ...]


acts = st.builds(Act, st.sampled_from((*ACTIONS, "put_orphan", "refer", "look")), st.sampled_from(KEYS))
interventions = st.tuples(
    st.integers(1, MAX_STEPS), st.one_of(acts, acts, acts, acts, st.sampled_from(["kill", "break"]))
)
runs = st.builds(
    Run,
    st.sampled_from([MINUTES, DAY, 8 * DAY, 8 * DAY, 8 * DAY, 31 * DAY]),
    st.lists(interventions, max_size=5).map(tuple),
)
rounds = st.tuples(st.lists(acts, max_size=5), runs).map(lambda round_: [*round_[0], round_[1]])
scripts = st.lists(rounds, min_size=3, max_size=9).map(
    lambda rounds: [event for round_ in rounds for event in round_]
)


async def play(world: World, script: list[Act | Run], *, is_clumsy: bool) -> Counter[str]:
    """Play a script, and after it two quiet runs; fail as soon as something live is lost. Return what was done."""
    app = App(world=world)
    done: Counter[str] = Counter()
    for event in [*script, Run(8 * DAY, ()), Run(8 * DAY, ())]:
        if isinstance(event, Act):
            await getattr(app, event.action)(event.key)
            continue
        world.now += max(event.after, MINUTES)
        is_whole = await _run(world, app, event, done, is_clumsy=is_clumsy)
        losses = await app.losses(after_run=is_whole)
        assert losses == {}, f"{losses} after a {'whole' if is_whole else 'broken'} run at {event}"
    return done


async def _run(world: World, app: App, event: Run, done: Counter[str], *, is_clumsy: bool) -> bool:
    interrupter = Interrupter(interventions={})
    for step, what in event.at_steps:
        interrupter.interventions.setdefault(step, []).append(_intervention(app, interrupter, what))
    store = (ClumsyStore if is_clumsy else ChaosStore)(world.store, interrupter)
    executor = ChaosExecutor(world.executor, interrupter)
    try:
        report = await reconcile(executor, store, world.config, now=world.now)
    except Killed:
        done["killed"] += 1
        return False
    except MillhandError as error:
        note(f"{event}: {error}")
        done["failed"] += 1
        return False
    done["steps"] = max(done["steps"], interrupter.steps)
    for name in ("deleted", "deleted_rows", "restored", "purged", "kept"):
        done[name] += getattr(report, name)
    # What came in the very last steps is the next run's to put right.
    return report.state == "completed" and not event.at_steps


def _intervention(app: App, interrupter: Interrupter, what: Act | str) -> Callable[[], Awaitable[None]]:
    async def intervene() -> None:
        if what == "kill":
            raise Killed
        if what == "break":
            interrupter.is_source_broken = True
        elif isinstance(what, Act):
            await getattr(app, what.action)(what.key)

    return intervene


async def emptied(world: World, directory: Path) -> World:
    """Return the same application with nothing in it."""
    uploads, avatars = world.config.sources
    config = replace(world.config, sources=(replace(uploads, min_rows=0), avatars))
    tables = (
        "uploads",
        "avatars",
        "millhand_orphan_run",
        "millhand_orphan_finding",
        "millhand_orphan_action",
    )
    await world.sql(f"TRUNCATE {', '.join(f'{{schema}}.{table}' for table in tables)}")
    store = open_store(str(directory / uuid.uuid4().hex), create=True)
    return replace(world, config=config, store=store, now=datetime.now(UTC))


@pytest.mark.parametrize("is_clumsy", [False, True], ids=["directory", "clumsy server"])
@given(script=scripts)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
async def test_nothing_live_is_deleted_whatever_happens_between_any_two_steps(
    world: World, tmp_path: Path, is_clumsy: bool, script: list[Act | Run]
) -> None:
    """
    What an application relies on is in its place after every whole run, and never further away than the quarantine.

    It uploads, refers to what it finds, overwrites, renames, deletes and takes back, between any two words of a run to
    the database and the store; runs are killed, sources break, days pass.
    """
    await play(await emptied(world, tmp_path), script, is_clumsy=is_clumsy)
