"""The check of histories accepts each right order of a job's calls, and rejects the others."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import chaos_history
import pytest
from chaos_history import Call, History, State, is_linearizable

INSERT = Call(name="insert", sent_at=0.0, answered_at=1.0)
UNANSWERED_INSERT = replace(INSERT, answered_at=chaos_history.INFINITY, is_certain=False)


def fetch(attempt: int, at: float, token: int | None = None) -> Call:
    """Return a fetch whose attempt began at an instant; its token is the number of the attempt, or another one."""
    token = attempt if token is None else token
    return Call(name="fetch", sent_at=at - 0.1, answered_at=at, attempt=attempt, token=token)


def stored(name: str, attempt: int, at: float, token: int | None = None) -> Call:
    """Return an outcome whose attempt ended at an instant and which was stored within a second."""
    token = attempt if token is None else token
    return Call(name=name, sent_at=at, answered_at=at + 1, attempt=attempt, token=token)


def sent(name: str, attempt: int, at: float, token: int | None = None) -> Call:
    """Return an outcome that got no answer."""
    call = stored(name, attempt, at, token)
    return replace(call, answered_at=chaos_history.INFINITY, is_certain=False)


def rescue(attempt: int, at: float) -> Call:
    return Call(name="rescue", sent_at=at, attempt=attempt)


def command(name: str, at: float, answered_at: float | None = None) -> Call:
    """Return a command, or one without an answer."""
    if answered_at is None:
        return Call(name=name, sent_at=at, is_certain=False)
    return Call(name=name, sent_at=at, answered_at=answered_at)


def history(calls: Sequence[Call], state: str = "completed", attempt: int = 1, **fields: Any) -> History:
    return History(calls=calls, state=state, attempt=attempt, **fields)


COMPLETED = [INSERT, fetch(1, 2.0), stored("complete", 1, 3.0)]
RESCUED = [INSERT, fetch(1, 2.0), rescue(1, 20.0), fetch(2, 21.0)]

RIGHT = {
    "one attempt completes": history(COMPLETED),
    "the row has the token of the last fetch": history(COMPLETED, token=1),
    "the insert is answered after the attempt": history([replace(INSERT, answered_at=9.0), *COMPLETED[1:]]),
    "an insert without an answer took effect": history([UNANSWERED_INSERT, *COMPLETED[1:]]),
    "an insert without an answer took effect later": history(
        [UNANSWERED_INSERT, fetch(1, 500.0), stored("complete", 1, 501.0)]
    ),
    "an insert without an answer never took effect": history([UNANSWERED_INSERT], "absent", 0),
    "a second insert of a unique job found the first": history(
        [*COMPLETED, Call(name="skip", sent_at=0.5, answered_at=9.0)]
    ),
    "two inserts of a unique job, of which the first had no answer and came second": history(
        [
            UNANSWERED_INSERT,
            *(replace(call, sent_at=1.0 + call.sent_at) for call in COMPLETED[:1]),
            *COMPLETED[1:],
        ]
    ),
    "an outcome without an answer was stored": history([*COMPLETED[:2], sent("complete", 1, 3.0)]),
    "an outcome that was sent before the rescue came too late": history(
        [*RESCUED, sent("complete", 1, 19.0), stored("complete", 2, 22.0)], attempt=2
    ),
    "an outcome of a process that stood still came too late": history(
        [*RESCUED, stored("complete", 2, 22.0), sent("complete", 1, 90.0)], attempt=2
    ),
    "a process was killed between fetch and beginning": history(
        [INSERT, rescue(1, 20.0), fetch(2, 21.0), stored("complete", 2, 22.0)], attempt=2, num_unseen=1
    ),
    "it was killed so in the second attempt": history(
        [
            INSERT,
            fetch(1, 2.0),
            stored("fail", 1, 3.0),
            rescue(2, 20.0),
            fetch(3, 21.0),
            sent("complete", 3, 22.0),
        ],
        attempt=3,
        num_unseen=1,
    ),
    "a client that stopped gave a job back before it began": history(COMPLETED, num_unseen=1),
    "a failed attempt is repeated": history(
        [INSERT, fetch(1, 2.0), stored("fail", 1, 3.0), fetch(2, 4.0), stored("complete", 2, 5.0)], attempt=2
    ),
    "the last attempt fails": history(
        [INSERT, fetch(1, 2.0), stored("panic", 1, 3.0)], "discarded", max_attempts=1
    ),
    "the last attempt is rescued": history(RESCUED[:3], "discarded", max_attempts=1),
    "a snoozed attempt does not count": history(
        [
            INSERT,
            fetch(1, 2.0, 7),
            stored("snooze", 1, 3.0, 7),
            fetch(1, 4.0, 8),
            stored("complete", 1, 5.0, 8),
        ]
    ),
    "an interrupted attempt does not count": history(
        [
            INSERT,
            fetch(1, 2.0, 7),
            sent("give_way", 1, 3.0, 7),
            fetch(1, 4.0, 8),
            stored("complete", 1, 5.0, 8),
        ],
        token=8,
    ),
    "a job cancels itself": history([INSERT, fetch(1, 2.0), stored("cancel itself", 1, 3.0)], "cancelled"),
    "a running job is cancelled": history(
        [INSERT, fetch(1, 2.0), command("cancel", 3.0, 4.0), stored("give_way", 1, 4.0)], "cancelled"
    ),
    "a cancel without an answer took effect": history(
        [INSERT, fetch(1, 2.0), command("cancel", 3.0), sent("give_way", 1, 9.0)], "cancelled"
    ),
    "a cancel without an answer never took effect": history([*COMPLETED, command("cancel", 0.5)]),
    "a waiting job is cancelled, again and again": history(
        [INSERT, *(command("cancel", at, at + 1) for at in (1.0, 1.5, 2.0))], "cancelled", 0
    ),
    "a killed process had a job that was cancelled": history(
        [*RESCUED[:3], command("cancel", 5.0, 6.0)], "cancelled"
    ),
    "a cancelled job is retried": history(
        [
            *(INSERT, fetch(1, 2.0), stored("cancel itself", 1, 3.0), command("retry", 4.0, 5.0)),
            *(fetch(2, 5.0), stored("complete", 2, 6.0)),
        ],
        attempt=2,
    ),
    "a retry came without an answer": history(
        [INSERT, fetch(1, 2.0), stored("cancel itself", 1, 3.0), command("retry", 4.0), fetch(2, 9.0)],
        "running",
        attempt=2,
    ),
    "a retry of a running job changes nothing": history([*COMPLETED, command("retry", 2.5, 2.6)]),
    "a deleted job is gone": history([*COMPLETED, command("delete", 9.0, 10.0)], "deleted", 0),
    "a deletion without an answer came before the fetch": history(
        [INSERT, command("delete", 1.0)], "deleted", 0
    ),
}

WRONG = {
    "two attempts complete": history(
        [*RESCUED, stored("complete", 1, 10.0), stored("complete", 2, 22.0)], attempt=2
    ),
    "two attempts of one number complete": history(
        [*COMPLETED, fetch(1, 5.0, 7), stored("complete", 1, 6.0, 7)]
    ),
    "two attempts complete without answers, and none was rescued": history(
        [*COMPLETED[:2], sent("complete", 1, 3.0), fetch(2, 4.0), sent("complete", 2, 5.0)], attempt=2
    ),
    "an outcome counts after the rescue": history([*RESCUED[:3], stored("complete", 1, 30.0)]),
    "an outcome counts after the rescue and the next fetch": history(
        [*RESCUED, stored("complete", 1, 30.0), sent("complete", 2, 40.0)], attempt=2
    ),
    "a failure counts after the rescue": history(
        [*RESCUED[:3], stored("fail", 1, 30.0), fetch(2, 32.0), stored("complete", 2, 33.0)], attempt=2
    ),
    "a completed job is fetched": history([*COMPLETED, fetch(2, 5.0)], "running", attempt=2),
    "a completed job is fetched and its row says nothing of it": history([*COMPLETED, fetch(2, 5.0)]),
    "two clients fetch one attempt": history(
        [INSERT, fetch(1, 2.0, 7), fetch(1, 2.01, 8), stored("complete", 1, 3.0, 7)]
    ),
    "two clients fetch one attempt, and their outcomes got no answer": history(
        [
            INSERT,
            fetch(1, 2.0, 7),
            fetch(1, 2.01, 8),
            sent("complete", 1, 3.0, 7),
            sent("complete", 1, 3.0, 8),
        ]
    ),
    "a running job is fetched": history(
        [INSERT, fetch(1, 2.0), fetch(2, 3.0), stored("complete", 2, 5.0)], attempt=2
    ),
    "an acknowledged insert is lost": history([INSERT], "absent", 0),
    "an insert is acknowledged twice": history([INSERT, *COMPLETED]),
    "a duplicate is skipped before the first insert was sent": history(
        [Call(name="skip", sent_at=-2.0, answered_at=-1.0), *COMPLETED]
    ),
    "an attempt starts before its insert was sent": history(
        [replace(UNANSWERED_INSERT, sent_at=2.5), *COMPLETED[1:]]
    ),
    "a stored outcome is lost": history(COMPLETED, "running"),
    "a stored outcome is lost, and the attempt is rescued": history(
        [*RESCUED, stored("complete", 1, 3.0), stored("complete", 2, 22.0)], attempt=2
    ),
    "a stored failure is lost": history([INSERT, fetch(1, 2.0), stored("fail", 1, 3.0)], "running"),
    "a snoozed attempt counts": history(
        [INSERT, fetch(1, 2.0), stored("snooze", 1, 3.0), fetch(2, 4.0), stored("complete", 2, 5.0)],
        attempt=2,
    ),
    "a failed attempt does not count": history(
        [INSERT, fetch(1, 2.0, 7), stored("fail", 1, 3.0, 7), fetch(1, 4.0, 8), stored("complete", 1, 5.0, 8)]
    ),
    "a discarded job is fetched": history(
        [INSERT, fetch(1, 2.0), stored("fail", 1, 3.0), fetch(2, 4.0), stored("complete", 2, 5.0)],
        attempt=2,
        max_attempts=1,
    ),
    "a cancelled job is fetched": history([INSERT, command("cancel", 1.0, 1.5), *COMPLETED[1:]]),
    "a cancel of a running job is lost": history(
        [
            *(INSERT, fetch(1, 2.0), command("cancel", 3.0, 4.0), stored("fail", 1, 5.0)),
            *(fetch(2, 7.0), stored("complete", 2, 8.0)),
        ],
        attempt=2,
    ),
    "a retry takes effect before it was sent": history(
        [INSERT, fetch(1, 2.0), stored("cancel itself", 1, 3.0), fetch(2, 4.5), command("retry", 5.0, 6.0)],
        "running",
        attempt=2,
    ),
    "a deleted job is fetched": history([INSERT, command("delete", 1.0, 1.5), *COMPLETED[1:]]),
    "a rescue of an attempt that nothing fetched": history([INSERT, rescue(1, 20.0)], "waiting"),
    "more fetches without a beginning than the row counts": history(
        [INSERT, rescue(1, 20.0), rescue(2, 40.0)], "waiting", attempt=2, num_unseen=1
    ),
    "the row was completed by another fetch": history(COMPLETED, token=9),
    "the row has another number of attempts": history(COMPLETED, attempt=2),
}


@pytest.mark.parametrize("right", RIGHT.values(), ids=RIGHT)
def test_right_histories_are_accepted(right: History) -> None:
    """Concurrent, unanswered and late calls have an order that explains them."""
    assert is_linearizable(right)


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_wrong_histories_are_rejected(wrong: History) -> None:
    """No order of the calls explains what must not happen."""
    assert not is_linearizable(wrong)


def test_order_of_the_list_does_not_matter() -> None:
    """The instants decide, and not the order in which the calls are listed."""
    chance = random.Random(1)  # noqa: S311 - the same orders at each run
    for _ in range(20):
        assert all(is_linearizable(_shuffled(one, chance)) for one in RIGHT.values())
        assert not any(is_linearizable(_shuffled(one, chance)) for one in WRONG.values())


def _shuffled(one: History, chance: random.Random) -> History:
    return replace(one, calls=chance.sample(one.calls, len(one.calls)))


def _fetch_in_any_state(_history: History, state: State, call: Call) -> Iterator[State]:
    if call.attempt == state.attempt + 1:
        yield replace(state, name="running", attempt=call.attempt, token=call.token)


def _fetch_of_any_attempt(_history: History, state: State, call: Call) -> Iterator[State]:
    if state.name == "waiting":
        yield replace(state, name="running", attempt=call.attempt, token=call.token)


def _insert_in_any_state(_history: History, _state: State, _call: Call) -> Iterator[State]:
    yield State("waiting")


def _rescue_in_any_state(_history: History, state: State, call: Call) -> Iterator[State]:
    yield replace(state, name="waiting", attempt=call.attempt)


def _delete_nothing(_history: History, state: State, _call: Call) -> Iterator[State]:
    yield state


@pytest.mark.parametrize(
    ("name", "effect"),
    [
        ("fetch", _fetch_in_any_state),
        ("fetch", _fetch_of_any_attempt),
        ("insert", _insert_in_any_state),
        ("rescue", _rescue_in_any_state),
        ("cancel", _delete_nothing),
        ("delete", _delete_nothing),
        ("skip", _delete_nothing),
    ],
)
def test_each_rule_is_needed(name: str, effect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the rule of a call, a wrong history is accepted."""
    monkeypatch.setitem(chaos_history.EFFECTS, name, effect)

    assert any(map(is_linearizable, WRONG.values()))


