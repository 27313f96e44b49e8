"""
The jobs of a load test and how each of their attempts ends, which follow from a seed.

An attempt depends only on the args, its number and the number of snoozes, in both languages. The outcome of a job follows
from its plan and from which of its attempts were killed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

# The kinds of a plain function, of a coroutine, and of jobs that wait for a cancellation.
THREAD_KIND, ASYNC_KIND, HELD_KIND = KINDS = ("chaos_thread", "chaos_async", "chaos_held")
# The kind of jobs that cancel themselves and are then retried.
RETRIED_KIND = "chaos_retried"
QUEUES = ("default", "chaos_one", "chaos_two")
MAX_ATTEMPTS = 25

# The shares of jobs by outcome, in percent.
FATES = {"success": 79, "failures": 10, "snoozes": 5, "cancelled": 2, "discarded": 3, "held": 1}
SHARE_SCHEDULED = 0.05
SHARE_UNIQUE = 0.05
SCHEDULED_SECONDS = (-2.0, 10.0)
# Mostly zero; sometimes long enough to be running when its process is killed.
WORK_MS = (0, 1, 5, 20, 100, 300, 1_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosJob:
    """
    One job. `acts` has the end of each attempt; attempts without one succeed.

    From attempt `snooze_at` on, `snoozes` attempts are snoozed. A unique job is inserted twice. `tenant` is for limits.
    """

    n: int
    acts: tuple[str, ...] = ()
    delay_seconds: float | None = None
    is_unique: bool = False
    kind: str = ASYNC_KIND
    max_attempts: int = MAX_ATTEMPTS
    priority: int = 1
    queue: str = "default"
    snooze_at: int = 1
    snoozes: int = 0
    tenant: str | None = None
    work_ms: int = 0

    def inserted(self, now: datetime) -> dict[str, Any]:
        """Return the job as the inserters of both languages take it."""
        opts: dict[str, Any] = {
            "max_attempts": self.max_attempts,
            "priority": self.priority,
            "queue": self.queue,
        }
        if self.is_unique:
            opts["unique"] = {"by_args": True}
        if self.delay_seconds is not None:
            opts["scheduled_at"] = (now + timedelta(seconds=self.delay_seconds)).isoformat()
        return {"kind": self.kind, "args": self.args(), "opts": opts}

    def args(self) -> dict[str, Any]:
        """Return the args of the job, by which the audit finds it."""
        args = {
            "n": self.n,
            "acts": list(self.acts),
            "snooze_at": self.snooze_at,
            "snoozes": self.snoozes,
            "work_ms": self.work_ms,
        }
        return args if self.tenant is None else {**args, "tenant": self.tenant}


def act_of(args: dict[str, Any], attempt: int, snoozes: int) -> str:
    """Return how an attempt ends. Source: `river/chaos.go` has the same function."""
    if snoozes < args["snoozes"] and attempt >= args["snooze_at"]:
        return "snooze"
    acts: list[str] = args["acts"]
    return acts[attempt - 1] if attempt <= len(acts) else "complete"


def plan(seed: int, num_jobs: int) -> list[ChaosJob]:
    """Return the jobs of a seed; the same at each call."""
    chance = random.Random(seed)  # noqa: S311 - a seed must give the same jobs again
    return [_job(chance, n) for n in range(num_jobs)]


def now() -> datetime:
    return datetime.now(UTC)


def _job(chance: random.Random, n: int) -> ChaosJob:
    special = _special_plan(chance)
    is_held = special.get("kind") == HELD_KIND
    is_unique = (
        not is_held and "cancel" not in special.get("acts", ()) and special.get("max_attempts") is None
    )
    return ChaosJob(
        n=n,
        delay_seconds=chance.uniform(*SCHEDULED_SECONDS) if chance.random() < SHARE_SCHEDULED else None,
        # Only a completed job keeps its key. Otherwise the second insert would not be a duplicate.
        is_unique=chance.random() < SHARE_UNIQUE and is_unique,
        priority=chance.randint(1, 4),
        queue=chance.choice(QUEUES),
        work_ms=chance.choice(WORK_MS),
        **{"kind": chance.choice((THREAD_KIND, ASYNC_KIND)), **special},
    )


def _special_plan(chance: random.Random) -> dict[str, Any]:
    """Return the special part of a job's plan."""
    failures = tuple(chance.choices(("fail", "panic"), k=chance.randint(1, 4)))
    match chance.choices(tuple(FATES), weights=tuple(FATES.values()))[0]:
        case "failures":
            return {"acts": failures}
        case "snoozes":
            acts = failures if chance.random() < 0.3 else ()
            return {"acts": acts, "snoozes": chance.randint(1, 3), "snooze_at": chance.randint(1, 2)}
        case "cancelled":
            return {"acts": (*failures[1:], "cancel")}
        case "discarded":
            return {"acts": failures, "max_attempts": len(failures)}
        case "held":
            return {"acts": ("hold",) * MAX_ATTEMPTS, "kind": HELD_KIND}
        case _:
            return {}
