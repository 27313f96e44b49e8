"""Warnings about kinds and queues that no client works, or that look like typing errors: they resemble a known name."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import click

from millhand.core.client_row import ClientRow
from millhand.core.errors import MillhandError
from millhand.core.near_match import near_match
from millhand.db.driver.protocol import Driver
from millhand.engine.queue_report import UNKNOWN_KINDS_REMEDY, QueueReport, QueueWaitReason
from millhand.engine.store.client import Sighting, client_get_unregistered, client_list
from millhand.engine.store.job_list import JobFilters
from millhand.engine.store.job_search import job_search_kinds
from millhand.engine.store.queue_load import queue_list_names
from millhand.observe.terminal_text import one_line

NUM_KINDS = 500
NUM_NAMED = 5
SECONDS = 1.0  # a hint is not worth a longer wait


def print_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        click.echo(f"warning: {one_line(warning)}", err=True)


async def insert_warnings(kind: str, queue: str | None, driver: Driver) -> list[str]:
    """Return the warnings about the job of a command, whose `queue` may be unset; none if the clients cannot be read."""
    queues = [] if queue is None else [queue]
    try:
        clients = await driver.pool.run(client_list())
        texts = [
            *near_names("kind", [kind], _kinds(clients)),
            *near_names("queue", queues, {"default", *_queues(clients)}),
        ]
        if not texts:
            others = await driver.pool.run(client_get_unregistered().within(SECONDS))
            texts = [*unworked_names(kind, queues, clients, others)]
    except MillhandError:  # such as a database without the line `millhand`; the job is inserted
        return []
    return [f"no registered client of the last day works {text}" for text in texts]


async def filter_warnings(
    filters: JobFilters, driver: Driver, *, kinds: Collection[str], queues: Collection[str]
) -> list[str]:
    """Return the warnings about names in filters that are not among the kinds and queues of the found jobs."""
    kinds = set(filters.kinds or ()).difference(kinds)
    queues = set(filters.queues or ()).difference(queues)
    if not kinds and not queues:
        return []
    try:
        had_kinds = await driver.pool.run(job_search_kinds(limit=NUM_KINDS).within(SECONDS))
        had_queues = await driver.pool.run(queue_list_names().within(SECONDS))
        clients = await driver.pool.run(client_list())
    except MillhandError:  # as in `insert_warnings`
        return []
    texts = (
        *near_names("kind", kinds, {*had_kinds, *_kinds(clients)}),
        *near_names("queue", queues, {"default", *had_queues, *_queues(clients)}),
    )
    return [f"no job has {text}" for text in texts]


def near_names(what: str, names: Collection[str], known: Collection[str]) -> Iterator[str]:
    """
    Yield a text for each unknown name that resembles a known one.

    A client in another language, or one that is down for longer, may work a name that no row has. Only a near match is
    therefore a sign of a typing error.
    """
    for name in sorted(set(names) - set(known)):
        if (near := near_match(name, known)) is not None:
            yield f"{what} {name!r}; did you mean {near!r}?"


def unworked_names(
    kind: str, queues: Collection[str], clients: Sequence[ClientRow], others: Sequence[Sighting]
) -> Iterator[str]:
    """
    Yield a text for a kind or a queue that no client works, with those that clients work; none if no client registered.

    A client in another language, of which `others` has traces, may work any kind.
    """
    kinds = _kinds(clients)
    if kinds and kind not in kinds and not others:
        yield f"kind {kind!r}; known: {first_few(kinds)}"
    worked = _queues(clients) | {one.name for one in others if one.what == "queue"}
    for queue in worked and set(queues) - worked:
        yield f"queue {queue!r}; known: {first_few(worked)}"


def first_few(names: Collection[str]) -> str:
    """Return the first names as they are shown, and how many more there are."""
    shown = ", ".join(map(repr, sorted(names)[:NUM_NAMED]))
    return shown if len(names) <= NUM_NAMED else f"{shown} and {len(names) - NUM_NAMED:,} more"


def _kinds(clients: Sequence[ClientRow]) -> set[str]:
    return {kind for row in clients for kind in row.kinds}


def _queues(clients: Sequence[ClientRow]) -> set[str]:
    return {queue for row in clients for queue in row.queues}


def unworked_texts(queues: Sequence[QueueReport]) -> Iterator[str]:
    """
    Yield a text for each queue with due jobs that no client works, with the kinds or with the worked queues.

    Where clients work no queue at all, the column `limit` says enough.
    """
    worked = [queue.name for queue in queues if queue.slots or queue.has_other_clients]
    for queue in queues:
        if queue.limit is QueueWaitReason.NO_CLIENT:
            if worked:
                near = near_match(queue.name, worked)
                hint = f"did you mean {near!r}?" if near else f"clients work {first_few(worked)}"
                yield f"no client works queue {queue.name!r}; {hint}"
        elif queue.unknown_kinds:
            named = f"{'kind' if len(queue.unknown_kinds) == 1 else 'kinds'} {first_few(queue.unknown_kinds)}"
            yield f"no client of queue {queue.name!r} works {named}; {UNKNOWN_KINDS_REMEDY}"
