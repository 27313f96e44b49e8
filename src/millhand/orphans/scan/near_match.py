"""
Near misses: candidates whose key a row names after all, only written otherwise.

Two spellings of one path have cost others their data. What differs from a referenced key by case, by Unicode
normalisation, by percent-encoding, by `+` for a space, by slashes (doubled, backward, in front), by blanks or quotes around
it, by the prefix, by a server and folders in front of it, or by being read as a URL up to a `?` or `#` that it has in it, is
no orphan but a question to a person, and is kept until he answers it. So is one whose folders a row leaves out that names
no object as it stands. Its time as an orphan begins when it is none any more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from millhand.driver.protocol import Executor
from millhand.errors import DriverError, OperationTimeout
from millhand.orphans.config import OrphansConfig
from millhand.orphans.ledger import Finding, Kind, Totals, finding_get_due, finding_put_many
from millhand.orphans.rules import (
    CANDIDATE,
    NEAR_MATCH,
    ORPHAN_NUMBERS,
    REMOVING_NUMBERS,
    SHARED,
    Verdict,
    judged_verdict,
)
from millhand.orphans.scan.derived import DerivedFrom
from millhand.orphans.scan.scan import Pass, gather_all, is_removable, is_there
from millhand.orphans.sources.key_sql import decoded_sql
from millhand.orphans.sources.references import References, SourceFailed
from millhand.storage.protocol import ObjectStore

BATCH = 10_000  # candidates of one question; each reads every source from end to end, once
MAX_VETTED = 100_000  # of a first run, which removes nothing; what is due is always vetted, all of it
NUM_LOOKS = 1_000  # at a time, for objects that rows name
NUM_TIMEOUTS = 10  # of a source's own, as the whole of it is read

# A path, and no bare key: with a server, a scheme or a drive in front, or with a slash or a dot.
IS_PATH = r"source.key ~ '^([A-Za-z][A-Za-z0-9+.-]*:|[./\\]|[^/]*\.[^/]*/)'"
# Of a path, what comes behind the server; of a bare key, itself, and what comes before a ? or #.
NAMES = rf"""
CASE
    WHEN {IS_PATH} THEN ARRAY[regexp_replace(regexp_replace(source.key, '[?#].*$', ''), '^[^/]*//[^/]*/', '')]
    WHEN source.key ~ '[?#]' THEN ARRAY[source.key, regexp_replace(source.key, '[?#].*$', '')]
    ELSE ARRAY[source.key]
