"""Nothing live is lost in any order of events, with a state machine that hypothesis drives."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from adversary import App
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from test_nothing_live_is_deleted import KEYS, Act, Run, acts, emptied, interventions, run_once
from world import DAY, World

from millhand.orphans import Mode, OrphansConfig, RunReport, reconcile
from millhand.testing import ManualClock

ANCHORS = ("anchor/1", "anchor/2", "anchor/3", "anchor/4")


@dataclass(frozen=True)
class Ground:
    """Where machines run: the event loop belongs to the test, and hypothesis runs in a thread beside it."""

    directory: Path
    loop: asyncio.AbstractEventLoop
    world: World

    def do(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()


class Machine(RuleBasedStateMachine):
    """An application, its runs, and what happens to them."""

    ground: Ground

    @initialize(is_clumsy=st.booleans())
    def begin(self, is_clumsy: bool) -> None:
        self.is_clumsy = is_clumsy
        self.ground.do(self._begin())

    async def _begin(self) -> None:
        self.world = await emptied(self.ground.world, self.ground.directory)
        # Rows that always exist, for the guards on row counts.
        uploads, avatars = self.world.config.sources
        self.world.config = replace(self.world.config, sources=(replace(uploads, min_rows=None), avatars))
        self.app = App(world=self.world)
        for key in ANCHORS:
            await self.app.put_and_adopt(key)

    @rule(doings=st.lists(acts, min_size=1, max_size=5))
    def act(self, doings: list[Act]) -> None:
        """The application acts."""
        for one in doings:
            self.ground.do(getattr(self.app, one.action)(one.key))

    @rule(
        span=st.sampled_from([DAY / 100, DAY, 8 * DAY, 8 * DAY]), at_steps=st.lists(interventions, max_size=5)
    )
    def run(self, span: Any, at_steps: list[Any]) -> None:
        """A run after some time, with actions in between, a source that fails, or a kill."""
        self.ground.do(self._run(Run(span, tuple(at_steps))))

    async def _run(self, event: Run) -> None:
        self.world.now += event.after
        self.app.awaited = dict.fromkeys(self.app.awaited, True)
        is_whole = await run_once(self.world, self.app, event, Counter(), is_clumsy=self.is_clumsy)
        assert await self.app.losses(after_run=is_whole) == {}

    @rule(key=st.sampled_from(KEYS), days=st.sampled_from([-20, -10, 10, 20]))
    def run_with_a_wrong_clock(self, key: str, days: int) -> None:
        """The database's clock is wrong for one run, and right again."""
        self.ground.do(self._run_with_a_wrong_clock(key, days))

    async def _run_with_a_wrong_clock(self, key: str, days: int) -> None:
        await self.app.put_first(key)
        self.world.now += DAY / 100
        report = await self._report(
            now=self.world.now + days * DAY, clock=ManualClock(datetime.now(UTC) - days * DAY)
        )
        # To a clock that is behind, a run that was just killed is alive.
        assert report.state in ("aborted", "busy")
        assert (report.deleted, report.deleted_rows, report.purged, report.objects) == (0, 0, 0, 0)
        for _ in range(2):
            await self._run(Run(DAY / 100, ()))

    @rule(mode=st.sampled_from([Mode.QUARANTINE, Mode.DELETE]))
    def run_without_rows(self, mode: Mode) -> None:
        """The table is empty for several runs, and the rows come back."""
        self.ground.do(self._run_without_rows(mode))

    async def _run_without_rows(self, mode: Mode) -> None:
        world = self.world
        rows = await world.sql(
            "SELECT coalesce(jsonb_agg(one), '[]')::text AS all FROM {schema}.uploads AS one"
        )
        before = {key: await self.app.where(key, data) for key, data in self.app.live.items()}
        await world.sql("DELETE FROM {schema}.uploads")
        for _ in range(3):
            world.now += 8 * DAY
            await self._report(now=world.now, config=replace(world.config, mode=mode))
        where = {key: await self.app.where(key, data) for key, data in self.app.live.items()}
        assert {key: found for key, found in where.items() if before[key] == "place"} == {
            key: "place" for key, found in before.items() if found == "place"
        }
        await world.sql(
            "INSERT INTO {schema}.uploads OVERRIDING SYSTEM VALUE "
            f"SELECT * FROM jsonb_populate_recordset(NULL::{world.schema}.uploads, $1::text::jsonb)",
            rows[0]["all"],
        )
        self.app.awaited.clear()

    async def _report(
        self, *, now: datetime, config: OrphansConfig | None = None, clock: ManualClock | None = None
    ) -> RunReport:
        world = self.world
        return await reconcile(world.executor, world.store, config or world.config, now=now, clock=clock)

    def teardown(self) -> None:
        if hasattr(self, "app"):
            for _ in range(2):
                self.run(8 * DAY, [])


async def drive(world: World, directory: Path, *, max_examples: int, steps: int) -> None:
    """Let hypothesis drive machines in a world, in its own thread."""
    ground = Ground(directory=directory, loop=asyncio.get_running_loop(), world=world)
    machine = type("OrphanMachine", (Machine,), {"ground": ground})
    chosen = settings(
        deadline=None,
        max_examples=max_examples,
        stateful_step_count=steps,
        suppress_health_check=list(HealthCheck),
    )
    await asyncio.to_thread(run_state_machine_as_test, machine, settings=chosen)


@pytest.mark.slow
async def test_nothing_live_is_lost_in_any_order_of_events(world: World, tmp_path: Path) -> None:
    """Actions, disturbed and killed runs, wrong clocks and empty tables, in any order, lose nothing live."""
    await drive(world, tmp_path, max_examples=2, steps=8)


@pytest.mark.slow
async def test_nothing_live_is_lost_by_long_machines(world: World, tmp_path: Path) -> None:
    """Longer sequences of events lose nothing live."""
    await drive(world, tmp_path, max_examples=20, steps=20)
