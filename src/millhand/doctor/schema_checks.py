"""Verdicts about the schema: its versions, its indexes, and the rights of the role."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from millhand.core.number_text import counted
from millhand.db.index import SEARCH_INDEXES
from millhand.db.schema.grants import Right, role_rights
from millhand.db.schema.migrator import LINE_MAIN, migrations
from millhand.db.sql import compile_script
from millhand.doctor.sql_text import qualified, quoted, schema_option
from millhand.doctor.store import IndexState, RightState, ServerState
from millhand.shells.doctor.finding import Finding, Found, Level

_CREATE = re.compile(
    r"^CREATE (?P<unique>UNIQUE )?INDEX (?:IF NOT EXISTS )?(?P<name>\w+)\s+ON /\* schema \*/(?P<table>\w+)[^;]*",
    re.MULTILINE,
)
_TABLE = re.compile(r"^\s*CREATE (?:UNLOGGED )?TABLE /\* schema \*/(?P<name>\w+)", re.MULTILINE)
_DROP = re.compile(
    r"^\s*(?:DROP (?:INDEX|TABLE)|ALTER TABLE) /\* schema \*/(?P<name>\w+)(?:;| RENAME TO)", re.MULTILINE
)
# Without these, a fetch reads all jobs, and the insert of a unique job fails.
_NEEDED = ("river_job_prioritized_fetching_index", "river_job_unique_idx")
_SEARCHES = (*SEARCH_INDEXES, "river_job_kind")
_REBUILT = re.compile(r"_cc(?:new|old)\d*$")


class Table(msgspec.Struct, frozen=True):
    """A table, and the migration that creates it."""

    name: str
    line: str
    version: int


class Index(msgspec.Struct, frozen=True):
    """An index as a migration declares it, and the statement that creates it."""

    name: str
    table: str
    is_unique: bool
    sql: str


def version_findings(
    line: str, *, applied: Collection[int], known: Collection[int], schema: str | None
) -> Found:
    """Judge the applied versions of a line."""
    missing, newer = sorted(set(known) - set(applied)), sorted(set(applied) - set(known))
    found = []
    if missing:
        found.append(
            Finding(
                level=Level.BROKEN if line == LINE_MAIN else Level.HARMFUL,
                subject=f"line {line}",
                found=_missing_versions(line, missing, schema, is_empty=not applied),
                effect="Workers and applications of this release do not start."
                if line == LINE_MAIN
                else "What is new since does not work: see the changelog.",
                remedy="Migrate the schema, as its owner:",
                commands=(f"millhand migrate up --line {line}{schema_option(schema)}",),
            )
        )
    if newer:
        found.append(
            Finding(
                level=Level.NOTABLE,
                subject=f"line {line}",
                found=f"Version {newer[-1]} of line {line} was applied by a newer release.",
                effect="None while a newer release is rolled out: a new version keeps what older releases need.",
                remedy="Use that release here too:",
                commands=("pip install --upgrade millhand",),
            )
        )
    return found


def _missing_versions(line: str, missing: Sequence[int], schema: str | None, *, is_empty: bool) -> str:
    if is_empty:
        return f"The tables of line {line} are missing in schema {schema or '(none of the search path)'}."
    if len(missing) == 1:
        return f"Version {missing[0]} of line {line} is missing."
    return f"Versions {missing[0]} to {missing[-1]} of line {line} are missing."


def declared_tables(applied: Mapping[str, Collection[int]]) -> tuple[Table, ...]:
    """Return the tables that the applied versions of all lines have made and not dropped."""
    found: dict[str, Table] = {}
    for line, versions in applied.items():
        for migration in migrations(line):
            if migration.version in versions:
                for match in _TABLE.finditer(migration.up):
                    found[match["name"]] = Table(match["name"], line, migration.version)
                for match in _DROP.finditer(migration.up):
                    found.pop(match["name"], None)
    return tuple(found.values())


def table_findings(declared: Sequence[Table], tables: Collection[str], schema: str | None) -> Found:
    """Judge which tables are missing."""
    return [
        Finding(
            level=Level.BROKEN,
            subject=f"table {one.name}",
            found=f"Table {one.name} is missing, although version {one.version} of line {one.line} was applied.",
            effect="Every statement that needs it fails.",
            remedy="Restore it from a backup, or create it empty with the statements of its version, as the owner. They "
            "are printed by:",
            commands=(
                f"millhand migrate sql --line {one.line} --version {one.version}{schema_option(schema)}",
            ),
        )
        for one in declared
        if one.name not in tables
    ]


def declared_indexes(applied: Mapping[str, Collection[int]], schema: str) -> tuple[Index, ...]:
    """Return the indexes that the applied versions of all lines have made and not dropped."""
    found: dict[str, Index] = {}
    for line, versions in applied.items():
        for migration in migrations(line):
            if migration.version in versions:
                _apply(migration.up, found, schema)
    return tuple(found.values())


def _apply(script: str, found: dict[str, Index], schema: str) -> None:
    """Add the indexes that a migration makes, and remove those that it drops, itself or with their table."""
    matches = (*_CREATE.finditer(script), *_DROP.finditer(script))
    for match in sorted(matches, key=lambda one: one.start()):
        name = match["name"]
        if match.re is _CREATE:
            sql = " ".join(compile_script(match[0], schema).split())
            found[name] = Index(name, match["table"], bool(match["unique"]), sql)
        else:
            for gone in [index.name for index in found.values() if name in (index.name, index.table)]:
                del found[gone]


def index_findings(declared: Sequence[Index], indexes: Sequence[IndexState], schema: str | None) -> Found:
    """Judge which indexes of tables that are there are missing or invalid. One that a session builds now is not judged."""
    names = {one.name for one in indexes}
    gone = [one for one in declared if one.name not in names]
    off = [one.name for one in gone if one.name in SEARCH_INDEXES]
    missing = [_missing(one) for one in gone if one.name not in off]
    by_name = {one.name: one for one in declared}
    invalid = [
        _invalid(one, by_name.get(one.name), schema)
        for one in indexes
        if not one.is_valid and not one.is_in_work
    ]
    return [*missing, *invalid, *([_off(off, schema)] if off else [])]


def _off(names: Sequence[str], schema: str | None) -> Finding:
    """Return the finding about search indexes that an operator may have dropped with purpose."""
    are = "indexes {} are" if len(names) > 1 else "index {} is"
    return Finding(
        level=Level.NOTABLE,
        subject="search indexes",
        found=f"The search {are.format(' and '.join(names))} off.",
        effect="Inserts and completions write less. Searches by args and metadata read jobs one by one.",
        remedy="If you need these searches, build what is missing, as the owner:",
        commands=(_build_command(schema),),
    )


def _build_command(schema: str | None) -> str:
    return f"millhand migrate tune --with-search-indexes{schema_option(schema)}"


def _missing(one: Index) -> Finding:
    create = one.sql.replace("INDEX IF NOT EXISTS", "INDEX").replace("INDEX ", "INDEX CONCURRENTLY ", 1)
    return Finding(
        level=_level(one),
        subject=f"index {one.name}",
        found=f"Index {one.name} of {one.table} is missing.",
        effect=_effect(one),
        remedy="Create it, as the owner:",
        commands=(f"{create};",),
    )


def _invalid(state: IndexState, declared: Index | None, schema: str | None) -> Finding:
    name = qualified(schema, state.name)
    if declared is None:
        is_rebuilt = _REBUILT.search(state.name) is not None
        return Finding(
            level=Level.HARMFUL,
            subject=f"index {state.name}",
            found=f"Index {state.name} of {state.table} is invalid"
            + (": an interrupted rebuild left it." if is_rebuilt else "."),
            effect="Every insert and update writes it, and no query reads it.",
            remedy="Drop it, as the owner:",
            commands=(f"DROP INDEX CONCURRENTLY {name};",),
        )
    return Finding(
        level=_level(declared),
        subject=f"index {state.name}",
        found=f"Index {state.name} of {state.table} is invalid.",
        effect=f"Every insert and update writes it, and no query reads it. {_effect(declared)}",
        remedy="Rebuild it, as the owner:",
        commands=(
            _build_command(schema)
            if declared.name in SEARCH_INDEXES
            else f"REINDEX INDEX CONCURRENTLY {name};",
        ),
    )


def _level(one: Index) -> Level:
    if one.name in _SEARCHES:
        return Level.NOTABLE
    return Level.BROKEN if one.name in _NEEDED or one.is_unique else Level.HARMFUL


def _effect(one: Index) -> str:
    if one.is_unique:
        return f"Inserts into {one.table} that need it fail."
    if one.name in _SEARCHES:
        return "Lists and searches of jobs read the whole table."
    return f"Statements that need it read all of {one.table}."


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """The purpose for which a role was given its rights, and those that it lacks for it."""

    purpose: str | None
    missing: tuple[RightState, ...]


def all_rights() -> tuple[Right, ...]:
    """Return every right that any role needs, each once."""
    return tuple(
        dict.fromkeys(right for role in ("worker", "inserter", "reader") for right in role_rights(role))
    )


def held(states: Iterable[RightState], *, purpose: str | None = None) -> Held:
    """
    Return the purpose that the held rights show, unless it is given, and the rights that it still needs.

    A role that may change a table is a worker's. One that may insert jobs and read them is an inserter's, and without
    reading a feeder's. One that may only read is a reader's.
    """
    states = list(states)
    has = {(one.name, one.column, one.privilege) for one in states if one.is_held}
    purpose = purpose or _purpose(has)
    needed = set() if purpose is None else set(role_rights(purpose))
    missing = [one for one in states if not one.is_held and (one.name, one.column, one.privilege) in needed]
    return Held(purpose=purpose, missing=tuple(missing))


def _purpose(has: Collection[tuple[str, str, str]]) -> str | None:
    def is_change(right: tuple[str, str, str]) -> bool:
        _, column, privilege = right
        return not column and privilege in ("UPDATE", "DELETE")

    if any(map(is_change, has)):
        return "worker"
    can_read = ("river_job", "", "SELECT") in has
    if any(name == "river_job" and privilege == "INSERT" for name, _, privilege in has):
        return "inserter" if can_read else "feeder"
    reads = {name for name, _, privilege in has if privilege == "SELECT"} - {"river_migration"}
    return "reader" if reads else None


def right_findings(rights: Held, server: ServerState) -> Found:
    """Judge which rights the role lacks for its purpose."""
    role, schema = server.role, server.schema
    remedy = "Create the roles with all rights, as the owner:"
    grants = f"millhand migrate sql --grants{schema_option(schema)} | psql"
    grant_role = f"GRANT millhand_worker TO {quoted(role)};"
    if schema is not None and not server.can_use_schema:
        return [
            Finding(
                level=Level.BROKEN,
                subject=f"schema {schema}",
                found=f"Role {role} may not use schema {schema}.",
                effect="Every statement on its tables fails.",
                remedy=remedy,
                commands=(grants, grant_role),
            )
        ]
    if rights.purpose is None:
        return [
            Finding(
                level=Level.BROKEN,
                subject=f"role {role}",
                found=f"Role {role} has no right on the tables of jobs.",
                effect="Programs with this role can neither insert, work nor read jobs.",
                remedy=remedy,
                commands=(grants, grant_role),
            )
        ]
    if not rights.missing:
        return []
    is_reader, is_worker = rights.purpose == "reader", rights.purpose == "worker"
    num_objects = len({one.name for one in rights.missing})
    return [
        Finding(
            level=Level.NOTABLE if is_reader else Level.BROKEN,
            subject=f"role {role}",
            found=f"Role {role}, a {rights.purpose}, lacks rights on {counted(num_objects, 'object')}: "
            f"{_shown_rights(rights.missing)}.",
            effect="Pages and commands that read them fail."
            if is_reader
            else f"Statements of {'workers' if is_worker else 'inserts'} that need them fail.",
            remedy=remedy,
            commands=(grants,),
        )
    ]


def _shown_rights(missing: Iterable[RightState]) -> str:
    """Return the missing rights, each with its objects; objects that lack the same rights are together."""
    by_object: defaultdict[str, set[str]] = defaultdict(set)
    for one in missing:
        by_object[one.name].add(f"{one.privilege} ({one.column})" if one.column else one.privilege)
    by_rights: defaultdict[str, list[str]] = defaultdict(list)
    for name, privileges in sorted(by_object.items()):
        by_rights[", ".join(sorted(privileges))].append(name)
    return "; ".join(f"{privileges} on {_joined(names)}" for privileges, names in sorted(by_rights.items()))


def _joined(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
