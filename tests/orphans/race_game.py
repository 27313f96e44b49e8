"""One run of a race, word by word: reconcilers ask before each, and here is decided who acts then, goes on or is killed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from adversary import Interrupter, Killed
from race_child import Seat, Task, serve
from race_plays import Violation

from millhand.errors import DriverError

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
# In these a run may be about to destroy what it has asked about for the last time.
DESTROYING = frozenset(("fetch", "head", "delete", "delete_many", "delete version"))
STUCK_SECONDS = 30.0
# More than any run has.
MOST_WORDS = 1_500


class Reconciler:
    """A process, and what it waits for leave for; None while it is at work or has nothing to do."""

    def __init__(self, context: Any, seat: Seat) -> None:
        ours, theirs = context.Pipe()
        self.connection: Connection = ours
        self.is_alive = True
        self.is_busy = False
        self.is_holding = False  # a transaction, and what it has locked
        self.word: str | None = None
        self._process = context.Process(target=serve, args=(theirs, seat), daemon=True)
        self._process.start()
        theirs.close()

    def begin(self, task: Task) -> None:
        self.connection.send(task)
        self.is_busy = True

    def go(self, answer: str = "go") -> None:
        self.word = None
        self.connection.send(answer)

    def kill(self) -> None:
        """SIGKILL, and see it dead."""
        self.is_alive, self.is_busy, self.word = False, False, None
        self._process.kill()
        self._process.join()
        self.connection.close()


@dataclass(kw_only=True)
class Game:
    """One run, word by word: its owner, and perhaps a process that was held up in an earlier run."""

    interrupter: Interrupter
    is_quiet: bool
    owner: Reconciler
    race: Race
    stalls_at: int
    num_words: int = 0
    waiting: list[Reconciler] = field(default_factory=list)
    working: list[Reconciler] = field(default_factory=list)

    async def played(self) -> Mapping[str, Any]:
        """Give leave, one after the other, until the owner is done, dead or held up; then to the rest."""
        figures: Mapping[str, Any] | None = None
        if self.owner not in self.waiting:
            self.working.append(self.owner)
        while self.working or self._may_go():
            try:
                heard = self._heard()
            except TimeoutError:
                raise Violation(await self.race.why_stuck()) from None
            for one in heard:
                ended = self._told(one)
                figures = ended if ended is not None else figures
            candidates = self._may_go()
            if candidates:
                ended = await self._give_leave(self.race.chance.choice(candidates))
                figures = ended if ended is not None else figures
        return figures or {"state": "stalled"}

    def _may_go(self) -> list[Reconciler]:
        """Who waits for leave and may have it; one that is held up only beside others."""
        others = [one for one in self.waiting if not self._is_held_up(one)]
        is_beside = bool(others or self.working) and self.race.chance.random() < 0.3
        return self.waiting if is_beside else others

    def _is_held_up(self, one: Reconciler) -> bool:
        # Not within a transaction: all others may be waiting for what it has locked.
        return one is self.race.zombie and not one.is_holding

    def _heard(self) -> list[Connection]:
        if not self.working:
            return []
        has_time = all(self._is_held_up(one) for one in self.waiting)
        heard = wait([one.connection for one in self.working], timeout=STUCK_SECONDS if has_time else 0.0)
        if not heard and has_time:
            raise TimeoutError
        return heard  # type: ignore[return-value]

    def _told(self, connection: Connection) -> Mapping[str, Any] | None:
        one = next(one for one in self.working if one.connection is connection)
        try:
            kind, what = connection.recv()
        except (EOFError, OSError):
            raise Violation("a reconciler must end in words, got one that crashed; see above") from None
        self.working.remove(one)
        if kind == "word":
            one.word, one.is_holding = what
            self.waiting.append(one)
            return None
        self.race.release(one)
        if one is self.race.zombie:
            self.race.zombie = None
            self.race.done["zombies"] += 1
            return None
        return what if one is self.owner else None  # type: ignore[no-any-return]

    async def _give_leave(self, one: Reconciler) -> Mapping[str, Any] | None:
        self.num_words += 1
        if self._stalls(one):
            self.waiting.remove(one)
            self.race.zombie, self.race.was_held_up = one, True
            return {"state": "stalled"}
        app = self.race.app
        app.is_purging = any(other.word in DESTROYING for other in (*self.waiting, self.race.zombie or one))
        try:
            if not self.is_quiet and self.race.chance.random() < self._eagerness(one.word or ""):
                await self.race.sudden_act()
            await self.interrupter(one.word or "")
        except Killed:
            return self._kill(one)
        except DriverError:
            return self._go(one, "break")
        finally:
            app.is_purging = False
        if one is self.owner and self.num_words >= MOST_WORDS:
            return self._kill(one)
        return self._go(one, "go")

    def _eagerness(self, word: str) -> float:
        """Return how likely the application acts right before a word, besides the moments that are drawn for a run."""
        return EAGER.get(word, 0.005) * (3.0 if self.race.targets or self.race.has_due else 1.0)

    def _stalls(self, one: Reconciler) -> bool:
        # Whoever is held up with rows locked holds up all others, until the server has enough of it.
        is_time = 0 < self.stalls_at <= self.num_words and not one.is_holding and one.word != "committed"
        return is_time and one is self.owner and self.race.zombie is None

    def _go(self, one: Reconciler, answer: str) -> None:
        self.waiting.remove(one)
        one.go(answer)
        self.working.append(one)

    def _kill(self, one: Reconciler) -> Mapping[str, Any] | None:
        self.race.done["kills"] += 1
        self.waiting.remove(one)
        if self.race.chance.random() < 0.3:
            self.race.done["kills within a word"] += 1
            one.go()
        one.kill()
        if one is self.race.zombie:
            self.race.zombie = None
        return {"state": "killed"} if one is self.owner else None