@pytest.mark.parametrize(
    "is_holder",
    [
        lambda state, _call: state.name == "running",
        lambda state, call: (state.attempt, state.token) == (call.attempt, call.token),
        lambda _state, _call: True,
    ],
    ids=["of any attempt", "in any state", "always"],
)
def test_the_fence_is_needed(is_holder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """If outcomes count for another attempt, or for a job that does not run, a wrong history is accepted."""
    monkeypatch.setattr(chaos_history, "_is_holder", is_holder)

    assert any(map(is_linearizable, WRONG.values()))


def test_the_final_row_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the row may be anything, a lost insert and a lost outcome are accepted."""
    monkeypatch.setattr(History, "ends_in", lambda _history, _state: True)

    assert is_linearizable(WRONG["an acknowledged insert is lost"])
    assert is_linearizable(WRONG["a stored outcome is lost"])


def test_a_history_with_too_many_orders_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search ends after a number of steps and does not call the history right."""
    monkeypatch.setattr(chaos_history, "STEPS_MAX", 3)

    with pytest.raises(OverflowError):
        is_linearizable(history(COMPLETED))


def test_many_unanswered_calls_cost_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty attempts that were rescued while their outcomes got no answer have few orders."""
    monkeypatch.setattr(chaos_history, "STEPS_MAX", 2_000)
    calls = [INSERT, *(command("cancel", at) for at in range(2000, 2020))]
    for n in range(1, 31):
        calls += [fetch(n, 30.0 * n), sent("complete", n, 30.0 * n + 1), rescue(n, 30.0 * n + 20)]

    assert is_linearizable(history(calls, "waiting", 30, max_attempts=99))
