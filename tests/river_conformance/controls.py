"""Methods that compute values without a database: cron expressions, delays of retries, unique keys."""

from __future__ import annotations

import random
import re
from datetime import datetime, timedelta

import msgspec

from millhand.core.crontab import parse_cron
from millhand.core.retry import DELAY_MAX, retry_delay
from millhand.core.unique import Path, UniqueOpts, states_mask, unique_key, unique_text
from river_conformance import params as p
from river_conformance.normalized import Normalized, instant_text
from river_conformance.session import Session

# 2^63 - 1 nanoseconds, Go's longest duration. Millhand cuts it to whole microseconds.
DELAY_MAX_NANOSECONDS = 2**63 - 1
# What Go's encoder escapes; the caller's may not.
ESCAPED_BY_GO = {one: f"\\u{ord(one):04x}" for one in "<>&\u2028\u2029"}

# The fields that the args of these kinds mark as unique.
MARKED: dict[str, tuple[Path, ...]] = {
    "conformance_selected_args": (("account", "id"), ("account", "region"), ("label",), ("path/key",)),
    "conformance_dotted_selected_args": (
        ("@user",),
        ("!x",),
        ("{x}",),
        ("[x]",),
        (":id",),
        ("user.id",),
        ("a*b?c#d|e",),
        ("user", "id"),
        ("é",),
    ),
}


async def clock_set(session: Session, params: p.ClockParams) -> Normalized:
    """Set the clock. No value of this module depends on it: Millhand's delays are durations."""
    session.now = params.now
    return {}


async def rng_seed(session: Session, params: p.SeedParams) -> Normalized:
    """Set the seed of the jitter."""
    session.random = random.Random(params.seed)  # noqa: S311 - the jitter of a retry
    return {}


async def delay_of_retry(session: Session, params: p.RetryDelayParams) -> Normalized:
    """Return the delay of the default policy after a number of failures."""
    delay = retry_delay(params.error_count, session.random.random())
    nanoseconds = delay // timedelta(microseconds=1) * 1000
    return {"delay_ns": DELAY_MAX_NANOSECONDS if delay == DELAY_MAX else nanoseconds}


async def cron_next(session: Session, params: p.CronParams) -> Normalized:
    """Return the next times of a cron expression, in the offset of the time that they follow."""
    zone = params.start.tzinfo
    schedule = parse_cron(params.expression, None if "TZ=" in params.expression else zone)
    found: list[datetime] = []
    at = schedule.next(params.start)
    while at is not None and len(found) < params.count:
        found.append(at)
        at = schedule.next(at)
    return {"next": [instant_text(one.astimezone(zone)) for one in found]}


async def key_of(session: Session, params: p.UniqueKeyParams) -> Normalized:
    """Return the unique key and the mask of states of a job."""
    opts = _unique_opts(params)
    text = unique_text(
        opts,
        kind=params.kind,
        encoded_args=_as_go_writes(params.args),
        queue=params.queue,
        scheduled_at=params.scheduled_at or params.now,
    )
    return {"sha256": unique_key(text).hex(), "state_mask": states_mask(opts.states)}


def _unique_opts(params: p.UniqueKeyParams) -> UniqueOpts:
    asked = params.options
    paths = [tuple(path) for path in params.selected_unique_components] or MARKED.get(params.kind)
    return UniqueOpts(
        by_args=paths if asked.by_args and paths else asked.by_args,
        by_period=timedelta(microseconds=asked.by_period_nanos // 1000) or None,
        by_queue=asked.by_queue,
        by_state=asked.by_state or None,
        exclude_kind=asked.exclude_kind,
    )


def _as_go_writes(args: msgspec.Raw) -> str:
    text = msgspec.json.format(bytes(args), indent=-1).decode()
    return re.sub("[<>&\u2028\u2029]", lambda match: ESCAPED_BY_GO[match[0]], text)