END
"""
# A path with ever fewer folders in front: a base that nobody declared may have had some of them. No key is longer than
# 1,024 bytes, and a text of thousands of folders would be dear.
ENDINGS = f"""
CASE WHEN {IS_PATH} THEN ARRAY(
    SELECT array_to_string(parts[n:], '/')
    FROM string_to_array(right(folded.name, 1024), '/') AS parts, generate_series(1, cardinality(parts)) AS n
) ELSE ARRAY[folded.name] END
"""
# Folders that a row may leave out; more than anybody has.
MAX_TAILS = 100
# Before a name that folders may stand in front of: no name that was folded begins so.
TAIL = "/"
# A text without a scheme, as what may have lost folders in front.
WHOLE = (
    f"CASE WHEN source.key ~ '^[A-Za-z][A-Za-z0-9+.-]*:' THEN '{{}}' ELSE ARRAY['{TAIL}' || folded.name] END"
)
# What lowers all letters, whatever the database's own collation; the first that there is.
COLLATIONS = """
SELECT collname AS name
FROM pg_catalog.pg_collation
WHERE collname = ANY (ARRAY['und-x-icu', 'pg_c_utf8', 'C.utf8'])
ORDER BY array_position(ARRAY['und-x-icu', 'pg_c_utf8', 'C.utf8'], collname::text)
LIMIT 1
"""


async def vet(pass_: Pass, *, is_first: bool) -> None:
    """
    Make near matches of those orphans of this run whose key is only spelt otherwise than a referenced one.

    What was a near match before and is none any more becomes a candidate, as if seen for the first time. In a first run,
    candidates are asked about as well: a person should see them before anything is due. An object that would go with its
    row is shared if another row writes its key otherwise, as if it wrote it alike.

    Raises: SourceFailed; DriverError.
    """
    rules = (*REMOVING_NUMBERS, *(ORPHAN_NUMBERS if is_first else ()), NEAR_MATCH.number)
    after = vetted = 0
    twins_of = Spelling.of(pass_.executor, pass_.references, pass_.config, pass_.store)
    while not is_first or vetted < MAX_VETTED:
        query = finding_get_due(pass_.run.id, rules=rules, after=after, limit=BATCH)
        findings = await pass_.executor.run(query)
        if not findings:
            return
        after, vetted = findings[-1].id, vetted + len(findings)
        await pass_.beat()
        twins = await twins_of([finding.key for finding in findings])
        await _note(pass_, findings, twins)


def variants(key: str, *, prefix: str, url: str) -> list[str]:
    """Return what a row might call `key`, whichever way it spells that; itself is one of them."""
    return list(dict.fromkeys(_variants(key, prefix, url)))


def _variants(key: str, prefix: str, url: str) -> Iterator[str]:
    parts = urlsplit(url)
    root = parts.path.lstrip("/") if parts.scheme == "s3" else ""
    # As much of it as is read as the path of a URL, should somebody have put it into one as it is.
    path = re.split("[?#]", key, maxsplit=1)[0]
    for name in (key, path):
        yield name
        yield root + name
        yield f"{parts.netloc}/{root}{name}"
        yield prefix + name
        yield name.removeprefix(prefix)


def tails(key: str) -> list[str]:
    """Return what a row calls `key` that leaves out its folders, one after the other."""
    parts = key.split("/")
    return ["/".join(parts[n:]) for n in range(1, len(parts)) if parts[n]][-MAX_TAILS:]


@dataclass(slots=True)
class Spelling:
    """Asks the sources for other spellings of keys, and `store` whether what they name is there."""

    executor: Executor
    references: References
    kin: DerivedFrom
    prefix: str
    store: ObjectStore
    timeout_seconds: float

    @classmethod
    def of(
        cls, executor: Executor, references: References, config: OrphansConfig, store: ObjectStore
    ) -> Spelling:
        seconds = config.source_timeout.total_seconds() * NUM_TIMEOUTS
        return cls(executor, references, DerivedFrom.of(config), config.prefix, store, seconds)

    async def __call__(self, keys: Sequence[str]) -> dict[str, str]:
        """
        Say of each key that a row names in another spelling, or a parent of it, which source names it how.

        Raises: SourceFailed.
        """
        params = self._params(keys)
        fold = await _fold(self.executor)
        twins: dict[str, str] = {}
        shortened: list[tuple[str, str, str]] = []
        for source, from_sql, key_sql in self.references.places:
            sql = _twins_sql(fold, from_sql, f"{key_sql}::text")
            try:
                rows = await self.executor.fetch(sql, params, timeout_seconds=self.timeout_seconds)
            except (DriverError, OperationTimeout) as error:
                raise SourceFailed(source, error) from error
            twins |= {
                row["candidate"]: f"source {source!r} names {row['named']!r}"
                for row in rows
                if not row["is_tail"]
            }
            shortened += [(row["candidate"], source, row["named"]) for row in rows if row["is_tail"]]
        return await self._of_no_object(shortened) | twins

    def _params(self, keys: Sequence[str]) -> list[list[str | bool]]:
        """Return of each name that is asked for the candidate, whose it is, itself, and whether folders were left out."""
        asked = [
            (key, one, name, is_tail)
            for key in keys
            for one in (key, *self.kin.parents(key))
            for name, is_tail in self._names(one)
        ]
        return [list(column) for column in zip(*asked, strict=True)]

    def _names(self, key: str) -> Iterator[tuple[str, bool]]:
        for name in variants(key, prefix=self.prefix, url=self.store.url):
            yield name, False
        for name in tails(key):
            yield name, True

    async def _of_no_object(self, shortened: Sequence[tuple[str, str, str]]) -> dict[str, str]:
        """Keep those of candidates, sources and names whose name is that of no object: then another may be meant."""
        named = list({name for _, _, name in shortened})
        absent: set[str] = set()
        for some in (named[n : n + NUM_LOOKS] for n in range(0, len(named), NUM_LOOKS)):
            are_there = await gather_all([is_there(self.store, name) for name in some])
            absent.update(name for name, is_one in zip(some, are_there, strict=True) if not is_one)
        return {
            candidate: f"source {source!r} names {name!r}, of which there is no object"
            for candidate, source, name in shortened
            if name in absent
        }


async def _fold(executor: Executor) -> str:
    """Return as SQL the one row, `name`, in which all spellings of a key are alike; `{0}` is the key."""
    found = await executor.fetch(COLLATIONS)
    collation = f' COLLATE "{found[0]["name"]}"' if found else ""
    # However often it was escaped: %2520 is a space as well.
    once = "regexp_replace({0}, '%(25)+', '%', 'g')"
    plain = f"translate(CASE WHEN {{0}} LIKE '%\\%%' THEN {decoded_sql(once)} ELSE {{0}} END, '\\+', '/ ')"
    tidy = r"CASE WHEN name LIKE ANY ('{%//%,%/./%}') THEN regexp_replace(name, '/(\.?/)+', '/', 'g') ELSE name END"
    bare = f"ltrim(btrim({tidy}, E' \\t\\r\\n\"\\''), './')"
    # OFFSET keeps the planner from writing one into the other, which would work all of it out several times.
    plains = f"(SELECT {plain} AS name OFFSET 0) AS plain"
    return f"(SELECT lower(normalize({bare}, NFKC){collation}) AS name FROM {plains} OFFSET 0)"


def _twins_sql(fold: str, from_sql: str, key: str) -> str:
    """
    Return what finds names of a source among those asked for.

    The planner knows nothing of how many rows an array makes, and would compare all with all: OFFSET keeps each side whole,
    and first it is only asked whether a name is among the others.
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


