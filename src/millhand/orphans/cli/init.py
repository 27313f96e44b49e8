"""`millhand orphans init`: find the columns that reference objects of a bucket, and propose sources for millhand.toml."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import click
import msgspec

from millhand.core.orphans import ReferenceSource
from millhand.db.driver.protocol import Driver
from millhand.observe.terminal_text import one_line
from millhand.orphans.discovery.discover import Discovery, Proposal, discover
from millhand.shells.cli.chosen_database import command_settings
from millhand.shells.cli.command import Command
from millhand.shells.cli.database import run_with_driver
from millhand.shells.cli.options import json_option
from millhand.shells.cli.output import NotDone, counted, is_terminal, print_json, print_message, print_table
from millhand.shells.cli.store_target import open_configured_store, shown_store
from millhand.shells.cli.table import Columns
from millhand.shells.cli.target import load_sources
from millhand.shells.settings.decode import decode_text
from millhand.shells.settings.load import FILE_NAME, Settings, toml

PROJECT = "pyproject.toml"
QUESTION_TIMEOUT = timedelta(seconds=5)
COLUMNS = Columns(
    ("source", "column", "rows", "values", "found", "objects", "for example"),
    texts=("for example",),
    optional=("values", "rows", "objects", "source"),
)


@click.command(name="init", cls=Command, example="millhand orphans init --write")
@click.option("--write", "is_written", is_flag=True, help="Add the new sources to millhand.toml.")
@click.option(
    "--timeout", "timeout_text", metavar="DURATION", default="5s", show_default=True,
    help="Stop a query on a table after this time.",
)  # fmt: skip
@click.option(
    "--from", "target", metavar="MODULE:NAME", help="Use the sources of your code, and scan nothing."
)
@json_option
@click.pass_obj
def init_sources(
    config_path: Path | None, *, is_written: bool, timeout_text: str, target: str | None, is_json: bool
) -> None:
    """
    Find the columns that reference objects of the bucket.

    The command proposes sources to declare. It samples each column of text, JSON or arrays and looks up its values
    in the bucket. It proposes only columns whose objects exist. It changes nothing in the database or the bucket,
    and reads no large table in full.

    With --from, it writes the sources that your code finds (Django, SQLAlchemy) as TOML.
    """
    settings = command_settings(config_path)
    declared = {_place(source) for source in settings.section("orphans").get("sources", ())}
    if target is not None:
        sources = [one for one in load_sources(target, Path.cwd()) if _place(one) not in declared]
        written = [Written(source=one) for one in sources]
        if is_json:
            print_json([msgspec.to_builtins(one) for one in sources])
        else:
            click.echo(sources_toml(written), nl=False)
        _keep(written, config_path, is_written=is_written, is_json=is_json)
        return
    timeout = decode_text(timeout_text, timedelta, "--timeout")
    found = _discovered(settings, timeout if isinstance(timeout, timedelta) else QUESTION_TIMEOUT)
    new = [one for one in found.proposals if _place(one.source) not in declared]
    new_sources = [
        Written(source=one.source, above=tuple(_above(one)), below=tuple(_below(one))) for one in new
    ]
    if is_json:
        plain = msgspec.to_builtins(found, enc_hook=str)
        print_json({**plain, "new": [one.source.name for one in new]})
    else:
        _print(found, len(new))
        if new_sources:
            click.echo("\n" if is_terminal() else "", nl=False)
            click.echo(sources_toml(new_sources), nl=False, err=not is_terminal())
    if not found.proposals:
        raise NotDone(
            f"at least one column must reference objects of {shown_store(settings)}, found none among "
            f"{counted(found.num_columns, 'column')} and {counted(found.num_keys, 'object')}; "
            "check that storage.url and DATABASE_URL belong together"
        )
    _keep(new_sources, config_path, is_written=is_written, is_json=is_json)


def _discovered(settings: Settings, timeout: timedelta) -> Discovery:
    store = open_configured_store(settings)
    prefix = settings.get("orphans.prefix")

    async def go(driver: Driver) -> Discovery:
        try:
            return await discover(driver.pool, store, prefix=prefix, table_timeout=timeout)
        finally:
            await store.aclose()

    found = run_with_driver(settings, go)
    if not found.num_keys:
        within = f" under {prefix!r}" if prefix else ""
        raise NotDone(
            f"the bucket must have objects, found none in {store.url}{within}; "
            "check storage.url and orphans.prefix"
        )
    return found


def _place(source: ReferenceSource) -> tuple[str | None, str, str | None]:
    return source.table, source.key, source.json


def _print(found: Discovery, num_new: int) -> None:
    print_table(COLUMNS, [_line(one) for one in found.proposals], empty="no column references an object")
    if is_terminal():
        click.echo()
    for line in _summary(found, num_new):
        print_message(line)


def _keep(sources: Sequence[Written], config_path: Path | None, *, is_written: bool, is_json: bool) -> None:
    if is_written and sources:
        path = config_path or Path(FILE_NAME)
        write_sources(path, sources)
        print_message(f"added {counted(len(sources), 'source')} to {path}; next: millhand orphans scan")
    elif not is_json and sources and is_terminal():
        print_message(f"paste this into {FILE_NAME}, or use --write")


def _summary(found: Discovery, num_new: int) -> Iterator[str]:
    yield (
        f"checked {counted(found.num_columns, 'column')} of {counted(found.num_tables, 'table')} and "
        f"{counted(found.num_keys, 'object')}; columns that reference objects: {len(found.proposals):,}, "
        f"of them not declared yet: {num_new:,}"
    )
    if found.proposals and found.num_unnamed:
        unknown = any(one.num_named is None for one in found.proposals)
        examples = ", ".join(repr(key) for key in found.unnamed)
        number = f"{'up to ' if unknown else ''}{found.num_unnamed:,} of {counted(found.num_keys, 'object')}"
        yield (
            f"without a reference in these columns: {number}, such as {examples}; "
            "these are orphans, or referenced elsewhere (inside a longer text, in another database)"
        )
    for table, reason in found.unread.items():
        yield f"not checked: {table}, {reason}"


def _line(one: Proposal) -> tuple[object, ...]:
    source = one.source
    column = f"{source.table}.{source.key}{' ' + source.json if source.json else ''}"
    return (
        source.name,
        column,
        one.num_rows if one.num_rows is not None else one.num_sampled if one.is_small else "?",
        one.num_values,
        f"{one.num_found} of {one.num_checked}",
        "?" if one.num_named is None else one.num_named,
        one.examples[0],
    )


def _above(one: Proposal) -> Iterator[str]:
    rows = "rows not counted" if one.num_rows is None else counted(one.num_rows, "row")
    named = (
        "" if one.num_named is None else f", references {counted(one.num_named, 'object')} of those checked"
    )
    yield f"{rows}, {one.num_sampled:,} read; {one.num_found:,} of {counted(one.num_checked, 'object')} found{named}"
    yield f"for example {', '.join(repr(key) for key in one.examples)}"
    if one.index is not None and not one.is_small:
        yield f"suggested index: {one.index}"


def _below(one: Proposal) -> Iterator[str]:
    if one.deleted_at is not None and not one.source.has_many:
        yield "To delete soft-deleted rows and their objects after their retention, add:"
        yield f"deleted_at = {toml(one.deleted_at)}"
        yield f"soft_deleted = {toml(f'{one.deleted_at} IS NOT NULL')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A source with comments above it, and suggested settings as comments below it."""

    source: ReferenceSource
    above: tuple[str, ...] = ()
    below: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """Yield the lines of the source in a file."""
        yield "[[orphans.sources]]"
        yield from (f"# {one_line(line)}" for line in self.above)
        for each in dataclasses.fields(ReferenceSource):
            value = getattr(self.source, each.name)
            if value != each.default or each.name == "key":
                yield f"{each.name} = {toml(value)}"
        yield from (f"# {one_line(line)}" for line in self.below)


