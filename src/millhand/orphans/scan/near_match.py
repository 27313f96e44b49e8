"""
Near matches: candidates whose key a row does name, but written differently.

Two ways to write one path have cost others their data. A key is a near match if it differs from a referenced one by case, by
Unicode normalization, by percent-encoding, by `+` for a space, by slashes (doubled, backward, in front), by blanks or
quotes around it, by the prefix, by a server and folders in front, or by the part after a `?` or `#`. It is also one if
a row names it without some of its folders, and no object has that shorter name.

Millhand keeps near matches and reports them. If one is no near match any more, its age as an orphan starts then.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from urllib.parse import urlsplit

from millhand.core.errors import DriverError, OperationTimeout
from millhand.core.orphans import OrphansConfig
from millhand.db.driver.protocol import Executor
from millhand.orphans.ledger import Finding, finding_get_due
from millhand.orphans.rules import CANDIDATE, NEAR_MATCH, ORPHAN_NUMBERS, REMOVING_NUMBERS, SHARED, Kind
from millhand.orphans.scan.context import RunContext, RunState
from millhand.orphans.scan.derived import DerivedFrom
from millhand.orphans.scan.lookup import existing_keys
from millhand.orphans.sources.key_sql import decoded_sql, literal
from millhand.orphans.sources.references import References, SourceFailed
from millhand.storage.protocol import ObjectStore

BATCH = 10_000  # keys of one query; each query reads every source from end to end once
MAX_CHECKED = 100_000  # candidates of a first run, which removes nothing; all that are due are checked
NUM_LOOKS = 1_000  # lookups at a time, of objects that rows name
NUM_TIMEOUTS = 10  # a query may take this many times `source_timeout`, because it reads the whole source

# A path and not a bare key: with a server, a scheme or a drive in front, or with a slash or a dot.
IS_PATH = "source.key ~ " + literal(r"^([A-Za-z][A-Za-z0-9+.-]*:|[./\\]|[^/]*\.[^/]*/)")
# Of a path, the part behind the server. Of a bare key, the key, and the part before a ? or #.
NAMES = rf"""
CASE
    WHEN {IS_PATH} THEN ARRAY[regexp_replace(regexp_replace(source.key, '[?#].*$', ''), '^[^/]*//[^/]*/', '')]
    WHEN source.key ~ '[?#]' THEN ARRAY[source.key, regexp_replace(source.key, '[?#].*$', '')]
    ELSE ARRAY[source.key]