async def _note(pass_: Pass, findings: Sequence[Finding], twins: Mapping[str, str]) -> None:
    noted: list[Finding] = []
    for finding in findings:
        # In either case its time as an orphan begins now at the earliest.
        fresh = replace(finding, first_seen_at=pass_.now, sightings=0)
        if finding.source:
            if finding.key in twins and finding.is_present:
                _count_shared(pass_, finding)
                note = twins[finding.key]
                noted.append(replace(finding, kind=Kind.SHARED, rule=SHARED.number, note=note))
        elif finding.key in twins:
            _count_near(pass_.run.totals, finding)
            noted.append(
                replace(fresh, kind=Kind.NEAR_MATCH, rule=NEAR_MATCH.number, note=twins[finding.key])
            )
        elif finding.kind == Kind.NEAR_MATCH:
            pass_.run.totals.orphan_objects += 1
            pass_.run.totals.orphan_bytes += finding.size
            noted.append(replace(fresh, kind=Kind.ORPHAN, rule=CANDIDATE.number, note=""))
    if noted:
        await pass_.executor.run(finding_put_many(pass_.run.bucket, pass_.run.id, noted, now=pass_.now))


def _count_near(totals: Totals, finding: Finding) -> None:
    totals.near_matches += 1
    if finding.kind == Kind.NEAR_MATCH:
        return
    totals.orphan_objects -= 1
    totals.orphan_bytes -= finding.size
    if judged_verdict(finding.rule) is Verdict.REMOVE_OBJECT:
        totals.due -= 1
        totals.due_objects -= 1
        totals.due_bytes -= finding.size


def _count_shared(pass_: Pass, finding: Finding) -> None:
    totals = pass_.run.totals
    totals.shared += 1
    totals.abandoned_rows -= 1
    if is_removable(pass_.references, finding):
        totals.due -= 1
        totals.due_rows -= 1
        totals.due_objects -= 1
        totals.due_bytes -= finding.size
