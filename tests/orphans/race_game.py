"""One run of a race, call by call: processes ask before each call, and the game decides who acts, continues or is killed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from adversary import Interrupter, Killed
from race_child import Seat, Task, serve
from race_plays import Violation

from millhand.core.errors import DriverError

if TYPE_CHECKING:
    from race import Race

EAGER = {
    "begin": 0.05,
    "commit": 0.1,
    "committed": 0.1,
    "move": 0.15,
    "moved": 0.15,
    "copy": 0.15,
    "delete": 0.2,
    "delete_many": 0.1,
}
# At these calls a run may have read the references for the last time before it destroys something.
DESTROYING = frozenset(("fetch", "head", "delete", "delete_many", "delete version"))
STUCK_SECONDS = 30.0
# More than any run has.
MOST_CALLS = 1_500


class RunProcess:
    """A process, and the call that it waits to make; None while it works or is idle."""

    def __init__(self, context: Any, seat: Seat) -> None:
        ours, theirs = context.Pipe()
        self.connection: Connection = ours
        self.is_alive = True
        self.is_busy = False
        self.is_holding = False  # a transaction with its locks
        self.call: str | None = None
        self._process = context.Process(target=serve, args=(theirs, seat), daemon=True)
        self._process.start()
        self.name = f"P{self._process.pid}"
        theirs.close()

    def begin(self, task: Task) -> None:
        self.connection.send(task)
        self.is_busy = True

    def go(self, answer: str = "go") -> None:
        self.call = None
        self.connection.send(answer)

    def kill(self) -> None:
        """Send SIGKILL, and wait until the process has ended."""
        self.is_alive, self.is_busy, self.call = False, False, None
        self._process.kill()
        self._process.join()
        self.connection.close()


@dataclass(kw_only=True)
class Game:
    """One run, call by call: its process, and perhaps a process that was held up in an earlier run."""

    interrupter: Interrupter
    is_quiet: bool
    owner: RunProcess
    race: Race
    stalls_at: int
    stalls_before: str = ""
    num_calls: int = 0
    waiting: list[RunProcess] = field(default_factory=list)
    working: list[RunProcess] = field(default_factory=list)

    async def played(self) -> Mapping[str, Any]:
        """Permit one call after the other, until the owner has ended or is held up; then let the rest end."""
        figures: Mapping[str, Any] | None = None
        if self.owner not in self.waiting:
            self.working.append(self.owner)
        while self.working or self._may_go():
            try:
                connections = self._received_from()
            except TimeoutError:
                raise Violation(await self.race.why_stuck()) from None
            for connection in connections:
                ended = self._receive(connection)
                figures = ended if ended is not None else figures
            candidates = self._may_go()
            if candidates:
                ended = await self._permit(self.race.chance.choice(candidates))
                figures = ended if ended is not None else figures
        return figures or {"state": "stalled"}

    def _may_go(self) -> list[RunProcess]:
        """Return the processes that may continue. One that is held up continues only beside others."""
        others = [one for one in self.waiting if not self._is_held_up(one)]
        is_beside = bool(others or self.working) and self.race.chance.random() < 0.3
        return self.waiting if is_beside else others

    def _is_held_up(self, one: RunProcess) -> bool:
        # Not within a transaction: all others may wait for its locks.
        return one is self.race.zombie and not one.is_holding

    def _received_from(self) -> list[Connection]:
        if not self.working:
            return []
        has_time = all(self._is_held_up(one) for one in self.waiting)
        ready = wait([one.connection for one in self.working], timeout=STUCK_SECONDS if has_time else 0.0)
        if not ready and has_time:
            raise TimeoutError
        return ready  # type: ignore[return-value]

    def _receive(self, connection: Connection) -> Mapping[str, Any] | None:
        one = next(one for one in self.working if one.connection is connection)
        try:
            kind, what = connection.recv()
        except (EOFError, OSError):
            raise Violation("a process must report its end, got one that crashed; see above") from None
        self.working.remove(one)
        if kind == "call":
            one.call, one.is_holding = what
            self.waiting.append(one)
            return None
        self.race.release(one)
        self.race.record.of_all(f"{one.name} ends")
        if one is self.race.zombie:
            self.race.zombie = None
            self.race.done["zombies"] += 1
            return None
        return what if one is self.owner else None  # type: ignore[no-any-return]

    async def _permit(self, one: RunProcess) -> Mapping[str, Any] | None:
        self.num_calls += 1
        if self._stalls(one):
            self.waiting.remove(one)
            self.race.zombie, self.race.was_held_up = one, True
            self.race.record.of_all(f"{one.name} is held up before {one.call}")
            return {"state": "stalled"}
        app = self.race.app
        app.situation = self._situation
        app.is_purging = any(other.call in DESTROYING for other in (*self.waiting, self.race.zombie or one))
        try:
            if not self.is_quiet and self.race.chance.random() < self._eagerness(one.call or ""):
                await self.race.sudden_act()
            await self.interrupter(one.call or "")
        except Killed:
            return self._kill(one)
        except DriverError:
            return self._go(one, "break")
        finally:
            app.is_purging = False
        if one is self.owner and self.num_calls >= MOST_CALLS:
            return self._kill(one)
        return self._go(one, "go")

    def _eagerness(self, call: str) -> float:
        """Return the probability that the application acts before a call, besides the chosen moments."""
        return EAGER.get(call, 0.005) * (3.0 if self.race.targets or self.race.has_due else 1.0)

    def _stalls(self, one: RunProcess) -> bool:
        # A process that is held up with rows locked holds up all others.
        is_time = 0 < self.stalls_at <= self.num_calls or one.call == self.stalls_before
        may_stall = is_time and not one.is_holding and one.call != "committed"
        return may_stall and one is self.owner and self.race.zombie is None

    def _situation(self) -> str:
        """Return what each process waits for, and whether a row that comes now may be too late."""
        zombie = self.race.zombie
        waiting = [f"{one.name} waits for {one.call}" for one in self.waiting]
        working = [f"{one.name} works" for one in self.working]
        held_up = (
            []
            if zombie is None or zombie in self.waiting
            else [f"{zombie.name} held up before {zombie.call}"]
        )
        return ", ".join([*waiting, *working, *held_up, f"is_purging={self.race.app.is_purging}"])

    def _go(self, one: RunProcess, answer: str) -> None:
        self.waiting.remove(one)
        one.go(answer)
        self.working.append(one)

    def _kill(self, one: RunProcess) -> Mapping[str, Any] | None:
        self.race.done["kills"] += 1
        self.race.record.of_all(f"{one.name} is killed at {one.call}")
        self.waiting.remove(one)
        if self.race.chance.random() < 0.3:
            self.race.done["kills within a call"] += 1
            one.go()
        one.kill()
        if one is self.race.zombie:
            self.race.zombie = None
        return {"state": "killed"} if one is self.owner else None