END
"""
# A path with fewer and fewer folders in front: a base URL that is not declared may contain some of them. No key is longer
# than 1,024 bytes, and a text with thousands of folders would cost too much.
ENDINGS = f"""
CASE WHEN {IS_PATH} THEN ARRAY(
    SELECT array_to_string(parts[n:], '/')
    FROM string_to_array(right(folded.name, 1024), '/') AS parts, generate_series(1, cardinality(parts)) AS n
) ELSE ARRAY[folded.name] END
"""
MAX_TAILS = 100  # folders that a row may leave out; more than any key has
# Marks a name that may have lost folders in front. No folded name starts with a slash.
TAIL = "/"
# A text without a scheme may have lost folders in front.
WHOLE = (
    f"CASE WHEN source.key ~ '^[A-Za-z][A-Za-z0-9+.-]*:' THEN '{{}}' ELSE ARRAY['{TAIL}' || folded.name] END"
)
# Collations that lower all letters, whatever the database's own. The first that exists is used.
COLLATIONS = """
SELECT collname AS name
FROM pg_catalog.pg_collation
WHERE collname = ANY (ARRAY['und-x-icu', 'pg_c_utf8', 'C.utf8'])
ORDER BY array_position(ARRAY['und-x-icu', 'pg_c_utf8', 'C.utf8'], collname::text)
LIMIT 1
"""


async def find_near_matches(context: RunContext, state: RunState) -> None:
    """
    Turn orphans of this run into near matches if a row names their key written differently.

    A former near match that is none any more becomes a candidate, as if seen for the first time. A first run checks its
    candidates too, so that you see near matches before anything is due. An object that would be removed with its row is
    shared if another row names its key written differently. Raises: SourceFailed; DriverError.
    """
    rules = (*REMOVING_NUMBERS, *(ORPHAN_NUMBERS if context.is_first else ()), NEAR_MATCH.number)
    after = num_checked = 0
    finder = NearMatchFinder.of(context.executor, context.references, context.config, context.store)
    while not context.is_first or num_checked < MAX_CHECKED:
        query = finding_get_due(context.run.id, rules=rules, after=after, limit=BATCH)
        findings = await context.executor.run(query)
        if not findings:
            return
        after, num_checked = findings[-1].id, num_checked + len(findings)
        await context.beat()
        notes = await finder.find([finding.key for finding in findings])
        changed = [_changed(context, state, finding, notes.get(finding.key)) for finding in findings]
        await context.put_findings([finding for finding in changed if finding is not None])


def variants(key: str, *, prefix: str, url: str) -> list[str]:
    """Return the names that a row may have for `key`, itself included."""
    parts = urlsplit(url)
    root = parts.path.lstrip("/") if parts.scheme == "s3" else ""
    # The part that a reader takes for the path, if the key was put into a URL without escapes.
    path = re.split("[?#]", key, maxsplit=1)[0]
    found = [
        (name, root + name, f"{parts.netloc}/{root}{name}", prefix + name, name.removeprefix(prefix))
        for name in (key, path)
    ]
    return list(dict.fromkeys(chain.from_iterable(found)))


def tails(key: str) -> list[str]:
    """Return `key` without its first folder, without its first two, and so on."""
    parts = key.split("/")
    return ["/".join(parts[n:]) for n in range(1, len(parts)) if parts[n]][-MAX_TAILS:]


@dataclass(frozen=True, slots=True)
class NearMatchFinder:
    """Queries the sources for other ways to write keys, and the store for the objects that those rows name."""

    executor: Executor
    references: References
    derived: DerivedFrom
    prefix: str
    store: ObjectStore
    timeout_seconds: float

    @classmethod
    def of(
        cls, executor: Executor, references: References, config: OrphansConfig, store: ObjectStore
    ) -> NearMatchFinder:
        seconds = config.source_timeout.total_seconds() * NUM_TIMEOUTS
        return cls(executor, references, DerivedFrom.of(config), config.prefix, store, seconds)

    async def find(self, keys: Sequence[str]) -> dict[str, str]:
        """Return the near matches among `keys`, each with a note on which source names it, or its parent, and how."""
        params = self._params(keys)
        fold = await _fold(self.executor)
        notes: dict[str, str] = {}
        shortened: list[tuple[str, str, str]] = []
        for source, from_sql, key_sql in self.references.key_expressions:
            sql = _near_sql(fold, from_sql, f"{key_sql}::text")
            try:
                rows = await self.executor.fetch(sql, params, timeout_seconds=self.timeout_seconds)
            except (DriverError, OperationTimeout) as error:
                raise SourceFailed(source, error) from error
            notes |= {
                row["candidate"]: f"source {source!r} names {row['named']!r}"
                for row in rows
                if not row["is_tail"]
            }
            shortened += [(row["candidate"], source, row["named"]) for row in rows if row["is_tail"]]
        return await self._without_object(shortened) | notes

    def _params(self, keys: Sequence[str]) -> list[list[str | bool]]:
        """Return four columns, a line for each name to search: candidate, it or its parent, name, folders left out."""
        asked: list[tuple[str, str, str, bool]] = []
        for key in keys:
            for one in (key, *self.derived.parents(key)):
                names = variants(one, prefix=self.prefix, url=self.store.url)
                asked += [(key, one, name, False) for name in names]
                asked += [(key, one, name, True) for name in tails(one)]
        return [list(column) for column in zip(*asked, strict=True)]

    async def _without_object(self, shortened: Sequence[tuple[str, str, str]]) -> dict[str, str]:
        """Return notes for names that no object has. Such a row may mean an object with folders in front."""
        named = {name for _, _, name in shortened}
        existing = await existing_keys(self.store, list(named), at_once=NUM_LOOKS)
        return {
            candidate: f"source {source!r} names {name!r}, of which there is no object"
            for candidate, source, name in shortened
            if name not in existing
        }


async def _fold(executor: Executor) -> str:
    """Return SQL for one row, `name`: the form that all ways to write a key have in common. `{0}` is the key."""
    found = await executor.fetch(COLLATIONS)
    collation = f' COLLATE "{found[0]["name"]}"' if found else ""
    # %2520 is a space too: a key may be escaped several times.
    once = "regexp_replace({0}, '%(25)+', '%', 'g')"
    backslash_or_plus = literal("\\+")
    decoded = f"CASE WHEN strpos({{0}}, '%') > 0 THEN {decoded_sql(once)} ELSE {{0}} END"
    plain = f"translate({decoded}, {backslash_or_plus}, '/ ')"
    slashes = literal(r"/(\.?/)+")
    tidy = f"CASE WHEN name LIKE ANY ('{{%//%,%/./%}}') THEN regexp_replace(name, {slashes}, '/', 'g') ELSE name END"
    bare = f"ltrim(btrim({tidy}, E' \\t\\r\\n\"\\''), './')"
    # OFFSET keeps the planner from merging the subqueries, which would evaluate the expressions several times.
    plains = f"(SELECT {plain} AS name OFFSET 0) AS plain"
    return f"(SELECT lower(normalize({bare}, NFKC){collation}) AS name FROM {plains} OFFSET 0)"


def _near_sql(fold: str, from_sql: str, key: str) -> str:
    """
    Return the query for the names of a source that match any of those asked for.

    The planner cannot estimate the number of rows in an array and would compare all with all. So OFFSET keeps each side
    whole, and a first join only checks whether a name is among those asked for.
    """
    return (
        "WITH asked AS MATERIALIZED (\n"
        f"    SELECT one.key, own, is_tail, CASE WHEN is_tail THEN '{TAIL}' ELSE '' END || folded.name AS name\n"
        "    FROM unnest($1::text[], $2::text[], $3::text[], $4::boolean[]) AS one (key, own, name, is_tail)\n"
        f"    CROSS JOIN LATERAL {fold.replace('{0}', 'one.name')} AS folded\n)\n"
        "SELECT DISTINCT asked.key AS candidate, found.key AS named, asked.is_tail\n"
        "FROM (\n    SELECT every.key, every.name\n    FROM (\n"
        "        SELECT source.key, written.name\n"
        f"        FROM (SELECT {key} AS key FROM {from_sql}) AS source\n"
        f"        CROSS JOIN LATERAL unnest({NAMES}) AS bare (name)\n"
        f"        CROSS JOIN LATERAL {fold.replace('{0}', 'bare.name')} AS folded\n"
        f"        CROSS JOIN LATERAL unnest({ENDINGS} || {WHOLE}) AS written (name)\n"
        "        OFFSET 0\n    ) AS every\n"
        "    JOIN (SELECT DISTINCT name FROM asked) AS known ON every.name = known.name\n"
        "    OFFSET 0\n) AS found\n"
        "JOIN asked ON found.name = asked.name\n"
        "WHERE found.key <> asked.own"
    )


def _changed(context: RunContext, state: RunState, finding: Finding, note: str | None) -> Finding | None:
    """Return a finding as it is to be recorded now; None if it stays as it is. `note` is set for a near match."""
    # Its age as an orphan starts now at the earliest.
    fresh = replace(finding, first_seen_at=context.now, sightings=0)
    if finding.source:
        if note is None or not finding.is_present:
            return None
        state.count_shared(finding, is_removable=context.is_removable(finding))
        return replace(finding, kind=Kind.SHARED, rule=SHARED.number, note=note)
    if note is not None:
        state.count_near_match(finding)
        return replace(fresh, kind=Kind.NEAR_MATCH, rule=NEAR_MATCH.number, note=note)
    if finding.kind == Kind.NEAR_MATCH:
        state.add(candidates=1, orphan_objects=1, orphan_bytes=finding.size)
        return replace(fresh, kind=Kind.ORPHAN, rule=CANDIDATE.number, note="")
    return None
