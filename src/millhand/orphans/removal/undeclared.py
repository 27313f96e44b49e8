"""
Search the database for undeclared references to everything that a run is about to remove.

A forgotten kind of reference is the most common way to lose live data. So before each removal the search reads every column
that can hold a name, of every table, once for all candidates: the objects that are due, by any rule, and the
quarantined ones whose time is over. What it does not search is not removed.

Rule 1: a candidate whose key it finds is kept. In quarantine, it is restored.
Rule 2: if the column is neither declared nor listed in `mentions`, the run removes nothing. A kind of reference was
        forgotten, and other rows of that kind may write keys in a form that no search can read.
Rule 3: a table that cannot be read must be listed in `unsearched`, or the run removes nothing.
Rule 4: the row that a run removes is itself no reference. A value that a source reads as the key of another object is none.
Rule 5: each table is read in one snapshot, so that an update cannot move a row past the search.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import chain

from millhand.core.log.logger import logger_of
from millhand.core.orphans import Mode, OrphansConfig
from millhand.orphans.binding import read_binding, record_search
from millhand.orphans.ledger import (
    Action,
    ActionState,
    Finding,
    action_get_open,
    database_facts,
    finding_get_due,
)
from millhand.orphans.removal.key_names import EXTENSION, KeyNames, is_searchable, is_uuid, names_of
from millhand.orphans.removal.table_search import TableSearch, TooLate, Undeclared
from millhand.orphans.rules import CANDIDATE, REMOVING_NUMBERS, SHARED, Kind
from millhand.orphans.scan.context import RunContext, RunState
from millhand.orphans.scan.lookup import batches
from millhand.orphans.sources.coverage import coverage_of
from millhand.orphans.sources.searched_tables import SearchedTable, searched_tables

BATCH = 1_000
PAUSES = (
    20  # a long search is followed by a pause of this many times its length: searches take 5% of the time
)
SHORT = timedelta(minutes=1)  # a shorter search needs no pause
UNSEARCHABLE = "no text can name its key, which has a control character or nothing visible"
MAX_NAMED = 10  # columns and tables in the reasons of one run

logger = logger_of(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What a search found: `notes` say where a key was found, or why it cannot be. `reasons` say why to remove nothing."""

    notes: Mapping[str, str] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    searched: frozenset[str] = frozenset()

    def clears(self, key: str) -> bool:
        """Return whether the key was searched and not found."""
        return key in self.searched and key not in self.notes


async def search_candidates(context: RunContext, state: RunState) -> Search:
    """Search for everything that this run may remove, and keep what is found. Raises: DriverError; StoreError."""
    findings = [one async for one in _due(context)]
    keys = {finding.key for finding in findings}
    if context.mode is Mode.DELETE:
        async for actions in expired_actions(context):
            keys.update(action.key for action in actions)
    if not keys or await _is_postponed(context):
        return Search()
    own_rows = {(one.source, one.row_id): one.key for one in findings if one.source}
    found = await search(context, state, sorted(keys), own_rows)
    await _keep(context, state, found, findings)
    return found


async def search(
    context: RunContext,
    state: RunState,
    keys: Sequence[str],
    own_rows: Mapping[tuple[str, str], str] | None = None,
) -> Search:
    """Search for `keys`, without the rows that go with their objects: source and id of each, with the object's key."""
    began = time.monotonic()
    config = context.config
    names = [_names(context, key) for key in keys]
    tables = await searched_tables(context.executor, with_uuids=any(map(is_uuid, chain(*names))))
    timeout_seconds = config.source_timeout.total_seconds()
    reader = TableSearch(
        context=context,
        coverage=await coverage_of(context.executor, context.references.statements, timeout_seconds),
        ends_at=began + config.search_timeout.total_seconds(),
        keys=keys,
        names=await asyncio.to_thread(KeyNames, names),
        own_rows=own_rows or {},
    )
    unread = _unreadable(tables, config)
    late: list[str] = []
    for number, table in enumerate(tables):
        part = table.readable.without(config.not_references)
        try:
            error = await reader.read(part) if part.columns else None
        except TooLate:
            late = [_late_reason(config, number, len(tables))]
            break
        if error is not None:
            unread[table.label] = None if table.is_listed(config.unsearched) else error
    seconds = time.monotonic() - began
    await record_search(context.executor, context.store.url, now=context.now, seconds=seconds)
    state.count_search(searched=0 if late else len(keys), unsearched=sorted(unread))
    reasons = [*late, *_unread_reasons(unread), *_undeclared_reasons(reader.undeclared)]
    notes = {key: f"its key is in {place}" for key, place in reader.places.items()}
    notes |= {key: UNSEARCHABLE for key in keys if not is_searchable(key)}
    return Search(notes=notes, reasons=tuple(reasons), searched=frozenset() if late else frozenset(keys))


def _unreadable(tables: Sequence[SearchedTable], config: OrphansConfig) -> dict[str, str | None]:
    """Return the tables and columns that we may not read, each with the reason, or with None if it is listed."""
    found: dict[str, str | None] = {}
    for table in tables:
        if not table.without(config.not_references).columns:
            continue
        reason = "row-level security" if table.is_filtered else "permission denied"
        for column in table.unreadable:
            if not (column and table.is_listed(config.not_references, column)):
                is_listed = table.is_listed(config.unsearched, column)
                found[table.place(column)] = None if is_listed else reason
    return found


