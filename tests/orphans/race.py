"""
The race: an application, an operator and a clock against runs in processes of their own, one call at a time.

    place ─▶ phase: an empty world ─▶ round: acts, then a play ─▶ audit … ─▶ two quiet runs ─▶ next place

A run asks before each call of the database or the store. The race decides by seed who acts in between, which process
continues, and which is killed (SIGKILL, before a call or during it). What is live is known from the application's history
alone. The same seed gives the same plays. With several processes at once, the machine decides which is first.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from adversary import Interrupter
from fork_server import forkserver_context
from race_app import DERIVED, OUT_OF_SCOPE, RaceApp, RaceWorld
from race_chances import MAX_CALLS, SUDDEN, die, interrupter_of
from race_child import Elsewhere, Seat, Task
from race_game import STUCK_SECONDS, Game, RunProcess
from race_plays import PLAYS, Violation
from race_record import Record, RecordedExecutor, RecordedStore, lines_about, shown
from world import DAY, TABLES, avatars_source, generous, uploads_source

from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.orphans import OrphansConfig
from millhand.orphans.removal.recovery import INTERRUPTED
from millhand.storage import open_store

if TYPE_CHECKING:
    from millhand.db.driver.protocol import Executor
    from millhand.storage import ObjectStore

KEYS = ("a.b", "a/b", "é", *(f"k/{number:02}" for number in range(20)))
# Live from the first day, so that the guards on row counts hold.
ANCHORS = tuple(f"k/{number:02}.anchor" for number in range(12))
CUTS = ("a/b", "k/05", "k/11", "k/17")
MINUTES = timedelta(minutes=2)
ACTIONS_OF = """
SELECT id, run_id, rule, state, reason, quarantine_key, source, row_id, created_at, updated_at
FROM {schema}.millhand_orphan_action WHERE key = $1 ORDER BY id
"""
ENDED_EARLY = """
SELECT key FROM {schema}.millhand_orphan_action WHERE state = 'kept' AND reason = $1 AND created_at <= $2
"""
PURGED_TABLES = (
    "uploads",
    "avatars",
    *(f"millhand_orphan_{one}" for one in ("run", "partition", "finding", "action", "binding")),
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A store to race on. Each phase adds a name to `url`."""

    name: str
    url: str
    wrapper: str = "plain"
    is_versioned: bool = False
    num_rounds: int = 14

    def store_url(self, name: str) -> str:
        """Return the URL of an empty store."""
        base, mark, options = self.url.partition("?")
        return f"{base.rstrip('/')}/{name}{mark}{options}"


@dataclass(kw_only=True)
class Outcome:
    """The result of one run: `state` is the report's, or killed, stalled, failed."""

    figures: Mapping[str, Any]

    @property
    def is_whole(self) -> bool:
        return self.state == "completed"

    @property
    def state(self) -> str:
        return str(self.figures["state"])

    @property
    def num_removed(self) -> int:
        return sum(
            int(self.figures.get(name, 0)) for name in ("deleted", "quarantined", "purged", "deleted_rows")
        )


