"""
Checks that the life of each job of a chaos run is linearizable.

A job is a register with a small state machine: its state, the number of its attempt, and the fetch that holds it.
A call took effect at one instant between its beginning and its answer. A call without an answer took effect at some instant
after its beginning, or never. A history is right if the calls have an order within these bounds in which each of them is
possible, and which ends in the job's final row.

The calls are:

- inserts, cancels, retries and deletes, with the answers that the inserter got
- fetches, which took effect between the transaction that dated the attempt and the attempt's beginning in the journal
- outcomes: sent when the attempt ended, and answered when the worker's client emitted the event of the stored row
- rescues, from the errors of the row; they took effect after their instant there

A process can end between a fetch and the beginning of its attempt. The row counts such fetches, which can come at any time.

Source: J. Wing, C. Gong, "Testing and verifying concurrent objects", 1993; the memo of tried states is G. Lowe's, 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

INFINITY = float("inf")
FINAL_STATES = ("cancelled", "completed", "discarded")
# The token of a fetch that no journal has.
UNSEEN = -1
# No history of a run of ten minutes needs a hundredth of it.
STEPS_MAX = 200_000


@dataclass(frozen=True, slots=True)
class State:
    """A job: `token` is that of its last fetch, `num_unseen` counts the fetches that no journal has."""

    name: str = "absent"
    attempt: int = 0
    token: int = 0
    is_marked: bool = False
    num_unseen: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call, from when it was sent until its answer. If it is not certain, it may never have taken effect."""

    name: str
    sent_at: float
    answered_at: float = INFINITY
    attempt: int = 0
    is_certain: bool = True
    token: int = 0

    def __str__(self) -> str:
        what = f" of attempt {self.attempt}" if self.attempt else ""
        return f"{self.name}{what} {self.sent_at:.3f}..{self.answered_at:.3f}{'' if self.is_certain else '?'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The calls of a job and its final row; a `token` of None is not known. `num_unseen` fetches are in no journal."""

    calls: Sequence[Call]
    state: str
    attempt: int = 0
    token: int | None = None
    max_attempts: int = 25
    num_unseen: int = 0

    def ends_in(self, state: State) -> bool:
        """Return whether the final row may be this state."""
        is_same = (state.name, state.attempt) == (self.state, self.attempt)
        return is_same and (self.token in (None, state.token) or state.token == UNSEEN)


def is_linearizable(history: History) -> bool:
    """
    Return whether an order of a job's calls explains them and its final row.

    Raises: OverflowError if too many orders are possible.
    """
    tried: set[tuple[int, State]] = set()
    to_try = [((1 << len(history.calls)) - 1, State())]
    while to_try:
        left, state = one = to_try.pop()
        if one in tried:
            continue
        tried.add(one)
        if len(tried) > STEPS_MAX:
            raise OverflowError
        calls = [(1 << n, call) for n, call in enumerate(history.calls) if left >> n & 1]
        certain = [call.answered_at for _, call in calls if call.is_certain]
        if not certain and history.ends_in(state):
            return True
        # What is sent after the answer to a call comes after the call.
        until = min(certain, default=INFINITY)
        to_try += ((left, after) for after in _unseen(history, state))
        for bit, call in calls:
            if call.sent_at <= until:
                to_try += ((left & ~bit, after) for after in _after(history, state, call))
    return False


def _unseen(history: History, state: State) -> Iterator[State]:
    """Yield the states after a fetch that is in no journal, and after such an attempt was given back."""
    if state.name == "waiting" and state.num_unseen < history.num_unseen:
        num = state.num_unseen + 1
        yield replace(state, name="running", attempt=state.attempt + 1, token=UNSEEN, num_unseen=num)
    if state.name == "running" and state.token == UNSEEN:
        yield from _give_way(history, state, Call(name="", sent_at=0.0, attempt=state.attempt, token=UNSEEN))


def _after(history: History, state: State, call: Call) -> Iterator[State]:
    """Yield the states of a job after a call. What changes nothing and may never have taken effect is left out."""
    for after in EFFECTS[call.name](history, state, call):
        if call.is_certain or after != state:
            yield after


def _insert(_history: History, state: State, _call: Call) -> Iterator[State]:
    if state.name == "absent":
        yield State("waiting")


def _skip(_history: History, state: State, _call: Call) -> Iterator[State]:
    """An insert that found the job and was skipped as its duplicate."""
    if state.name != "absent":
        yield state


def _fetch(_history: History, state: State, call: Call) -> Iterator[State]:
    if state.name == "waiting" and call.attempt == state.attempt + 1:
        yield replace(state, name="running", attempt=call.attempt, token=call.token)


def _complete(_history: History, state: State, call: Call) -> Iterator[State]:
    if _is_holder(state, call):
        yield replace(state, name="completed")


def _cancel_itself(_history: History, state: State, call: Call) -> Iterator[State]:
    if _is_holder(state, call):
        yield replace(state, name="cancelled")


def _fail(history: History, state: State, call: Call) -> Iterator[State]:
    if _is_holder(state, call):
        yield _attempted_again(history, state)


def _snooze(_history: History, state: State, call: Call) -> Iterator[State]:
    if _is_holder(state, call):
        yield replace(state, name="cancelled" if state.is_marked else "waiting", attempt=state.attempt - 1)


def _give_way(history: History, state: State, call: Call) -> Iterator[State]:
    """An attempt that a stop interrupted, or a cancel."""
    yield from _snooze(history, state, call)
    if state.is_marked:
        yield from _cancel_itself(history, state, call)


def _rescue(history: History, state: State, call: Call) -> Iterator[State]:
    if state.name == "running" and state.attempt == call.attempt:
        yield _attempted_again(history, state)


def _cancel(_history: History, state: State, _call: Call) -> Iterator[State]:
    if state.name == "running":
        yield replace(state, is_marked=True)
    elif state.name == "waiting":
        yield replace(state, name="cancelled")
    elif state.name != "absent":
        yield state


def _retry(_history: History, state: State, _call: Call) -> Iterator[State]:
    if state.name in FINAL_STATES:
        yield replace(state, name="waiting")
    elif state.name != "absent":
        yield state


def _delete(_history: History, state: State, _call: Call) -> Iterator[State]:
    if state.name not in ("absent", "running"):
        yield State("deleted")


def _is_holder(state: State, call: Call) -> bool:
    return state.name == "running" and (state.attempt, state.token) == (call.attempt, call.token)


def _attempted_again(history: History, state: State) -> State:
    if state.is_marked:
        return replace(state, name="cancelled")
    return replace(state, name="discarded" if state.attempt >= history.max_attempts else "waiting")


EFFECTS: dict[str, Callable[[History, State, Call], Iterator[State]]] = {
    "insert": _insert,
    "skip": _skip,
    "fetch": _fetch,
    "complete": _complete,
    "fail": _fail,
    "panic": _fail,
    "snooze": _snooze,
    "cancel itself": _cancel_itself,
    "give_way": _give_way,
    "rescue": _rescue,
    "cancel": _cancel,
    "retry": _retry,
    "delete": _delete,
}