async def note_unreadable(context: RunContext, state: RunState) -> None:
    """Note which tables and columns a search could not read, for the report of a run that removes nothing."""
    tables = await searched_tables(context.executor, with_uuids=True)
    state.count_search(searched=0, unsearched=sorted(_unreadable(tables, context.config)))


def _unread_reasons(unread: Mapping[str, str | None]) -> list[str]:
    return [
        f"{place} must be searched for undeclared references, got {reason}; make it readable, or list '{place}' in "
        "orphans.unsearched"
        for place, reason in unread.items()
        if reason is not None
    ][:MAX_NAMED]


async def expired_actions(context: RunContext) -> AsyncIterator[list[Action]]:
    """Yield the actions whose objects have been in quarantine for `quarantine_for`, in batches."""
    # The current time, because a run may take longer than the quarantine.
    now = context.ledger_now or (await context.executor.run(database_facts())).now
    before = now - context.config.quarantine_for
    bucket, state = context.run.bucket, ActionState.QUARANTINED
    async for actions in batches(
        context.executor,
        lambda after: action_get_open(bucket, state=state, after=after, limit=BATCH, updated_before=before),
    ):
        await context.beat()
        yield actions


async def _due(context: RunContext) -> AsyncIterator[Finding]:
    """Yield the due findings whose object would go."""
    run_id = context.run.id
    async for batch in batches(
        context.executor,
        lambda after: finding_get_due(run_id, rules=REMOVING_NUMBERS, after=after, limit=BATCH),
    ):
        for finding in batch:
            if finding.is_present and context.is_removable(finding):
                yield finding


async def _is_postponed(context: RunContext) -> bool:
    """Return whether the last search took so long that this run must not search."""
    row = (await read_binding(context.executor, context.store)).row
    if row is None or row.searched_at is None or row.search_seconds is None:
        return False
    took = timedelta(seconds=row.search_seconds)
    due_at = row.searched_at + PAUSES * took
    if took <= SHORT or due_at <= context.now:
        return False
    reason = (
        f"searches may take 5% of the time, got {took.total_seconds():.0f} s at {row.searched_at:%Y-%m-%d %H:%M} UTC; "
        f"what is due stays until the next one, at {due_at:%Y-%m-%d %H:%M} UTC"
    )
    logger.info("orphan search postponed", extra={"bucket": context.run.bucket, "reason": reason})
    return True


async def _keep(context: RunContext, state: RunState, found: Search, findings: Sequence[Finding]) -> None:
    """Note in the findings where their keys were found. Unless the run aborts, they are due no more."""
    kept = [replace(one, note=found.notes[one.key]) for one in findings if one.key in found.notes]
    state.add(kept=len({one.key for one in kept}))
    if not found.reasons:
        # Their age restarts, so that the next runs need not search for the same keys.
        fresh = [replace(one, first_seen_at=context.now, sightings=0) for one in kept]
        kept = [
            replace(one, kind=Kind.SHARED, rule=SHARED.number)
            if one.source
            else replace(one, rule=CANDIDATE.number)
            for one in fresh
        ]
    await context.put_findings(kept)


def _names(context: RunContext, key: str) -> list[str]:
    """Return the names that a text may have for `key`, or for the keys that it may be derived from."""
    config = context.config
    starts = [config.prefix, *(source.prepend for source in config.sources)]
    parents = context.derived.parents(key)
    # A pattern that ends with * also fits the folders of the parent, which are in many keys.
    files = [one for one in parents if EXTENSION.search(one)] or parents[-1:]
    return [
        name for one in (key, *files) for name in names_of(one, starts=[start for start in starts if start])
    ]


def _undeclared_reasons(undeclared: Mapping[str, Undeclared]) -> list[str]:
    return [
        f"every reference must be declared, got {min(one.keys)!r}{_more(len(one.keys) - 1)} in {place}, "
        f"{_remedy(place, one.behind)}"
        for place, one in list(undeclared.items())[:MAX_NAMED]
    ]


def _remedy(place: str, behind: str | None) -> str:
    if behind is None:
        return (
            f"which no source covers; declare it in [[orphans.sources]], or list '{place}' in orphans.mentions if what it "
            "names is kept, or in orphans.not_references if it needs no object"
        )
    return (
        f"which source {behind!r} reads without returning this key; declare the table itself, with soft_deleted for its "
        f"dead rows, or list '{place}' in orphans.not_references if the other rows need no object, or in orphans.mentions "
        "if what they name is kept"
    )


def _more(number: int) -> str:
    return f" and {number:,} more" if number else ""


def _late_reason(config: OrphansConfig, done: int, total: int) -> str:
    seconds = config.search_timeout.total_seconds()
    return (
        f"the search for undeclared references must end within {seconds:,.0f} s, got {done:,} of {total:,} tables; "
        f"raise orphans.search_timeout, or list tables without keys in orphans.not_references"
    )
