"""
The race test of the orphan cleanup: many processes, faults and an application at once, and nothing live may be lost.

    python tests/orphans/chaos_orphans.py --steps 100000 --seconds 1800 --seed 1 --stores directory,seaweed

An application, an operator and clocks act between any two calls of the runs, which are processes of their own and are
killed; see `race.py`. The script prints what happened. It ends with 1 if anything live was lost, with each recorded call
that concerns it (`race_record.py`): where several processes act at once, the seed alone does not repeat a race.
`--mutant` breaks one step of the runs on purpose (`race_mutants.py`); the race must notice it. `--mutants` plays a scene
(`race_scenes.py`) for each of them: with the mutant something must be lost, without it nothing. Otherwise it ends with 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from race import Place, race_of
from race_mutants import MUTANTS
from race_plays import Violation
from race_scenes import SCENES, Shown, show
from race_warden import cleared_away

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "storage")]
from ceph import rgw
from servers import CREDENTIALS, seaweed
from stores import bucket_of

from millhand.embedded import embedded_postgres
from millhand.storage import open_store
from new_schema import new_schema

SERVERS = {"seaweed": seaweed, "rgw": rgw}
STORES = ("directory", *SERVERS)
POSTGRES_SETTINGS = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


@dataclass(kw_only=True)
class Report:
    """What happened, and what was lost."""

    done: Counter[str]
    num_acts: int
    seconds: float
    seed: int
    violation: str | None

    def __str__(self) -> str:
        done = self.done
        states = {name.removeprefix("runs "): n for name, n in done.items() if name.startswith("runs ")}
        plays = {name.removeprefix("play "): n for name, n in done.items() if name.startswith("play ")}
        num_steps = self.num_acts + done["calls"]
        figures = {
            "seed": str(self.seed),
            "steps": f"{num_steps:,}, {num_steps / self.seconds:,.0f} a second: {self.num_acts:,} of the application, "
            f"{done['calls']:,} calls of runs, with actions in between; "
            f"{done['quiet calls']:,} calls of undisturbed runs, not counted",
            "worlds": f"{done['phases']:,} in {self.seconds:.0f} s",
            "runs": f"{sum(states.values()):,}: {_counts(states)}",
            "plays": _counts(plays),
            "processes": f"{done['kills']:,} killed, {done['kills within a call']:,} of them within a call; "
            f"{done['zombies']:,} held up and continued",
            "backups": f"{done['restored, and the marker knew']:,} restored and found out, "
            f"{done['restored, and no run since']:,} restored with no run since",
            "objects": f"{done['deleted'] + done['quarantined']:,} moved, {done['purged']:,} destroyed, "
            f"{done['restored']:,} restored, {done['kept']:,} kept, {done['aborted_uploads']:,} uploads aborted",
            "rows": f"{done['deleted_rows']:,} deleted",
            "audits": f"{done['audits']:,}",
            "violations": "0" if self.violation is None else f"1\n{self.violation}",
        }
        width = max(map(len, figures))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in figures.items())


async def chaos(
    database_url: str,
    schema: str,
    places: Sequence[Place],
    *,
    steps: int,
    seconds: float,
    seed: int,
    mutant: str | None = None,
) -> Report:
    """Race through the places in turn, until the steps are made, the time is over, or something is lost."""
    began_at = time.monotonic()
    violation = None
    async with race_of(database_url, schema, seed=seed, mutant=mutant) as race:
        race.max_steps, race.ends_at = steps, began_at + seconds
        number = 0
        while not race.is_over and violation is None:
            place = places[number % len(places)]
            try:
                await race.phase(place)
            except Violation as error:
                violation = str(error)
            except Exception:
                print(f"the race itself broke on {place.name} after {race.num_steps:,} steps", flush=True)
                raise
            number += 1
    return Report(
        done=race.done,
        num_acts=race.num_acts,
        seconds=time.monotonic() - began_at,
        seed=seed,
        violation=violation,
    )


@contextlib.contextmanager
def places_of(stores: Sequence[str], directory: Path) -> Iterator[list[Place]]:
    """Yield the stores to race on, each in all its variants."""
    with contextlib.ExitStack() as stack:
        found = [
            directories(directory) if name == "directory" else stack.enter_context(buckets(name))
            for name in stores
        ]
        # In turn, so that a short race includes each store.
        yield [place for row in zip_longest(*found) for place in row if place is not None]


def directories(directory: Path) -> list[Place]:
    """Return a directory, as it is and with the behaviour of several servers."""
    url = directory.as_uri()
    return [
        Place(name="directory", url=url),
        Place(name="clumsy server", url=url, wrapper="clumsy"),
        Place(name="directory in partitions", url=url, wrapper="elsewhere"),
        Place(name="server that lies about its order", url=url, wrapper="lying"),
    ]


@contextlib.contextmanager
def buckets(name: str) -> Iterator[list[Place]]:
    """Two buckets on a real server, one that keeps versions."""
    before = dict(os.environ)
    os.environ.update(CREDENTIALS)
    try:
        with SERVERS[name]() as endpoint:
            options = f"?endpoint_url={endpoint}"
            bucket = bucket_of(open_store(f"s3://race-plain{options}"))
            for one in ("race-plain", "race-versions"):
                bucket.client.create_bucket(Bucket=one)
            bucket.client.put_bucket_versioning(
                Bucket="race-versions", VersioningConfiguration={"Status": "Enabled"}
            )
            bucket.close()
            yield [
                Place(name=name, url=f"s3://race-plain{options}", num_rounds=5),
                Place(
                    name=f"{name}, with versions",
                    url=f"s3://race-versions{options}",
                    is_versioned=True,
                    num_rounds=5,
                ),
            ]
    finally:
        os.environ.clear()
        os.environ.update(before)


async def main(options: argparse.Namespace) -> int:
    """Race, and print the report. Returns the exit code."""
    logging.disable(logging.CRITICAL)  # alerts are frequent here
    with cleared_away() as directory:
        print(f"seed {options.seed}, in {directory}", flush=True)
        with embedded_postgres(directory / "postgres", POSTGRES_SETTINGS) as server:
            (directory / "buckets").mkdir()
            with places_of(options.stores.split(","), directory / "buckets") as places:
                async with new_schema(server.url, "race") as schema:
                    if options.mutants:
                        only = [options.mutant] if options.mutant else ()
                        return await show_all(server.url, schema, places, seed=options.seed, only=only)
                    report = await chaos(
                        server.url,
                        schema,
                        places,
                        steps=options.steps,
                        seconds=options.seconds,
                        seed=options.seed,
                        mutant=options.mutant,
                    )
    print(report)
    return 0 if report.violation is None else 1


async def show_all(
    database_url: str, schema: str, places: Sequence[Place], *, seed: int, only: Sequence[str] = ()
) -> int:
    """Play the scene of each mutant without it and with it, and print the result. Returns the exit code."""
    stages = {
        "bucket": next((place for place in places if place.url.startswith("s3:")), None),
        "clumsy": next((place for place in places if place.wrapper == "clumsy"), None),
        "directory": next((place for place in places if place.wrapper == "plain"), None),
        "versions": next((place for place in places if place.is_versioned), None),
    }
    num_wrong = 0
    async with race_of(database_url, schema, seed=seed) as race:
        for name, scene in SCENES.items():
            if only and name not in only:
                continue
            if (place := stages[scene.where]) is None:
                print(f"{name}: not played, because its scene needs a real server", flush=True)
                continue
            sound = await show(race, scene, place, mutant=None)
            broken = await show(race, scene, place, mutant=name)
            num_wrong += sound.lost is not None or broken.lost is None
            print(f"{name}: {_verdict(sound, broken)}", flush=True)
            if only and broken.lost is not None:
                print(broken.lost)
    print(f"{num_wrong} of {len(SCENES)} are not as they must be" if num_wrong else "all are as they must be")
    return 1 if num_wrong else 0


def _verdict(sound: Shown, broken: Shown) -> str:
    if sound.lost is not None:
        return f"LOST WITHOUT IT, {sound.lost}"
    if broken.lost is None:
        return f"NOT NOTICED in {broken.seconds:.1f} s"
    first = " ".join(line.strip() for line in broken.lost.splitlines()[:2])
    return (
        f"noticed in {broken.seconds:.1f} s, nothing lost without it in {sound.seconds:.1f} s; {first[:160]}"
    )


def _counts(counts: dict[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda one: -one[1])
    return ", ".join(f"{number:,} {name}" for name, number in ordered)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument(
        "--steps",
        type=int,
        default=100_000,
        help="actions of the application, and calls of runs with actions in between",
    )
    parser.add_argument("--seconds", type=float, default=1_800.0, help="the longest duration")
    seed = random.randrange(10**6)  # noqa: S311 - a seed, not a secret
    parser.add_argument("--seed", type=int, default=seed, help="the same seed plays the same race")
    parser.add_argument("--stores", default="directory,seaweed", help=f"of {', '.join(STORES)}")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="break this on purpose")
    parser.add_argument(
        "--mutants",
        action="store_true",
        help="break each step on purpose, in a scene that must notice it; or only --mutant, and print all that happened",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(_options())))
