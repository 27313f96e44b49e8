"""
The reference test of the orphan cleanup: a model of an application that keeps references in twelve places.

    python tests/orphans/chaos_references.py --steps 1000000 --seconds 3600 --seed 1 --stores directory,seaweed,rgw

The model knows no rule of the cleanup: an object is live while any place has a reference to it (`reference_model.py`). The
script plays worlds in turn on each store and in each mode, with runs that are killed. It counts live objects that a run
moved or destroyed, and orphans that are still there after three weeks. It ends with 1 if it counts a live object, or at
least 1 % of the orphans. `--world 3` repeats only that world of a seed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chaos_orphans import POSTGRES_SETTINGS, SERVERS, STORES, buckets
from race import Place
from race_warden import cleared_away
from reference_places import NAMES
from reference_world import Rules, reference_world

from millhand.embedded import embedded_postgres
from millhand.orphans import Mode

MOST_LEFT = 0.01
MODES = (Mode.QUARANTINE, Mode.DELETE)


@dataclass(kw_only=True)
class Score:
    """What happened in some worlds, and what was lost."""

    destroyed: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    moved: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    steps: int = 0
    stories: list[str] = field(default_factory=list)
    worlds: int = 0

    @property
    def share_left(self) -> float:
        return self.done["left"] / max(1, self.done["stale"])

    @property
    def is_good(self) -> bool:
        is_lost = self.moved or self.destroyed or self.done["live rows removed"]
        return not is_lost and self.share_left < MOST_LEFT

    @property
    def line(self) -> str:
        """The most important figures."""
        return (
            f"{self.steps:,} steps in {self.seconds:.0f} s, {self.done['kills']:,} kills, "
            f"{self.moved.total():,} live moved, {self.destroyed.total():,} live destroyed, {self.share_left:.2%} left"
        )

    def add(self, other: Score) -> None:
        for name in ("destroyed", "done", "moved", "reasons"):
            getattr(self, name).update(getattr(other, name))
        self.seconds += other.seconds
        self.steps += other.steps
        self.stories += other.stories
        self.worlds += other.worlds

    def __str__(self) -> str:
        done = self.done
        states = {name.removeprefix("runs "): n for name, n in done.items() if name.startswith("runs ")}
        figures = {
            "steps": f"{self.steps:,} in {self.worlds:,} worlds and {self.seconds:.0f} s",
            "runs": f"{sum(states.values()):,}: {_counts(states)}",
            "references during runs": f"{done['references during runs']:,}",
            "orphans": f"{done['moved']:,} moved, {done['destroyed']:,} destroyed, {done['restored']:,} restored",
            "places": f"{done['places declared']:,} declared after a refusal, {done['places listed as mentions']:,} listed "
            f"as mentions; the unreadable table: {done['tables granted']:,} times granted, "
            f"{done['tables listed as unsearched']:,} times listed as unsearched",
            "live rows removed": f"{done['live rows removed']:,}",
            "live moved": f"{self.moved.total():,}",
            "live destroyed": f"{self.destroyed.total():,}",
            "orphans left": f"{done['left']:,} of {done['stale']:,} after three weeks, {self.share_left:.2%}",
        }
        width = max(map(len, figures))
        lines = [f"{name:<{width}}  {value}" for name, value in figures.items()]
        for title, lost in (("moved", self.moved), ("destroyed", self.destroyed)):
            lines += [f"  {number:,} {title}: {how}" for how, number in lost.most_common(40)]
        return "\n".join([*lines, *(f"  {story}" for story in self.stories[:10])])


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which worlds are played."""

    seed: int
    steps: int = 1_000_000
    seconds: float = 3_600.0
    modes: tuple[Mode, ...] = MODES
    places: tuple[str, ...] = NAMES
    steps_per_world: int = 50_000
    steps_per_run: int = 1_500
    days_per_run: float = 1.0
    target: int = 1_500
    kill_share: float = 0.25
    world: int | None = None


