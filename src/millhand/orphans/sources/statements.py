"""The SQL in which a declared source is asked, and a row as it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from millhand.orphans.config import ReferenceSource
from millhand.orphans.rules import Reference
from millhand.orphans.sources.key_sql import (
    bare_sql,
    from_sql,
    key_sql,
    literal,
    quoted,
    quoted_table,
    value_sql,
)

READY = Reference.READY.value
ALL_READY = f"'{READY}'::text"
SEPARATOR, SEPARATOR_SQL = "\x1f", "E'\\x1f'"  # hardly a key has it; where one does, `num_keys` tells
OTHER = "other"  # neither ready nor on its way out: its object lives, but nobody misses it


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceRow:
    """One row that names a key. `state` is a `Reference`'s value, or `other`."""

    created_at: datetime | None
    deleted_at: datetime | None
    etag: str | None
    key: str
    row_id: str
    size: int | None
    source: str
    state: str
    upload_id: str | None = None

    @property
    def reference(self) -> Reference:
        """What the judge is told; what is neither ready nor leaving counts as ready."""
        return Reference.READY if self.state == OTHER else Reference(self.state)

    @property
    def left_at(self) -> datetime | None:
        """When it began to be what it is, if the row knows."""
        return self.deleted_at if self.state == Reference.SOFT_DELETED else self.created_at


class SourceStatements:
    """The SQL of one source. Names are quoted; conditions and SELECTs are the user's own and stand in parentheses."""

    def __init__(
        self,
        source: ReferenceSource,
        *,
        id_type: str | None = None,
        is_c_indexed: bool = False,
        is_cast: bool = False,
    ) -> None:
        self.source = source
        # Nothing but keys to be read: every row is ready, and says nothing of its object.
        self.is_plain = _state_sql(source) == ALL_READY and source.size is None and source.etag is None
        self._id_type = id_type
        self.from_sql = from_sql(source)
        self.value_sql = value_sql(source)
        # What indexes know: the key without what is put in front of it.
        self._key = f"{key_sql(source)}::text" if is_cast else key_sql(source)
        self.key_sql = f"({literal(source.prepend)} || {self._key})" if source.prepend else self._key
        self._match = f'{self._key} COLLATE "C"' if is_c_indexed else self._key
        self._short_columns = f"{self.key_sql}::text AS key"
        optional = (
            ("id", None if id_type is None else source.id, "text"),
            ("created_at", source.created_at, "timestamptz"),
            ("deleted_at", source.deleted_at, "timestamptz"),
            ("size", source.size, "bigint"),
            ("etag", source.etag, "text"),
            ("upload_id", source.upload_id, "text"),
        )
        self._columns = ",\n    ".join(
            [
                self._short_columns,
                f"{_state_sql(source)} AS state",
                *(
                    f"{quoted(column)}::{type_} AS {name}"
                    for name, column, type_ in optional
                    if column is not None
                ),
            ]
        )

    def range_sql(
        self, low: str, high: str | None, limit: int, *, is_joined: bool = False
    ) -> tuple[str, list[object]]:
        """
        Rows of (low, high] in key order.

        Of a plain source they can come as one row, their `num_keys` and one text `keys` with a `SEPARATOR` between two,
        which costs a twentieth to read.
        """
        columns = self._short_columns if self.is_plain else self._columns
        key = f'{self._key} COLLATE "C"'
        low, high = stretch(self.source.prepend, low, high)
        upper = "" if high is None else f" AND {key} <= $3::text"
        where = f"WHERE {key} > $1::text{upper}\nORDER BY {key}\nLIMIT $2::integer"
        params: list[object] = [low, limit] if high is None else [low, limit, high]
        sql = f"SELECT\n    {columns}\nFROM {self.from_sql}\n{where}"
        if is_joined:
            joined = f"coalesce(string_agg(page.key, {SEPARATOR_SQL}), '')"
            sql = f"SELECT\n    {joined} AS keys,\n    count(*) AS num_keys\nFROM (\n{sql}\n) AS page"
        return sql, params

    def match_sql(self, keys: Sequence[str], *, is_short: bool = False) -> tuple[str, list[object]]:
        """Rows of exactly these keys."""
        columns = self._short_columns if is_short else self._columns
        where = f"WHERE {self._match} = ANY($1::text[])"
        prepend = self.source.prepend
        # An empty value names nothing, as in a range.
        values = [key[len(prepend) :] for key in keys if key.startswith(prepend) and key != prepend]
        return f"SELECT\n    {columns}\nFROM {self.from_sql}\n{where}", [values]

    @property
    def lock_sql(self) -> str:
        """Lock rows by id and return the ids that were free."""
        columns = f"{quoted(self.source.id)}::text AS id"
        return f"SELECT {columns}\nFROM {self.from_sql}\n{self._where_id}\nFOR UPDATE SKIP LOCKED"

    @property
    def claimed_sql(self) -> str:
        """Read locked rows, and all of each as JSON."""
        whole = quoted_table(self.source.table or "").rpartition(".")[2]
        columns = f"{self._columns},\n    to_jsonb({whole}.*)::text AS row_json"
        return f"SELECT\n    {columns}\nFROM {self.from_sql}\n{self._where_id}"

    @property
    def delete_sql(self) -> str:
        """Delete rows by id, in the user's words if there are any."""
        return self.source.delete or f"DELETE FROM {self.from_sql}\n{self._where_id}"

    @property
    def _where_id(self) -> str:
        return f"WHERE {quoted(self.source.id)} = ANY($1::text[]::{self._id_type}[])"

    def row(self, found: Mapping[str, Any]) -> ReferenceRow:
        """Read one row of any of the statements."""
        return ReferenceRow(
            created_at=found.get("created_at"),
            deleted_at=found.get("deleted_at"),
            etag=found.get("etag"),
            key=found["key"],
            row_id=found.get("id") or "",
            size=found.get("size"),
            source=self.source.name,
            state=found["state"],
            upload_id=found.get("upload_id"),
        )


def stretch(prepend: str, low: str, high: str | None) -> tuple[str, str | None]:
    """
    Return the stretch of values that become keys of (low, high] when `prepend` is put in front of them.

    An empty one is ("", ""). The order of text here is that of its UTF-8 bytes.
    """
    if not low.startswith(prepend) and low > prepend:
        return "", ""
    if high is not None and not high.startswith(prepend) and high < prepend:
        return "", ""
    is_within = high is not None and high.startswith(prepend)
    return low[len(prepend) :] if low.startswith(prepend) else "", (
        (high or "")[len(prepend) :] if is_within else None
    )


def _state_sql(source: ReferenceSource) -> str:
    # The order matters: what is leaving by any of the conditions is leaving, whatever else it is.
    conditions = (
        (Reference.SOFT_DELETED, source.soft_deleted),
        (Reference.PENDING, source.pending),
        (Reference.UNATTACHED, source.unattached),
        (Reference.READY, source.ready),
    )
    cases = [f"WHEN (\n{bare_sql(sql)}\n) THEN '{state}'" for state, sql in conditions if sql is not None]
    rest = OTHER if source.ready is not None else Reference.READY
    return f"CASE {' '.join(cases)} ELSE '{rest}' END" if cases else ALL_READY
