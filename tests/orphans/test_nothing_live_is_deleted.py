"""Over random worlds, interleavings and kills, no run deletes anything live."""

from __future__ import annotations

import os
import random
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from adversary import (
    ACTIONS,
    MINUTES,
    OPERATIONS,
    App,
    ChaosExecutor,
    ChaosStore,
    ClumsyStore,
    Interrupter,
    Killed,
    Moment,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from world import DAY, World

from millhand.core.errors import MillhandError
from millhand.orphans import reconcile
from millhand.storage import open_store

KEYS = ("a.b", "a/b", "é")
MAX_STEPS = 120
LONG_PLAY = int(os.environ.get("MILLHAND_TEST_LONG_PLAY", "80"))  # plays; 500 take minutes
# Actions that make something due, and actions that start to rely on it at the same moment.
OFTEN = (*ACTIONS, "put_orphan", "put_orphan", "upload", "refer_and_look", "finish_upload")


@dataclass(frozen=True)
class Act:
    """An action of the application on a key."""

    action: str
    key: str


@dataclass(frozen=True)
class Run:
    """A run after some time. At some of its steps the application acts, a source fails, or the process is killed."""

    after: timedelta
    at_steps: tuple[tuple[Moment, Act | str], ...]


acts = st.builds(Act, st.sampled_from(OFTEN), st.sampled_from(KEYS))
moments = st.one_of(
    st.integers(1, MAX_STEPS),
    st.tuples(st.sampled_from(OPERATIONS), st.integers(1, 8)),
    st.tuples(st.sampled_from(["move", "moved", "commit"]), st.integers(1, 3)),
)
interventions = st.tuples(moments, st.one_of(acts, acts, acts, acts, st.sampled_from(["kill", "break"])))
runs = st.builds(
    Run,
    st.sampled_from([MINUTES, DAY, 8 * DAY, 8 * DAY, 8 * DAY, 31 * DAY]),
    st.lists(interventions, max_size=5).map(tuple),
)
rounds = st.tuples(st.lists(acts, max_size=5), runs).map(lambda round_: [*round_[0], round_[1]])


def attack(key: str, first: tuple[Moment, str], second: tuple[Moment, str]) -> list[Act | Run]:
    """Make an orphan that is due, and let the application act on it twice in the run that removes it."""
    at_steps = tuple((moment, Act(action, key)) for moment, action in (first, second))
    return [Act("put_orphan", key), Run(8 * DAY, ()), Run(8 * DAY, at_steps)]


in_the_sweep = st.tuples(
    st.tuples(
        st.sampled_from(["begin", "commit", "fetch", "head", "move", "moved", "run"]), st.integers(1, 6)
    ),
    st.sampled_from(["adopt", "put_and_adopt", "put_first", "refer_and_look", "upload"]),
)
attacks = st.builds(attack, st.sampled_from(KEYS), in_the_sweep, in_the_sweep)


def young(key: str, spans: list[timedelta]) -> list[Act | Run]:
    """Let an object wait for its row for less than half a grace, with runs in between."""
    return [Act("put_first", key), *(Run(span, ()) for span in spans), Act("adopt", key), Run(DAY, ())]


def late(key: str, moment: Moment) -> list[Act | Run]:
    """Let a row come for a quarantined object in the run that would destroy it, after that run has restored others."""
    # Another object, so that the listing has a page.
    going = [Act("put_and_adopt", f"{key}-live"), Act("put_orphan", key), Run(8 * DAY, ()), Run(8 * DAY, ())]
    return [*going, Run(8 * DAY, ((moment, Act("refer", key)),)), Run(DAY, ()), Act("look", key)]


def finishing(key: str, moment: Moment) -> list[Act | Run]:
    """Let a pending row become due, and its upload end in the run that would remove it."""
    return [Run(MINUTES, ()), Act("upload", key), Run(8 * DAY, ((moment, Act("finish_upload", key)),))]


def moved_and_killed(key: str, moment: Moment) -> list[Act | Run]:
    """Kill a run around the move of an orphan, and let a row come for it after that."""
    going = [Act("put_orphan", key), Run(8 * DAY, ()), Run(8 * DAY, ((moment, "kill"),))]
    return [*going, Act("refer", key), Run(DAY, ()), Act("look", key)]


youths = st.builds(
    young, st.sampled_from(KEYS), st.lists(st.sampled_from([MINUTES, DAY]), min_size=2, max_size=3)
)
lates = st.builds(
    late,
    st.sampled_from(KEYS),
    st.tuples(st.sampled_from(["list", "begin", "commit", "run"]), st.integers(1, 12)),
)
finishes = st.builds(
    finishing,
    st.sampled_from(KEYS),
    st.tuples(st.sampled_from(["begin", "commit", "fetch"]), st.integers(1, 12)),
)
kills = st.builds(
    moved_and_killed,
    st.sampled_from(KEYS),
    st.tuples(st.sampled_from(["begin", "committed", "move", "moved", "copy"]), st.integers(1, 6)),
)
scripts = st.lists(
    st.one_of(rounds, rounds, attacks, youths, lates, finishes, kills), min_size=3, max_size=9
).map(lambda parts: [event for part in parts for event in part])


async def play(world: World, script: list[Act | Run], *, is_clumsy: bool) -> Counter[str]:
    """Play a script and two quiet runs, and return what was done. Fails as soon as something live is lost."""
    app = App(world=world)
    done: Counter[str] = Counter()
    for event in [*script, Run(8 * DAY, ()), Run(8 * DAY, ())]:
        if isinstance(event, Act):
            await getattr(app, event.action)(event.key)
            continue
        world.now += max(event.after, MINUTES)
        app.awaited = dict.fromkeys(app.awaited, True)
        is_whole = await run_once(world, app, event, done, is_clumsy=is_clumsy)
        losses = await app.losses(after_run=is_whole)
        assert losses == {}, f"{losses} after a {'complete' if is_whole else 'broken'} run at {event}"
    return done


async def run_once(world: World, app: App, event: Run, done: Counter[str], *, is_clumsy: bool) -> bool:
    """Run once with interventions, and return whether the run ended."""
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
    except MillhandError:
        done["failed"] += 1
        return False
    done["steps"] = max(done["steps"], interrupter.steps)
    for name in ("deleted", "deleted_rows", "restored", "purged", "kept"):
        done[name] += getattr(report, name)
    return report.state != "busy"


def _intervention(app: App, interrupter: Interrupter, what: Act | str) -> Callable[[], Awaitable[None]]:
    async def intervene() -> None:
        if what == "kill":
            raise Killed
        if what == "break":
            interrupter.is_source_broken = True
        elif isinstance(what, Act):
            app.is_purging = interrupter.may_be_destroying
            await getattr(app, what.action)(what.key)
            app.is_purging = False

    return intervene


async def emptied(world: World, directory: Path) -> World:
    """Return the same application, empty."""
    uploads, avatars = world.config.sources
    config = replace(world.config, sources=(replace(uploads, min_rows=0), avatars))
    tables = (
        "uploads",
        "avatars",
        "millhand_orphan_run",
        "millhand_orphan_finding",
        "millhand_orphan_action",
        "millhand_orphan_binding",
    )
    await world.sql(f"TRUNCATE {', '.join(f'{{schema}}.{table}' for table in tables)}")
    store = open_store(str(directory / uuid.uuid4().hex), create=True)
    return replace(world, config=config, store=store, now=datetime.now(UTC))


# Each script loses something if a run leaves out the step in its name; all of them were tried.
KNOWN = {
    "a comparison of the object at its move": attack(
        "a/b", (("move", 1), "put_first"), (("moved", 1), "look")
    ),
    "a read of references before a move": attack(
        "a/b", (("begin", 1), "adopt"), (("begin", 4), "refer_and_look")
    ),
    "a read of references after a move": attack(
        "a/b", (("move", 1), "refer_and_look"), (("moved", 1), "look")
    ),
    "a read of references before a purge": late("a/b", ("list", 1)),
    "grace": young("a/b", [DAY, DAY]),
    "a new age for an overwritten object": [
        Act("put_orphan", "a/b"),
        Run(8 * DAY, ()),
        Run(6 * DAY, ()),
        Act("put_first", "a/b"),
        Run(DAY, ()),
        Act("adopt", "a/b"),
    ],
    "settling interrupted moves": moved_and_killed("a/b", ("moved", 1)),
    "a second read of a locked row": [event for n in range(4, 8) for event in finishing("a/b", ("begin", n))],
}


@pytest.mark.slow
@pytest.mark.parametrize("what", KNOWN)
async def test_nothing_live_is_deleted_without_(world: World, tmp_path: Path, what: str) -> None:
    """Scripts that lose something without one step of a run lose nothing with it."""
    await play(await emptied(world, tmp_path), KNOWN[what], is_clumsy=False)


@pytest.mark.slow
@pytest.mark.parametrize("is_clumsy", [False, True], ids=["directory", "clumsy server"])
@given(script=scripts)
@settings(max_examples=LONG_PLAY, deadline=None, suppress_health_check=list(HealthCheck))
async def test_nothing_live_is_deleted_whatever_happens_between_any_two_steps(
    world: World, tmp_path: Path, is_clumsy: bool, script: list[Act | Run]
) -> None:
    """
    What an application relies on is in its place after every complete run, and at worst in quarantine before.

    It uploads, adds rows for existing objects, overwrites, renames, deletes and undeletes between any two steps of a run;
    runs are killed, sources fail, days pass. MILLHAND_TEST_LONG_PLAY sets the number of plays.
    """
    await play(await emptied(world, tmp_path), script, is_clumsy=is_clumsy)


@pytest.mark.slow
async def test_random_worlds_make_runs_act(world: World, tmp_path: Path) -> None:
    """Among a few dozen plays, runs delete, restore, purge, keep, fail and are killed."""
    done: Counter[str] = Counter()
    chance = random.Random(7)  # noqa: S311 - a play, not a secret

    for _ in range(40):
        script: list[Act | Run] = []
        for _ in range(6):
            script += [_random_act(chance) for _ in range(chance.randrange(6))]
            at_steps = [(_random_moment(chance), _random_act(chance)) for _ in range(chance.randrange(5))]
            broken = [(_random_moment(chance), chance.choice(["kill", "break"]))]
            script.append(Run(8 * DAY, tuple(at_steps + (broken if chance.random() < 0.2 else []))))
        script += late(chance.choice(KEYS), _random_moment(chance)) if chance.random() < 0.3 else []
        done += await play(await emptied(world, tmp_path), script, is_clumsy=chance.random() < 0.5)

    assert {name for name, count in done.items() if count > 0} >= {
        "deleted",
        "deleted_rows",
        "failed",
        "kept",
        "killed",
        "purged",
        "restored",
    }


def _random_act(chance: random.Random) -> Act:
    return Act(chance.choice(OFTEN), chance.choice(KEYS))


def _random_moment(chance: random.Random) -> Moment:
    operation = chance.choice((*OPERATIONS, "move", "move", "moved", "commit"))
    return chance.choice([chance.randrange(1, MAX_STEPS), (operation, chance.randrange(1, 4))])