async def play(server_url: str, stores: Sequence[Place], options: Options) -> dict[str, Score]:
    """Play worlds on each store in each mode in turn, until the steps are made or the time is over."""
    ends_at = time.monotonic() + options.seconds
    scores: dict[str, Score] = {}
    num_steps = 0
    kinds = list(itertools.product(stores, options.modes))
    for number in itertools.count():
        if num_steps >= options.steps or time.monotonic() >= ends_at:
            break
        store, mode = kinds[number % len(kinds)]
        num_steps += options.steps_per_world
        if options.world in (None, number):
            score = await _play_world(server_url, store, mode, number, options)
            scores.setdefault(f"{store.name}, {mode}", Score()).add(score)
            print(f"world {number} on {store.name}, {mode}: {score.line}", flush=True)
    return scores


async def _play_world(server_url: str, store: Place, mode: Mode, number: int, options: Options) -> Score:
    began_at = time.monotonic()
    rules = Rules(
        days_per_run=options.days_per_run,
        kill_share=options.kill_share,
        mode=mode,
        num_steps=options.steps_per_world,
        places=options.places,
        steps_per_run=options.steps_per_run,
        target=options.target,
    )
    url = store.store_url(f"world-{options.seed}-{number}")
    async with reference_world(server_url, url, rules, seed=f"{options.seed}-{number}") as world:
        await world.play()
        await world.clear()
    model = world.model
    return Score(
        destroyed=model.destroyed,
        done=model.done + world.done,
        moved=model.moved,
        reasons=world.reasons,
        seconds=time.monotonic() - began_at,
        steps=options.steps_per_world,
        stories=[f"world {number}: {story}" for story in model.stories],
        worlds=1,
    )


@contextlib.contextmanager
def stores_of(names: Sequence[str], directory: Path) -> Iterator[list[Place]]:
    """Yield the stores to play on."""
    with contextlib.ExitStack() as stack:
        yield [
            Place(name=name, url=directory.as_uri())
            if name not in SERVERS
            else stack.enter_context(buckets(name))[0]
            for name in names
        ]


async def main(options: Options, stores: Sequence[str]) -> int:
    """Play, and print the scores. Returns the exit code."""
    logging.disable(logging.CRITICAL)  # alerts are frequent here
    with cleared_away() as directory:
        print(f"seed {options.seed}, in {directory}", flush=True)
        (directory / "buckets").mkdir()
        with (
            embedded_postgres(directory / "postgres", POSTGRES_SETTINGS) as server,
            stores_of(stores, directory / "buckets") as places,
        ):
            scores = await play(server.url, places, options)
    for name, score in scores.items():
        print(f"\n{name}\n{score}")
        for reason, number in score.reasons.most_common(12):
            print(f"  {number:,} refused: {reason}")
    return 0 if all(score.is_good for score in scores.values()) else 1


def _counts(counts: dict[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda one: -one[1])
    return ", ".join(f"{number:,} {name}" for name, number in ordered)


def _options() -> tuple[Options, list[str]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    seed = random.randrange(10**6)  # noqa: S311 - a seed, not a secret
    parser.add_argument("--seed", type=int, default=seed, help="the same seed plays the same worlds")
    parser.add_argument("--world", type=int, help="play only this world of the seed")
    parser.add_argument("--stores", default="directory", help=f"of {', '.join(STORES)}")
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--places", default=",".join(NAMES), help="where the application keeps references")
    for name in (
        "steps",
        "seconds",
        "steps_per_world",
        "steps_per_run",
        "days_per_run",
        "target",
        "kill_share",
    ):
        default = getattr(Options, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    given = vars(parser.parse_args())
    stores = given.pop("stores").split(",")
    given["modes"] = tuple(Mode(one) for one in given["modes"].split(","))
    given["places"] = tuple(given["places"].split(","))
    return Options(**given), stores


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*_options())))
