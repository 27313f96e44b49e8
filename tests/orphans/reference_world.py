"""
One world of the reference test: the model's application with a database, a store and an operator of their own.

The application writes in batches, and then a run compares rows and objects. Its database role may not read one table.
During a run the application writes references too: right after the scan, and at random calls of the store. Some runs are
killed. The operator reacts to what a run refuses, as its text asks for.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from fork_server import forkserver_context
from reference_model import Model
from reference_places import (
    FOREIGN_KEY,
    KEY_COLUMN,
    LOG,
    NAMES,
    PLACE_OF,
    PLACES,
    TABLES,
    UNREADABLE,
    UPLOADS,
    uploads_source,
)
from reference_run import Ran, Task, run_once, run_until_killed

from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.orphans import Mode, OrphansConfig
from millhand.storage import ObjectNotFound, ObjectStore, open_store
from new_schema import migrate

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
QUARANTINE = ".millhand/quarantine/"
MOST_REACTIONS = 20
NUM_WRITERS = 8
SETTINGS = ("mentions", "unsearched")  # where the operator lists what a refusal names


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How a world is played."""

    mode: Mode
    num_steps: int
    places: tuple[str, ...] = NAMES
    steps_per_run: int = 1_500
    days_per_run: float = 1.0
    target: int = 1_500
    kill_share: float = 0.25


