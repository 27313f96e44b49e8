"""`millhand limit`: list, show and change the limits of queues, and hold and resume partitions."""

from __future__ import annotations

import json
import shlex
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from millhand.core.errors import NotFound
from millhand.core.job import Json
from millhand.core.limit import Limit, PartitionStatus, QueueLimit, Rate
from millhand.core.near_match import near_match
from millhand.core.number_text import duration as duration_text
from millhand.db.driver.protocol import Driver
from millhand.engine.fleet import load_fleet
from millhand.engine.queue_report import QueueReport, load_reports
from millhand.limits.control import LimitControl
from millhand.limits.store import PARTITIONS_DEFAULT, SEARCHED_MAX
from millhand.limits.waiting_jobs import WAITING_JOBS
from millhand.shells.cli.answers import ask_and_print, run
from millhand.shells.cli.command import Choice, Group
from millhand.shells.cli.name_warnings import print_warnings, unworked_texts
from millhand.shells.cli.options import json_option, yes_option
from millhand.shells.cli.output import (
    NotDone,
    WrongUse,
    confirm,
    num_text,
    print_fields,
    print_json,
    print_message,
    print_table,
)
from millhand.shells.cli.param_types import Whole
from millhand.shells.cli.table import Columns
from millhand.shells.settings.decode import decode_text

T = TypeVar("T")

COLUMNS = Columns(
    (
        "queue",
        "at once",
        "per client",
        "total",
        "partitions",
        "rate",
        "in order",
        "halt",
        "shared",
        "set by",
        "changed",
    ),
    optional=("changed", "shared", "halt", "in order", "per client", "set by"),
)
PARTITION_COLUMNS = Columns(
    ("key", "running", "waiting", "weight", "at once", "held until", "next start", "halted by"),
    optional=("weight", "next start", "at once"),
)
HALTED_COLUMNS = Columns(("queue", "key", "halted by", "halted at", "waiting"))
NONE = "none"

_queue_argument = click.argument("queue", metavar="QUEUE")
_key_argument = click.argument("key", metavar="KEY")


