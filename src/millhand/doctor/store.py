"""Statements about the server, the session and the catalog, for checks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from millhand.db.query import Query

# Of so many jobs, the kinds are counted.
DISCARDED_MAX = 10_000


class ServerState(msgspec.Struct, frozen=True):
    """
    The server, and the session on it.

    `sees_sessions` says whether the role sees what other roles' sessions do. `notification_share` is how full the queue of
    notifications is. `transaction_age` is the age of the oldest row, in transactions. `schema` is None if the search path
    names none that exists.
    """

    database: str
    role: str
    schema: str | None
    version: str
    at: datetime
    is_standby: bool
    encoding: str
    has_fsync: bool
    has_autovacuum: bool
    statement_timeout_seconds: float
    num_connections: int
    connections_max: int
    can_use_schema: bool
    sees_sessions: bool
    notification_share: float
    transaction_age: int


class IndexState(msgspec.Struct, frozen=True):
    """An index. Until PostgreSQL has counted its entries, `num_entries` is 0. `is_in_work` says that a session builds it."""

    table: str
    name: str
    method: str
    is_valid: bool
    is_in_work: bool
    num_bytes: int
    num_entries: int


class RightState(msgspec.Struct, frozen=True):
    """A right on a table or sequence, or on one column, and whether the role has it."""

    name: str
    column: str
    privilege: str
    is_held: bool


class OpenTransaction(msgspec.Struct, frozen=True):
    """A transaction that keeps dead rows: `what` is session, prepared or slot. A slot has no age, only a session a state."""

    what: str
    pid: int | None
    role: str | None
    name: str
    state: str | None
    seconds: float | None


class DiscardedKind(msgspec.Struct, frozen=True):
    """How many jobs of a kind were discarded."""

    kind: str
    num_jobs: int


def doctor_get_server() -> Query[ServerState]:
    """Return the state of the server and the session."""
    return Query("doctor_get_server", {}, lambda rows: ServerState(*rows[0]))


def doctor_get_backend() -> Query[int]:
    """Return the id of the server's process that answers."""
    return Query("doctor_get_backend", {}, lambda rows: int(rows[0][0]))


def doctor_get_clock() -> Query[datetime]:
    """Return the time of the server."""

    def parse(rows: Sequence[Sequence[datetime]]) -> datetime:
        return rows[0][0]

    return Query("doctor_get_clock", {}, parse)


def doctor_list_tables() -> Query[frozenset[str]]:
    """Return the names of the tables of the schema."""
    return Query("doctor_list_tables", {}, lambda rows: frozenset(row[0] for row in rows))


def doctor_list_indexes() -> Query[list[IndexState]]:
    """Return the indexes of Millhand's and River's tables."""
    return Query("doctor_list_indexes", {}, lambda rows: [IndexState(*row) for row in rows])


def doctor_list_rights(rights: Sequence[tuple[str, str, str]]) -> Query[list[RightState]]:
    """Return which rights the role has; each is a table or sequence, a column or nothing, and a privilege."""
    names, columns, privileges = (list(part) for part in zip(*rights, strict=True))
    params = {"names": names, "columns": columns, "privileges": privileges}
    return Query("doctor_list_rights", params, lambda rows: [RightState(*row) for row in rows])


def doctor_list_transactions(*, age: timedelta, num_transactions: int) -> Query[list[OpenTransaction]]:
    """
    Return transactions older than `age`, and unused slots that keep the rows of `num_transactions` transactions.

    A role without pg_read_all_stats gets only its own sessions.
    """
    params = {"age": age, "num_transactions": num_transactions}
    return Query("doctor_list_transactions", params, lambda rows: [OpenTransaction(*row) for row in rows])


def doctor_list_discarded(*, since: datetime) -> Query[list[DiscardedKind]]:
    """Return how many jobs of each kind were discarded, of up to `DISCARDED_MAX` jobs."""
    params = {"since": since, "limit": DISCARDED_MAX}
    return Query("doctor_list_discarded", params, lambda rows: [DiscardedKind(*row) for row in rows])
