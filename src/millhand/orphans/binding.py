"""
Bind a bucket to one database. A run aborts unless the marker in the bucket and the row in the ledger agree.

Rule 1: the marker `.millhand/binding.json` and the row have the same token, and the row was written in this database. A run
        aborts in another database, and in a copy that was restored elsewhere.
Rule 2: every run increases the generation, in mode report too: before it scans the bucket, and again before it removes.
        The row comes first, then the marker. A marker that is ahead of its row was written after this database was backed
        up or copied, and everything uploaded since would look like an orphan.
Rule 3: a store may be part of a bucket, and another store part of it. A marker above our root, or one that the listing
        shows below it, belongs to its database, unless this same database wrote it and is not older. `bind` records the
        tokens of markers above that leave this part alone; `exclude` leaves a part below alone.
Rule 4: the first run of any mode binds the bucket. Otherwise a copy of the database could bind it while the original still
        reports. Only `millhand orphans bind` binds it again. A run that may not write to the store only compares.
Rule 5: the ledger knows a bucket by its URL. `bind` renames it in the ledger if its marker was written under another URL,
        so that runs and `restore` still find what is in quarantine. A marker that is older than the last run under that URL
        is a copy, and the ledger of its original stays.

    row at generation 0 ─▶ marker, if there is none ─▶ row + 1 ─▶ marker + 1 ─▶ … removal
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime

from millhand.core.errors import ConfigError
from millhand.db.driver.protocol import Executor
from millhand.db.query import Query, Row, parse_none
from millhand.orphans.ledger import database_facts, named
from millhand.storage import ObjectExists, ObjectNotFound, ObjectStore, StoreError
from millhand.storage.protocol import RESERVED_PREFIX

MARKER = f"{RESERVED_PREFIX}binding.json"
REMEDY = "to bind the bucket to this database from now on, run: millhand orphans bind"
MOVE_SECONDS = 600.0  # timeout of a statement over all actions of a bucket


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """
    The marker in the bucket. `database` and `name` are of the database that bound it.

    `beside` are tokens of databases that are bound above this part of the bucket and leave it alone.
    """

    beside: tuple[str, ...] = ()
    bound_at: str
    database: str
    generation: int
    name: str
    token: str

    def abort_reason(self) -> str:
        """Return why a marker above the root of a bucket keeps another database from it."""
        return (
            f"the bucket must not be part of a bucket of another database, got one that {self.name!r} bound above it at "
            f"{self.bound_at} (database {self.database}); add this part to orphans.exclude there, then run: "
            "millhand orphans bind"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingRow:
    """The row in the ledger."""

    bucket: str
    token: str
    database: str
    generation: int
    bound_at: datetime
    searched_at: datetime | None = None
    search_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """
    Row and marker, the identity of this database, and markers of other databases above the bucket's root.

    `earlier` is the row of the same bucket under another URL, if `bind` found one.
    """

    above: tuple[Marker, ...] = ()
    row: BindingRow | None
    database: str
    earlier: BindingRow | None = None
    marker: Marker | None
    name: str

    def abort_reasons(self) -> tuple[str, ...]:
        """Return why this database must not evaluate the bucket, one sentence each; empty if it may."""
        found = (self._own_abort_reason(), *(marker.abort_reason() for marker in self.above))
        return tuple(sentence for sentence in found if sentence is not None)

    def _own_abort_reason(self) -> str | None:
        row, marker = self.row, self.marker
        if marker is None:
            if row is None or not row.generation:
                return None
            return (
                f"the bucket must have the marker {MARKER} that it got at {row.bound_at:%Y-%m-%d %H:%M} UTC, got none; "
                f"check that it is the right bucket, mounted and not emptied; {REMEDY}"
            )
        if row is None or row.token != marker.token:
            return (
                f"the bucket must be bound to this database, {self.name!r}, got one that {marker.name!r} bound at "
                f"{marker.bound_at} (database {marker.database}); {REMEDY}"
            )
        if row.database != self.database:
            return (
                f"the ledger must have been written in this database, {self.database}, got one copied from "
                f"{row.database}; {REMEDY}"
            )
        if marker.generation > row.generation:
            return (
                f"the ledger must be as new as the bucket's marker, got generation {row.generation:,} where the marker "
                f"has {marker.generation:,}: this database is older than its bucket, so what was uploaded since looks "
                f"like orphans; bring its rows up to date first; {REMEDY}"
            )
        return None


async def read_binding(executor: Executor, store: ObjectStore, *, is_lenient: bool = False) -> Binding:
    """Return row and marker. `is_lenient` treats an unreadable marker as none. Raises: StoreError; DriverError."""
    database, name = await executor.run(_identity())
    row = await _row(executor, store)
    marker = await _read_marker(store, is_lenient=is_lenient)
    above = [_parse_marker(text) for text in await store.get_from_parents(MARKER)]
    others = await _of_others(executor, above, database=database, known=marker.beside if marker else ())
    return Binding(above=others, row=row, database=database, marker=marker, name=name)


async def check_nested_markers(executor: Executor, store: ObjectStore, keys: Sequence[str]) -> None:
    """Check that the markers of stores below the root belong to this database. Raises: ConfigError."""
    found = {key: _parse_marker(await store.get(key), key=key) for key in keys}
    database, _ = await executor.run(_identity())
    others = await _of_others(executor, list(found.values()), database=database, known=())
    for key, marker in found.items():
        if marker in others:
            part = key.removesuffix(MARKER)
            raise ConfigError(
                f"orphans.exclude must have {part!r}, which {marker.name!r} bound at {marker.bound_at} (database "
                f"{marker.database}), got no such prefix; add it, or run with that store: millhand orphans unbind"
            )


async def renew_binding(executor: Executor, store: ObjectStore, *, now: datetime) -> tuple[str, ...]:
    """Bind the bucket if it is not bound, and increase its generation. Return why the run must abort, if it must."""
    binding = await read_binding(executor, store)
    if reasons := binding.abort_reasons():
        return reasons
    if binding.marker is None:
        if binding.row is None:
            params = {
                "bucket": store.url,
                "database": binding.database,
                "now": now,
                "token": uuid.uuid4().hex,
            }
            await executor.run(Query("orphan_binding_insert", params, parse_none))
        row = await _row(executor, store)
        if row is not None:
            try:
                await store.put(MARKER, _marker(row, binding.name), if_absent=True)
            except ObjectExists:  # another database wrote one meanwhile
                return (await read_binding(executor, store)).abort_reasons()
        binding = await read_binding(executor, store)
        if reasons := binding.abort_reasons():
            return reasons
    await _advance(executor, store, binding)
    return ()


async def _advance(executor: Executor, store: ObjectStore, binding: Binding) -> None:
    if binding.row is None or binding.marker is None:
        return
    params = {"bucket": binding.row.bucket, "token": binding.row.token}
    row = await executor.run(Query("orphan_binding_advance", params, _parse_row))
    if row is not None:
        await store.put(MARKER, _marker(row, binding.name, beside=binding.marker.beside))


async def bind(executor: Executor, store: ObjectStore, *, now: datetime | None = None) -> Binding:
    """
    Bind the bucket to this database, whatever it was bound to, and return the binding before.

    If the bucket was bound under another URL, its actions and findings go to this one.
    Markers above the root stay valid: their tokens are recorded as databases that leave this part alone.

    Raises: StoreError; DriverError.
    """
    before = await read_binding(executor, store, is_lenient=True)
    generation = max(
        before.row.generation if before.row else 0, before.marker.generation if before.marker else 0
    )
    instant = now or (await executor.run(database_facts())).now
    params = {
        "bucket": store.url,
        "database": before.database,
        "generation": generation + 1,
        "now": instant,
        "token": uuid.uuid4().hex,
    }
    earlier = await _earlier_row(executor, store, before.marker)
    async with executor.begin() as tx:
        if earlier is not None:
            urls = {"bucket": store.url, "earlier": earlier.bucket}
            await tx.run(Query("orphan_binding_move", urls, parse_none, MOVE_SECONDS))
        row = await tx.run(Query("orphan_binding_put", params, _parse_row))
    if row is not None:
        known = before.marker.beside if before.marker else ()
        beside = dict.fromkeys((*known, *(marker.token for marker in before.above)))
        await store.put(MARKER, _marker(row, before.name, beside=tuple(beside)))
    return replace(before, earlier=earlier)


async def unbind(executor: Executor, store: ObjectStore) -> bool:
    """
    Remove the binding, so that any database may bind the bucket. Returns False if it was not bound.

    Raises: StoreError; DriverError.
    """
    had_row = await executor.run(Query("orphan_binding_delete", {"bucket": store.url}, bool))
    had_marker = await store.delete(MARKER)
    return had_row or had_marker


async def record_search(executor: Executor, bucket: str, *, now: datetime, seconds: float) -> None:
    params = {"bucket": bucket, "now": now, "seconds": seconds}
    await executor.run(Query("orphan_binding_searched", params, parse_none))


async def _earlier_row(executor: Executor, store: ObjectStore, marker: Marker | None) -> BindingRow | None:
    """Return the row that a marker was written for under another URL, unless that one is in use without this marker."""
    if marker is None:
        return None
    params = {"bucket": store.url, "token": marker.token}
    row = await executor.run(Query("orphan_binding_get_earlier", params, _parse_row))
    # A run increases the row first, and may be killed before the marker.
    return row if row is not None and row.generation <= marker.generation + 1 else None


async def _read_marker(store: ObjectStore, *, is_lenient: bool) -> Marker | None:
    try:
        text = await store.get(MARKER)
    except ObjectNotFound:
        return None
    try:
        return _parse_marker(text)
    except StoreError:
        if is_lenient:
            return None
        raise


def _parse_marker(text: bytes, *, key: str = MARKER) -> Marker:
    try:
        found = json.loads(text)
        return Marker(
            beside=tuple(map(str, found.get("beside", ()))),
            bound_at=str(found["bound_at"]),
            database=str(found["database"]),
            generation=int(found["generation"]),
            name=str(found["name"]),
            token=str(found["token"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"a file that is no marker of Millhand ({error}); inspect it, or run: millhand orphans bind"
        raise StoreError("get", reason, key=key) from error


async def _of_others(
    executor: Executor, markers: Sequence[Marker], *, database: str, known: Sequence[str]
) -> tuple[Marker, ...]:
    """Return markers that another database wrote, or this one after the state it was restored to. `known` are left out."""
    if not markers:
        return ()
    query = Query(
        "orphan_binding_generations",
        {"database": database},
        lambda rows: {str(token): int(generation) for token, generation in rows},
    )
    generations = await executor.run(query)
    return tuple(
        marker
        for marker in markers
        if marker.token not in known and marker.generation > generations.get(marker.token, -1)
    )


def _marker(row: BindingRow, name: str, *, beside: tuple[str, ...] = ()) -> bytes:
    marker = Marker(
        beside=beside,
        bound_at=f"{row.bound_at:%Y-%m-%d %H:%M} UTC",
        database=row.database,
        generation=row.generation,
        name=name,
        token=row.token,
    )
    return json.dumps(asdict(marker), indent=2).encode()


def _identity() -> Query[tuple[str, str]]:
    return Query("orphan_database_identity", {}, lambda rows: (str(rows[0][0]), str(rows[0][1])))


async def _row(executor: Executor, store: ObjectStore) -> BindingRow | None:
    return await executor.run(Query("orphan_binding_get", {"bucket": store.url}, _parse_row))


def _parse_row(rows: Sequence[Row]) -> BindingRow | None:
    return BindingRow(**named(BindingRow, rows[0])) if rows else None