class Bound(Whole):
    """A whole number of at least 1, or `none`, which is 0."""

    name = "integer|none"

    def __init__(self) -> None:
        super().__init__(1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        return 0 if value == NONE else super().convert(value, param, ctx)


@click.group(cls=Group, example="millhand limit set reports --at-once 5")
def limit() -> None:
    """List, show and change limits of queues; hold and resume partitions."""


@limit.command(name="list", example="millhand limit list --json", choice=Choice.ANY)
@json_option
@click.pass_obj
def list_limits(config_path: Path | None, *, is_json: bool) -> None:
    """
    List the limits of all queues.

    `partitions` is what makes a partition: each has the limit for itself. `set by` is `code` if the limit is as the code of
    a client declares it, and `run time` if it was set by this command, by `client.limits` or in River UI.
    """
    ask_and_print(
        config_path,
        _explained(lambda driver: LimitControl(driver).list()),
        columns=COLUMNS,
        line=_line,
        fields=_fields,
        is_json=is_json,
        empty="no limits; set one with: millhand limit set QUEUE --at-once N",
    )


@limit.command(example="millhand limit show reports")
@_queue_argument
@click.option(
    "--limit", "num_partitions", type=Whole(1, SEARCHED_MAX), default=PARTITIONS_DEFAULT, show_default=True,
    help="Show at most this many partitions.",
)  # fmt: skip
@json_option
@click.pass_obj
def show(config_path: Path | None, *, queue: str, num_partitions: int, is_json: bool) -> None:
    """
    Show the limit of QUEUE and its busiest partitions.

    Waiting jobs are counted up to 10,000. More are shown as 10,000+, and as 10001 in the JSON. A partition without jobs is
    shown if it has settings of its own.
    """

    async def get(driver: Driver) -> tuple[QueueLimit, Sequence[PartitionStatus], Sequence[QueueReport]]:
        limits = LimitControl(driver)
        found, partitions = await limits.get(queue), await limits.partitions(queue, limit=num_partitions)
        fleet = await load_fleet(driver.pool, datetime.now(UTC))
        return found, partitions, await load_reports(driver.pool, fleet, [queue], waiting=WAITING_JOBS)

    found, partitions, reports = run(config_path, _explained(get))
    if is_json:
        shown = [msgspec.structs.asdict(partition) for partition in partitions]
        print_json({**_fields(found), "partitions": shown})
        return
    more = [
        ("running", found.num_running if found.limit.total is not None else None),
        ("note", found.limit.note),
    ]
    print_fields(
        [*zip(COLUMNS.names, _line(found), strict=True), *(field for field in more if field[1] is not None)]
    )
    click.echo()
    print_table(PARTITION_COLUMNS, map(_partition_line, partitions), empty="no partition has jobs")
    print_warnings([*unworked_texts(reports)])


@limit.command(
    name="set",
    example="millhand limit set reports --at-once 5 --by-args tenant_id\n"
    "millhand limit set crm --rate 100/1m --burst 10\n"
    "millhand limit set reports --key acme --at-once 20 --weight 3",
)
@_queue_argument
@click.option(
    "--at-once", type=Bound(), metavar="N", help="Run N jobs of a partition at once; none for no bound."
)
@click.option(
    "--at-once-per-client",
    type=Bound(),
    metavar="N",
    help="Run N of them at once in one client; none for no bound.",
)
@click.option(
    "--total", type=Bound(), metavar="N", help="Run N jobs of all partitions at once; none for no bound."
)
@click.option(
    "--rate", metavar="N/DURATION", help="Start N jobs of a partition in a time, such as 100/1m; or none."
)
@click.option("--burst", type=Whole(1), metavar="N", help="Start N jobs at once after a pause; with --rate.")
@click.option(
    "--by-args",
    metavar="FIELDS",
    help="Make a partition of each value of these fields of the args, a,b; or none.",
)
@click.option("--by-kind/--no-by-kind", default=None, help="Make a partition of each kind.")
@click.option("--in-order/--no-in-order", default=None, help="Run the jobs of a partition in order, by id.")
@click.option(
    "--halt/--no-halt",
    default=None,
    help="Start no further job of a partition after one that failed finally; with --in-order.",
)
@click.option("--shared/--no-shared", default=None, help="Workers in Go work the queue too.")
@click.option("--note", metavar="TEXT", help="Show people this line with the limit; or none.")
@click.option("--key", metavar="KEY", help="Change only this partition: its --at-once and --weight.")
@click.option(
    "--weight", type=Whole(1), metavar="N", help="Start N jobs of the partition in each turn; with --key."
)
@click.pass_obj
def set_limit(config_path: Path | None, /, *, queue: str, key: str | None, **options: Any) -> None:  # noqa: ANN401
    """
    Change the limit of QUEUE now, in all clients. What is not named stays.

    A queue without a limit gets one. The limit holds until the limit in the code of a client changes, or until `reset`.

    KEY is the value that makes a partition, or the JSON array of the values: acme, or '["acme", 5]'. Write the number 42
    as '[42]'.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if not given:
        raise WrongUse("set must change something, got no option; see: millhand limit set --help")
    if key is not None:
        _set_partition(config_path, queue, key, given)
        return
    values = _values(given)
    changed = _run(config_path, lambda limits: limits.set(queue, **values))
    print_message(f"set limit of queue {queue}: {_summary(changed.limit)}")


@limit.command(example="millhand limit hold reports acme --for 10m")
@_queue_argument
@_key_argument
@click.option("--for", "for_text", metavar="DURATION", required=True, help="How long, such as 10m or 1h30m.")
@click.pass_obj
def hold(config_path: Path | None, *, queue: str, key: str, for_text: str) -> None:
    """
    Start no job of partition KEY of QUEUE for a time. Running jobs continue.

    KEY is the value that makes the partition, or the JSON array of the values. Write the number 42 as '[42]'.
    It is [] for a limit without partitions.
    """
    length = decode_text(for_text, timedelta, "--for")
    assert isinstance(length, timedelta)  # noqa: S101 - decoded as one
    held = _change(config_path, queue, key, lambda limits: limits.hold(queue, key, length))
    _require_not_halted(held)
    until = held.held_until
    assert until is not None  # noqa: S101 - it is held
    print_message(f"held partition {held.key} of queue {queue} until {until:%Y-%m-%dT%H:%M:%SZ}")


@limit.command(example="millhand limit release reports acme")
@_queue_argument
@_key_argument
@click.pass_obj
def release(config_path: Path | None, *, queue: str, key: str) -> None:
    """End the hold of partition KEY of QUEUE."""
    released = _change(config_path, queue, key, lambda limits: limits.release(queue, key))
    _require_not_halted(released)
    print_message(f"released partition {released.key} of queue {queue}")


@limit.command(example="millhand limit halted\nmillhand limit halted accounts --json", choice=Choice.ANY)
@click.argument("queue", metavar="[QUEUE]", required=False)
@click.option(
    "--limit", "num_partitions", type=Whole(1, SEARCHED_MAX), default=PARTITIONS_DEFAULT, show_default=True,
    help="List at most this many partitions.",
)  # fmt: skip
@json_option
@click.pass_obj
def halted(config_path: Path | None, *, queue: str | None, num_partitions: int, is_json: bool) -> None:
    """
    List halted partitions of QUEUE, or of all queues.

    Those that were halted first come first. `halted by` is the id of the job that failed finally. Retry it, or skip it with
    `millhand limit resume`.
    """
    ask_and_print(
        config_path,
        _explained(lambda driver: LimitControl(driver).halted(queue, limit=num_partitions)),
        columns=HALTED_COLUMNS,
        line=lambda one: (one.queue, one.key, one.halted_by, one.halted_at, num_text(one.waiting)),
        fields=msgspec.structs.asdict,
        is_json=is_json,
        empty="no partition is halted",
    )


@limit.command(example="millhand limit resume accounts acme")
@_queue_argument
@_key_argument
@click.pass_obj
def resume(config_path: Path | None, *, queue: str, key: str) -> None:
    """
    End the halt of partition KEY of QUEUE; start its next job.

    The job that halted it is skipped. To run it again first, retry it instead: millhand job retry ID. That ends the halt,
    too.
    """
    resumed = _change(config_path, queue, key, lambda limits: limits.resume(queue, key))
    print_message(f"resumed partition {resumed.key} of queue {queue}")


@limit.command(example="millhand limit reset reports")
@_queue_argument
@click.pass_obj
def reset(config_path: Path | None, *, queue: str) -> None:
    """Return the limit of QUEUE to what the code of a client declares."""
    found = _run(config_path, lambda limits: limits.reset(queue))
    print_message(f"reset limit of queue {queue}: {_summary(found.limit)}")


@limit.command(example="millhand limit remove reports --yes")
@_queue_argument
@yes_option
@click.pass_obj
def remove(config_path: Path | None, *, queue: str, is_sure: bool) -> None:
    """
    Remove the limit of QUEUE. Its waiting jobs become available.

    A client that declares a limit for the queue declares it again at its next start.
    """
    confirm(f"remove the limit of queue {queue}", is_sure=is_sure)
    _run(config_path, lambda limits: limits.remove(queue))
    print_message(f"removed limit of queue {queue}")


def _require_not_halted(partition: PartitionStatus) -> None:
    """Raises: NotDone for a partition that is halted, which a hold and its end leave as it is."""
    if partition.halted_by is not None:
        raise NotDone(
            f"partition {partition.key} of queue {partition.queue} must not be halted, got one that job "
            f"{partition.halted_by} halted; retry the job, or skip it with: millhand limit resume"
        )


def _run(config_path: Path | None, work: Callable[[LimitControl], Awaitable[T]]) -> T:
    return run(config_path, _explained(lambda driver: work(LimitControl(driver))))


def _change(
    config_path: Path | None,
    queue: str,
    key: str,
    change: Callable[[LimitControl], Awaitable[PartitionStatus]],
) -> PartitionStatus:
    """Change one partition, and return it. Raises: WrongUse for a key that may be of two partitions."""

    async def go(limits: LimitControl) -> PartitionStatus:
        _require_clear_key((await limits.get(queue)).limit, key)
        return await change(limits)

    return _run(config_path, go)


def _require_clear_key(limit: Limit, key: str) -> None:
    """
    Raise WrongUse if a field of the args may have the key as a text or as another JSON value, such as 42.

    They are two partitions. A kind is always a text, and several values are always an array.
    """
    if limit.by_kind or not limit.by_args or key.startswith("["):
        return
    try:
        msgspec.json.decode(key)
    except (msgspec.DecodeError, UnicodeError):
        return
    value, text = shlex.quote(f"[{key}]"), shlex.quote(json.dumps([key], ensure_ascii=False))
    raise WrongUse(
        f"key must be an array if it may be a text or another JSON value, got {key!r}; write {value} for the value {key}, "
        f"or {text} for the text"
    )


def _explained(work: Callable[[Driver], Awaitable[T]]) -> Callable[[Driver], Awaitable[T]]:
    """Return work whose errors name a remedy."""

    async def go(driver: Driver) -> T:
        try:
            return await work(driver)
        except NotFound as error:
            if error.subject != "limit of queue":
                raise
            near = near_match(str(error.key), [one.queue for one in await LimitControl(driver).list()])
            hint = f"did you mean {near!r}?" if near else "see: millhand limit list"
            raise NotDone(f"queue must have a limit, found none for {error.key!r}; {hint}") from None

    return go


def _set_partition(config_path: Path | None, queue: str, key: str, given: dict[str, Any]) -> None:
    if others := given.keys() - {"at_once", "weight"}:
        name = min(others).replace("_", "-")
        raise WrongUse(f"--{name} must be left out with --key; a partition has only --at-once and --weight")
    values = {**given, **({"at_once": given["at_once"] or None} if "at_once" in given else {})}
    found = _change(config_path, queue, key, lambda limits: limits.set_partition(queue, key, **values))
    own = "of the limit" if found.at_once is None else found.at_once
    print_message(f"set partition {found.key} of queue {queue}: at once {own}, weight {found.weight}")


def _values(given: dict[str, Any]) -> dict[str, Any]:
    """Return what `client.limits.set` takes for the options."""
    values = dict(given)
    if "weight" in values:
        raise WrongUse("--weight must come with --key, got it alone; a limit has no weight")
    for name in ("at_once", "at_once_per_client", "total"):
        if name in values:
            values[name] = values[name] or None
    if "by_args" in values:
        text = values["by_args"]
        values["by_args"] = [] if text == NONE else [name.strip() for name in text.split(",")]
    if values.get("note") == NONE:
        values["note"] = None
    burst = values.pop("burst", None)
    if "rate" in values:
        values["rate"] = _rate(values["rate"], burst)
    elif burst is not None:
        raise WrongUse(f"--burst must come with --rate, got {burst} alone")
    return values


def _rate(text: str, burst: int | None) -> Rate | None:
    if text == NONE:
        return None
    allowed, slash, per = text.partition("/")
    if not slash or not allowed.strip().isdecimal():
        raise WrongUse(f"--rate must be a number of jobs and a duration, got {text!r}; write 100/1m")
    if burst is None:
        raise WrongUse(
            f"--rate must come with --burst, got {text!r} alone; at most burst + rate jobs start in any {per.strip()}"
        )
    length = decode_text(per.strip(), timedelta, "--rate")
    assert isinstance(length, timedelta)  # noqa: S101 - decoded as one
    return Rate(int(allowed), per=length, burst=burst)


def _line(limit: QueueLimit) -> tuple[object, ...]:
    values = limit.limit
    return (
        limit.queue,
        values.at_once,
        values.at_once_per_client,
        values.total,
        _partitions(values),
        _rate_text(values.rate),
        "yes" if values.in_order else "no",
        "yes" if values.halt else "no",
        "yes" if values.shared else "no",
        "code" if values == limit.declared else "run time",
        limit.updated_at,
    )


def _partition_line(one: PartitionStatus) -> tuple[object, ...]:
    return (
        one.key,
        one.running,
        num_text(one.waiting),
        one.weight,
        one.at_once,
        one.held_until,
        one.next_start_at,
        one.halted_by,
    )


def _fields(limit: QueueLimit) -> dict[str, Json]:
    return {
        "queue": limit.queue,
        **limit.limit.to_json(),
        "declared": None if limit.declared is None else limit.declared.to_json(),
        "num_running": limit.num_running if limit.limit.total is not None else None,
        "updated_at": limit.updated_at,
    }


def _partitions(limit: Limit) -> str | None:
    return ",".join([*(["kind"] if limit.by_kind else []), *limit.by_args]) or None


def _rate_text(rate: Rate | None) -> str | None:
    return None if rate is None else f"{rate.allowed}/{duration_text(rate.per)}, burst {rate.burst}"


def _summary(limit: Limit) -> str:
    """Return the values of a limit in one line."""
    parts = [
        ("at once", limit.at_once),
        ("at once per client", limit.at_once_per_client),
        ("total", limit.total),
        ("rate", _rate_text(limit.rate)),
        ("by", _partitions(limit)),
    ]
    texts = [f"{name} {value}" for name, value in parts if value is not None]
    flags = [("in order", limit.in_order), ("halt", limit.halt), ("shared", limit.shared)]
    return ", ".join([*texts, *(name for name, is_set in flags if is_set)])