def sources_toml(sources: Sequence[Written]) -> str:
    return "\n".join("\n".join(one.lines()) + "\n" for one in sources)


def write_sources(path: Path, sources: Sequence[Written]) -> None:
    """Append sources to a file, or create it, atomically. Raises: NotDone if the file cannot take them."""
    if path.name == PROJECT or (not path.exists() and _is_in_project(path.parent)):
        raise NotDone(
            f"sources can be added to {FILE_NAME} only, got settings in {PROJECT}; paste them there"
        )
    if path.exists() and not path.is_file():
        raise NotDone(f"sources must be added to a regular file, got {path}; paste them")
    before = path.read_bytes().decode() if path.exists() else ""
    known = _sources_of(before)
    names = {one.get("name") for one in known}
    num_wanted = len(known) + len(sources)
    renamed = [_renamed(one, names) for one in sources]
    gap = "" if not before else "\n" if before.endswith("\n") else "\n\n"
    after = before + gap + sources_toml(renamed)
    try:
        num_after = len(_sources_of(after))
    except tomllib.TOMLDecodeError as error:
        raise NotDone(
            f"orphans.sources of {path} must be written as [[orphans.sources]], got {error}; "
            "rewrite it, or paste the sources"
        ) from error
    if num_after != num_wanted:
        raise NotDone(f"{path} must have {num_wanted} sources after the change, got {num_after}; paste them")
    _replace(path, after)


def _renamed(one: Written, names: set[object]) -> Written:
    name, number = one.source.name, 2
    while name in names:
        name, number = f"{one.source.name[:60]}-{number}", number + 1
    names.add(name)
    return dataclasses.replace(one, source=dataclasses.replace(one.source, name=name))


def _sources_of(text: str) -> list[Mapping[str, object]]:
    orphans = tomllib.loads(text.removeprefix("\ufeff")).get("orphans", {})
    sources = orphans.get("sources", []) if isinstance(orphans, dict) else []
    return [one for one in sources if isinstance(one, dict)]


def _is_in_project(directory: Path) -> bool:
    project = directory / PROJECT
    return project.exists() and "millhand" in tomllib.loads(project.read_text(encoding="utf-8")).get(
        "tool", {}
    )


def _replace(path: Path, text: str) -> None:
    """Replace a file atomically, and keep its permissions."""
    target = path.resolve()  # follow a link
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".millhand-", suffix=".toml")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        Path(name).chmod(target.stat().st_mode & 0o777 if target.exists() else 0o644)
        Path(name).replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