@dataclass(kw_only=True)
class ReferenceWorld:
    """A model, and the database and the store in which it writes its references and objects."""

    chance: random.Random
    connection: asyncpg.Connection
    driver: AsyncpgDriver
    model: Model
    role: str
    role_url: str
    rules: Rules
    store: ObjectStore
    store_url: str
    declared: dict[str, str] = field(default_factory=dict)  # native or plain, by place; undeclared if absent
    listed: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in SETTINGS})
    done: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    num_calls: int = 100  # of the last run

    async def play(self) -> None:
        """Let the application act, and run the cleanup every some steps."""
        for _ in range(self.rules.num_steps // self.rules.steps_per_run):
            days = self.rules.days_per_run * self.chance.uniform(0.5, 1.5)
            for _ in range(self.rules.steps_per_run):
                self.model.now += days * DAY / self.rules.steps_per_run
                self.model.step()
            await self.run()

    async def clear(self) -> None:
        """Delete all objects: servers keep them in memory."""
        for prefix in ("", QUARANTINE):
            async for page in self.store.list_pages(prefix=prefix):
                await self.store.delete_many(page.keys)

    async def run(self) -> None:
        """Write what is due, run, and let the operator react until a run ends without a refusal."""
        self.model.finish_uploads()
        await self.write()
        for _ in range(MOST_REACTIONS):
            ran = await self._run_once()
            if ran.state == "completed" or (ran.state != "killed" and not await self.react(ran.reason)):
                break
            self.model.now += HOUR

    async def _run_once(self) -> Ran:
        config = self.config()
        if self.chance.random() < self.rules.kill_share:
            ran = await self._killed_run(config)
        else:
            ran = await self._watched_run(config)
        self.done[f"runs {ran.state}"] += 1
        self.done["moved"] += ran.num_moved
        self.done["destroyed"] += ran.num_purged
        self.done["restored"] += ran.num_restored
        if ran.reason:
            self.reasons[re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "…", ran.reason)[:160]] += 1
        stored, quarantined = await self.look()
        run = (
            f"{self.rules.mode} run {ran.state} at {self.model.now:%m-%d %H:%M}: {ran.reason or 'no refusal'}"
        )
        self.model.judge(stored, quarantined, run[:400])
        uploads = await self.connection.fetch("SELECT key FROM uploads")
        articles = await self.connection.fetch("SELECT id FROM articles")
        self.model.judge_rows({row["key"] for row in uploads}, {row["id"] for row in articles})
        self.model.count_stale(quarantine_counts=self.rules.mode is Mode.DELETE)
        return ran

    def config(self) -> OrphansConfig:
        """Return the configuration as the operator has it now."""
        sources = [
            PLACE_OF[name].plain_source() if how == "plain" else PLACE_OF[name].native_source()
            for name, how in self.declared.items()
        ]
        config = OrphansConfig(
            sources=(uploads_source(is_attached=self.model.is_attached), *sources),
            grace=4 * DAY,
            max_keys_per_second=1_000_000,
            max_share=1.0,
            min_overlap=0.0,
            mode=self.rules.mode,
            partitions=1,
            quarantine_for=4 * DAY,
            retention=4 * DAY,
        )
        return replace(
            config, **{name: tuple(sorted(listed)) for name, listed in self.listed.items() if listed}
        )

    # --- the application -------------------------------------------------------------------------------------------

    async def write(self) -> None:
        """Write what the model has decided: objects first, then references, and at last what it removed."""
        writes, self.model.writes = self.model.writes, type(self.model.writes)()
        await self._put(writes.puts)
        states = writes.uploads
        kept = {key: state for key, state in states.items() if state in ("ready", "pending")}
        await self.connection.execute(
            "INSERT INTO uploads (key, state, created_at) SELECT key, state, $3 FROM unnest($1::text[], $2::text[]) "
            "AS one (key, state) ON CONFLICT (key) DO UPDATE SET state = EXCLUDED.state, deleted_at = NULL",
            list(kept),
            list(kept.values()),
            self.model.now,
        )
        articles = {number: key for number, key in writes.articles.items() if key is not None}
        await self.connection.execute(
            "INSERT INTO articles (id, upload_id) SELECT one.id, uploads.id FROM unnest($1::bigint[], $2::text[]) "
            "AS one (id, key) JOIN uploads USING (key) ON CONFLICT DO NOTHING",
            list(articles),
            list(articles.values()),
        )
        for name, rows in writes.rows.items():
            await self._write_rows(name, rows)
        dropped = [number for number, key in writes.articles.items() if key is None]
        await self.connection.execute("DELETE FROM articles WHERE id = ANY($1)", dropped)
        deleted = [key for key, state in states.items() if state == "deleted"]
        await self.connection.execute(
            "UPDATE uploads SET deleted_at = $2 WHERE key = ANY($1)", deleted, self.model.now
        )
        gone = [key for key, state in states.items() if state == "gone"]
        await self.connection.execute("DELETE FROM uploads WHERE key = ANY($1)", gone)

    async def _put(self, puts: Mapping[str, int]) -> None:
        items = iter(puts.items())

        async def put_all() -> None:
            for key, size in items:
                await self.store.put(key, b"%0*d" % (size, size) if size > 4 else b"x" * size)

        await asyncio.gather(*(put_all() for _ in range(min(NUM_WRITERS, len(puts)))))

    async def _write_rows(self, name: str, rows: Mapping[int, tuple[str, str] | None]) -> None:
        place = PLACE_OF[name]
        kept = {number: row for number, row in rows.items() if row is not None}
        texts, keys = [text for text, _ in kept.values()], [key for _, key in kept.values()]
        is_plain = self.declared.get(name) == "plain"
        extra = (f", {KEY_COLUMN}", ", key") if is_plain else ("", "")
        await self.connection.execute(
            f"INSERT INTO {place.table} (id, {place.column}{extra[0]}) SELECT id, text::{place.type}{extra[1]} "
            "FROM unnest($1::bigint[], $2::text[], $3::text[]) AS one (id, text, key)",
            list(kept),
            texts,
            keys,
        )
        dropped = [number for number, row in rows.items() if row is None]
        await self.connection.execute(f"DELETE FROM {place.table} WHERE id = ANY($1)", dropped)

    async def _refer_now(self, *, is_after_scan: bool) -> None:
        """Refer to objects that the run is about to move, and rely on those that exist afterwards."""
        oldest = self.model.oldest_orphans(20)
        numbers = {}
        for thing in self.chance.sample(oldest, min(len(oldest), self.chance.randrange(1, 3))):
            names = {LOG} if is_after_scan else set(self._covered_forms())
            number = self.model.refer(
                thing, sorted(names) if self.chance.random() < 0.8 else self.rules.places
            )
            reference = thing.references[number]
            # Between the search and the move, nothing can see a reference in a place or form that is not declared.
            is_covered = reference.form in self._covered_forms().get(reference.place, ())
            thing.is_late = not is_covered and not is_after_scan
            numbers[number] = thing
        await self.write()
        for number, thing in numbers.items():
            try:
                await self.store.head(thing.key)
            except ObjectNotFound:
                self.model.drop(thing, number)
        await self.write()
        self.done["references during runs"] += len(numbers)

    def _covered_forms(self) -> dict[str, tuple[str, ...]]:
        """Return the declared places, with the forms that their declaration covers."""
        forms: dict[str, tuple[str, ...]] = {UPLOADS: ("row",)}
        for name, how in self.declared.items():
            place = PLACE_OF[name]
            forms[name] = tuple(place.forms) if how == "plain" else tuple(place.native_forms)
        return {name: of for name, of in forms.items() if name in self.rules.places}

    # --- runs ------------------------------------------------------------------------------------------------------

    async def _watched_run(self, config: OrphansConfig) -> Ran:
        """Run in this process, and write references in between."""
        moments = {self.chance.randrange(1, self.num_calls + 1) for _ in range(4)}
        num_calls = 0
        is_listed = False
        is_logging = self.chance.random() < 0.5

        async def hook(operation: str) -> None:
            nonlocal num_calls, is_listed
            num_calls += 1
            if operation == "listed" and not is_listed and is_logging:
                is_listed = True
                await self._refer_now(is_after_scan=True)
            elif num_calls in moments and operation in ("head", "move", "moved", "delete", "list"):
                await self._refer_now(is_after_scan=False)

        seed = self.chance.getrandbits(32)
        ran = await run_once(self.driver, self.store, config, hook=hook, now=self.model.now, seed=seed)
        self.num_calls = max(num_calls, 10)
        return ran

    async def _killed_run(self, config: OrphansConfig) -> Ran:
        """Run in another process, which is killed at a random call."""
        context = forkserver_context(
            "reference_run", *(["boto3"] if self.store_url.startswith("s3:") else [])
        )
        ours, theirs = context.Pipe()
        task = Task(
            config=config,
            database_url=self.role_url,
            kill_at=self.chance.randrange(1, self.num_calls + 1),
            now=self.model.now,
            seed=self.chance.getrandbits(32),
            store_url=self.store_url,
        )
        process = context.Process(target=run_until_killed, args=(theirs, task), daemon=True)
        process.start()
        theirs.close()
        try:
            ran: Ran = await asyncio.to_thread(ours.recv)
        except EOFError:
            ran = Ran(state="killed")
            self.done["kills"] += 1
        await asyncio.to_thread(process.join)
        ours.close()
        return ran

    async def look(self) -> tuple[dict[str, int], set[str]]:
        """Return the size of each object in its place, and the keys in quarantine."""
        stored: dict[str, int] = {}
        async for page in self.store.list_pages():
            stored.update(zip(page.keys, page.sizes, strict=True))
        quarantined = {
            key.removeprefix(QUARANTINE).partition("/")[2]
            async for page in self.store.list_pages(prefix=QUARANTINE)
            for key in page.keys
        }
        return stored, quarantined

    # --- the operator ----------------------------------------------------------------------------------------------

    async def react(self, reason: str) -> bool:
        """Do what the reasons of a refusal ask for. Return whether there was something to do."""
        asked = {
            setting: re.findall(rf"list '([^']+)' in orphans\.{setting}", reason) for setting in SETTINGS
        }
        for name in asked["unsearched"]:
            await self._open_unreadable(name)
        is_busy = bool(asked["unsearched"])
        if "change these foreign keys" in reason:
            await self.connection.execute(FOREIGN_KEY.format(action="NO ACTION"))
            is_busy = True
        for place in PLACES:
            named = [one for one in asked["mentions"] if re.search(place.named_by, one)]
            if named and self.chance.random() < 0.5:
                self.listed["mentions"].update(named)
                self.done["places listed as mentions"] += 1
            elif re.search(place.named_by, reason) and self.declared.get(place.name) != "plain":
                await self._declare(place.name)
            else:
                continue
            is_busy = True
        return is_busy

    async def _open_unreadable(self, name: str) -> None:
        """Grant the role the table, or list it as unsearched and accept the loss."""
        if self.chance.random() < 0.5:
            await self.connection.execute(f"GRANT SELECT ON payroll TO {self.role}")
            self.done["tables granted"] += 1
        else:
            self.listed["unsearched"].add(name)
            self.model.unprotect(UNREADABLE)
            self.done["tables listed as unsearched"] += 1

    async def _declare(self, name: str) -> None:
        """Let the application write the plain key into a column of its own, for all references, and declare this column."""
        place = PLACE_OF[name]
        await self.connection.execute(f"ALTER TABLE {place.table} ADD COLUMN {KEY_COLUMN} text")
        keys = {
            number: thing.key
            for thing in self.model.live.things
            for number, reference in thing.references.items()
            if reference.place == name
        }
        await self.connection.execute(
            f"UPDATE {place.table} AS row SET {KEY_COLUMN} = one.key "
            "FROM unnest($1::bigint[], $2::text[]) AS one (id, key) WHERE row.id = one.id",
            list(keys),
            list(keys.values()),
        )
        self.declared[name] = "plain"
        self.done["places declared"] += 1