@dataclass(kw_only=True)
class Race:
    """One race: its place, its processes, and what has happened in it."""

    chance: random.Random
    context: Any
    database_url: str
    driver: AsyncpgDriver
    mutant: str | None = None
    done: Counter[str] = field(default_factory=Counter)
    ends_at: float = 0.0
    max_steps: int = 0
    num_acts: int = 0
    app: RaceApp = field(init=False)
    config: OrphansConfig = field(init=False)
    recorded: Path = field(init=False)  # what happened in this world, call by call
    record: Record = field(init=False)
    place: Place = field(init=False)
    seat: Seat = field(init=False)
    world: RaceWorld = field(init=False)
    targets: Sequence[str] = ()  # keys that this run is about to remove
    was_held_up: bool = False  # whether a process was held up since the last audit
    zombie: RunProcess | None = None
    _alive: list[RunProcess] = field(default_factory=list)
    _idle: list[RunProcess] = field(default_factory=list)

    @property
    def keys(self) -> Sequence[str]:
        """The keys of the application."""
        return KEYS

    @property
    def num_steps(self) -> int:
        """
        Actions of the application, and calls of runs with possible actions before them.

        Actions without effect, and calls of undisturbed runs, do not count.
        """
        return self.num_acts + self.done["calls"]

    @property
    def is_over(self) -> bool:
        return self.num_steps >= self.max_steps or time.monotonic() >= self.ends_at

    async def phase(self, place: Place) -> None:
        """Race in an empty world. Raises: Violation."""
        async with self.founded(place):
            for _ in range(place.num_rounds):
                if self.is_over:
                    break
                await self.some_acts(self.chance.randrange(3, 16))
                names, weights = zip(*((name, play.weight) for name, play in PLAYS.items()), strict=True)
                name = self.chance.choices(names, weights)[0]
                self.app.record_all(f"play {name}")
                self.done[f"play {name}"] += 1
                await PLAYS[name].of(self)
            await self.end_zombie()
            await self.run(8 * DAY, is_calm=True)
            await self.run(8 * DAY, is_quiet=True)
        self.done["phases"] += 1

    @contextlib.asynccontextmanager
    async def founded(self, place: Place) -> AsyncIterator[None]:
        """Begin in an empty world, and end all processes at the end."""
        await self._found(place)
        try:
            yield
        finally:
            self._dismiss()
            await self.world.store.aclose()
            self.record.close()
            self.recorded.unlink()

    async def _found(self, place: Place) -> None:
        schema = self.driver.schema
        await self.driver.pool.fetch(f"TRUNCATE {', '.join(f'{schema}.{one}' for one in PURGED_TABLES)}")
        name = uuid.uuid4().hex[:12]
        url = place.store_url(name)
        self.recorded = Path(tempfile.gettempdir(), f"record-{name}")
        self.record = Record(self.recorded, "app")
        opened = open_store(url, create=True) if not url.startswith("s3:") else open_store(url)
        store = cast("ObjectStore", RecordedStore(opened, self.record))
        # Rows that wait for a multipart upload have its id.
        uploads = uploads_source(schema, upload_id="upload_id")
        self.config = generous(
            [uploads, avatars_source(schema)],
            partitions=2,
            derived=(DERIVED,),
            exclude=("cache/",),
            page_size=15,
            split_at=CUTS,
            not_references=(f"{schema}.uploads",),
        )
        self.world = RaceWorld(
            executor=cast("Executor", RecordedExecutor(self.driver.pool, self.record)),
            store=store,
            schema=schema,
            config=self.config,
            now=datetime.now(UTC),
        )
        self.place = place
        self.seat = Seat(
            mutant=self.mutant,
            record=self.recorded,
            schema=schema,
            store_url=url,
            url=self.database_url,
            wrapper=place.wrapper,
        )
        known_as = Elsewhere(store, _nothing) if place.wrapper == "elsewhere" else store
        self.app = RaceApp(
            world=self.world, is_versioned=place.is_versioned, recon_store=known_as, written=self.record
        )
        for key in OUT_OF_SCOPE:
            self.app.out_of_scope[key] = self.app.content(key)
            await self.world.put(key, self.app.out_of_scope[key])
        for key in ANCHORS:
            await self.app.put_and_adopt(key)

    async def some_acts(self, number: int) -> None:
        """Let the application act several times."""
        for _ in range(number):
            await self.act(self.chance.choice(self.app.actions))

    async def act(self, action: str) -> None:
        """Let it act once, often on a key that is about to be removed."""
        # Another object over an orphan would restart its age, and no orphan would become old.
        is_orphan = action == "put_orphan"
        await self.act_on(self.chance.choice(KEYS) if is_orphan else self._some_key(), action)

    async def act_on(self, key: str, action: str) -> None:
        """Let it act on one key."""
        if await self.app.act(action, key):
            self.num_acts += 1
            self.done[action] += 1

    async def sudden_act(self) -> None:
        """Let it start to rely on keys, most likely on keys that are about to be removed."""
        action = self.chance.choice(SUDDEN)
        number = self.chance.randrange(1, 4)
        keys = self._oldest()[:number] or [self._some_key()]
        if self.targets:
            keys = self.chance.sample(self.targets, number)
        for key in keys:
            await self.act_on(key, action)

    @property
    def has_due(self) -> bool:
        """Whether a run may be about to remove something."""
        before = self.world.now - self.config.grace
        return any(since <= before for since, _ in self.app.orphans.values())

    def _oldest(self) -> list[str]:
        """Return the keys of orphans, oldest first."""
        return sorted(self.app.orphans, key=lambda key: (self.app.orphans[key][0], key))

    def _some_key(self) -> str:
        """Return a key, often that of an orphan, an old one first."""
        orphans, gone = self._oldest()[:4], self.app.gone[-6:]
        if orphans and self.chance.random() < 0.5:
            return self.chance.choice(orphans)
        if gone and self.chance.random() < 0.5:
            return self.chance.choice(gone)
        return self.chance.choice(KEYS)

    async def run(
        self,
        span: timedelta,
        *,
        is_quiet: bool = False,
        is_calm: bool = False,
        is_audited: bool = True,
        fatal: tuple[str, int] | None = None,
        interrupter: Interrupter | None = None,
        stalls_before: str = "",
        skew: timedelta = timedelta(0),
        **changes: Any,
    ) -> Outcome:
        """
        Let time pass, then run once, with interventions unless the run is quiet. `interrupter` has its own.

        The process is held up before its first call of `stalls_before`.

        In a calm run the application acts, and no process is killed or held up, and no source fails.

        Raises: Violation.
        """
        self.world.now += max(span, MINUTES)
        self.app.awaited = dict.fromkeys(self.app.awaited, True)
        config = replace(self.config, **changes)
        task = Task(config=config, now=self.world.now, skew=skew)
        if interrupter is None:
            interrupter = Interrupter(interventions={}) if is_quiet else interrupter_of(self, is_calm=is_calm)
        if fatal is not None:
            interrupter.interventions[fatal] = [die]
        self.record.of_all(f"run at {self.world.now:%Y-%m-%d %H:%M} in mode {config.mode.value}")
        may_stall = not (is_quiet or is_calm) and self.chance.random() < 0.1
        stalls_at = self.chance.randrange(1, MAX_CALLS) if may_stall else 0
        owner = self.process()
        game = Game(
            race=self,
            interrupter=interrupter,
            is_quiet=is_quiet,
            owner=owner,
            stalls_at=stalls_at,
            stalls_before=stalls_before,
        )
        outcome = await self._played(task, game)
        self.done[f"runs {outcome.state}"] += 1
        self.done.update({name: count for name, count in outcome.figures.items() if type(count) is int})
        figures = {name: value for name, value in outcome.figures.items() if value}
        self.app.record_all(f"run is {figures}")
        scanned = "SELECT count(*) FROM {schema}.millhand_orphan_run WHERE scanned_at IS NOT NULL"
        self.app.num_scans = (await self.world.sql(scanned))[0]["count"]
        if is_audited:
            await self.audit(after_run=outcome.is_whole)
        return outcome

    async def audit(self, *, after_run: bool) -> None:
        """Check that nothing is lost. Raises: Violation."""
        self.done["audits"] += 1
        # A process that was held up for days dates its moves by the day on which it began.
        self.app.is_moved_today = not self.was_held_up
        if self.was_held_up:
            await forget_late_moves(self.app)
        self.was_held_up = self.zombie is not None
        lost = await self.app.losses(after_run=after_run)
        if lost:
            raise Violation(await self.story(lost))

    async def story(self, lost: Mapping[str, str]) -> str:
        """Return what is lost, with its history, where it is now, and the recorded calls about it."""
        lines = [f"{len(lost)} lost on {self.place.name}:"]
        for key, how in list(lost.items())[:3]:
            past = sorted(
                [*self.app.history[key][-20:], *self.app.history[""][-12:]], key=lambda one: one[:16]
            )
            lines += [f"  {key!r} is lost: {how}", *(f"      {line[:200]}" for line in past)]
            if key:
                lines += [f"      {line}" for line in await self._evidence(key)]
        return "\n".join(lines)

    async def _evidence(self, key: str) -> list[str]:
        """Return what the store, the ledger and the table hold of a key, and what was recorded about it."""
        versions = [
            one async for page in self.world.store.list_versions(prefix=key) for one in page if one.key == key
        ]
        actions = await self.world.sql(ACTIONS_OF, key)
        rows = await self.world.sql("SELECT * FROM {schema}.uploads WHERE key = $1", key)
        recorded = lines_about(self.recorded, key, [one["id"] for one in actions])
        return [
            *(f"in the store: {shown(one)}" for one in versions),
            *(f"in the ledger: {shown(one)}" for one in actions),
            *(f"in the table: {shown(one)}" for one in rows),
            *recorded,
        ]

    async def why_stuck(self) -> str:
        """Return what the database is waiting for."""
        rows = await self.world.sql(
            "SELECT state, wait_event, pg_blocking_pids(pid)::text AS blocked_by, pid, query FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        lines = [f"  {dict(row)}"[:300] for row in rows]
        return "\n".join(
            [
                f"a run must continue, got none of its calls for {STUCK_SECONDS:g} s on {self.place.name}",
                *lines,
            ]
        )

    async def _played(self, task: Task, game: Game) -> Outcome:
        game.owner.begin(task)
        self.record.of_all(f"{game.owner.name} begins")
        if self.zombie is not None and not game.is_quiet:
            game.waiting.append(self.zombie)
        try:
            figures = await game.played()
        finally:
            self.done["quiet calls" if game.is_quiet else "calls"] += game.num_calls
        return Outcome(figures=figures)

    def process(self) -> RunProcess:
        """Return an idle process."""
        if self._idle:
            return self._idle.pop()
        one = RunProcess(self.context, self.seat)
        self._alive = [*(other for other in self._alive if other.is_alive), one]
        return one

    def release(self, process: RunProcess) -> None:
        """Keep an idle process, or end it, so that another starts next time."""
        process.is_busy = False
        if self.chance.random() < 0.1:
            self.done["restarts"] += 1
            process.kill()
        else:
            self._idle.append(process)

    async def end_zombie(self, *, fatal: tuple[str, int] | None = None) -> None:
        """
        Let a process that was held up continue to its end, or to the call at which it is killed.

        Its run was taken over meanwhile. Raises: Violation.
        """
        if self.zombie is None:
            return
        zombie, self.zombie = self.zombie, None
        interrupter = Interrupter(interventions={} if fatal is None else {fatal: [die]})
        game = Game(race=self, interrupter=interrupter, is_quiet=False, owner=zombie, stalls_at=0)
        game.waiting.append(zombie)
        await game.played()
        self.done["zombies"] += 1
        await self.audit(after_run=False)

    def _dismiss(self) -> None:
        # All of them: a process in the middle of a run would keep its locks.
        for one in self._alive:
            if one.is_alive:
                one.kill()
        self._alive, self._idle, self.zombie = [], [], None


async def forget_late_moves(app: RaceApp) -> None:
    """
    Let the application await nothing that a process moved after another run had ended its actions.

    No run ends them before their time in quarantine is over, by the clock of the database. In a race a process has the clock
    of the day on which it began: if it is held up for longer than that time, the actions that it writes are too old at once.
    """
    until = app.world.now - app.world.config.quarantine_for
    for row in await app.world.sql(ENDED_EARLY, INTERRUPTED, until):
        await app.forget(row["key"])


async def _nothing(operation: str) -> None:
    """Do nothing."""


@contextlib.asynccontextmanager
async def race_of(
    database_url: str, schema: str, *, seed: int, mutant: str | None = None
) -> AsyncIterator[Race]:
    """Yield a race in a schema that exists and is migrated."""
    context = forkserver_context("__main__", "race_child")
    # A short lock timeout: the process that holds the lock may wait for its permission.
    mark = "&" if "?" in database_url else "?"
    driver = AsyncpgDriver(f"{database_url}{mark}lock_timeout=50", schema)
    await driver.open()
    await driver.pool.execute_script(TABLES.format(schema=schema))
    await driver.pool.fetch(f"ALTER TABLE {schema}.uploads ADD COLUMN IF NOT EXISTS upload_id text")
    try:
        yield Race(
            chance=random.Random(seed),  # noqa: S311 - a play, not a secret
            context=context,
            database_url=database_url,
            driver=driver,
            mutant=mutant,
        )
    finally:
        await driver.close()