@contextlib.asynccontextmanager
async def reference_world(
    server_url: str, store_url: str, rules: Rules, *, seed: str
) -> AsyncIterator[ReferenceWorld]:
    """Make a database, a role that may not read one table, and a model, and drop them in the end."""
    chance = random.Random(seed)  # noqa: S311 - a play, not a secret
    name = f"references_{secrets.token_hex(4)}"
    admin = await asyncpg.connect(server_url)
    await admin.execute(f"CREATE ROLE {name}")
    await admin.execute(f"CREATE DATABASE {name}")
    url = urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    role_url = f"{url}{'&' if urlsplit(url).query else '?'}role={name}"
    store = open_store(store_url) if store_url.startswith("s3:") else open_store(store_url, create=True)
    try:
        await migrate(url)
        connection = await asyncpg.connect(url, server_settings={"lock_timeout": "5s"})
        await connection.execute(TABLES + ";\n".join(place.table_sql for place in PLACES))
        await connection.execute(
            f"GRANT USAGE ON SCHEMA public, tenant TO {name}; GRANT ALL ON ALL TABLES IN SCHEMA public, tenant TO {name}; "
            f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {name}; REVOKE ALL ON payroll FROM {name}"
        )
        await connection.execute(FOREIGN_KEY.format(action=chance.choice(("CASCADE", "NO ACTION"))))
        driver = AsyncpgDriver(role_url)
        await driver.open()
        natives = [place.name for place in PLACES if place.native is not None and chance.random() < 0.5]
        yield ReferenceWorld(
            chance=chance,
            connection=connection,
            declared=dict.fromkeys([one for one in natives if one in rules.places], "native"),
            driver=driver,
            model=Model(
                chance=chance,
                is_attached=chance.random() < 0.5,
                now=datetime.now(UTC),
                places=rules.places,
                target=rules.target,
            ),
            role=name,
            role_url=role_url,
            rules=rules,
            store=store,
            store_url=store_url,
        )
        await driver.close()
        await connection.close()
    finally:
        await store.aclose()
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.execute(f"DROP ROLE {name}")
        await admin.close()
