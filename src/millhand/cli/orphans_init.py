"""`millhand orphans init`: see where a database names the objects of a bucket, and say it in millhand.toml."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import click
import msgspec

from millhand.cli.command import Command, json_option
from millhand.cli.database import run_with_driver
from millhand.cli.decode import decode_text
from millhand.cli.output import NotDone, is_terminal, one_line, print_json, print_table, say
from millhand.cli.settings import FILE_NAME, Settings, load_settings, toml
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.orphans.config import ReferenceSource
from millhand.orphans.discover import Discovery, Proposal, discover
from millhand.storage import open_store

PROJECT = "pyproject.toml"
QUESTION_TIMEOUT = timedelta(seconds=5)
COLUMNS = ("source", "column", "rows", "values", "found", "objects", "for example")


@click.command(name="init", cls=Command, example="millhand orphans init --write")
@click.option("--write", "is_written", is_flag=True, help="Add the new sources to millhand.toml.")
@click.option(
    "--timeout", "timeout_text", metavar="DURATION", default="5s", show_default=True,
    help="How long one question to a table may take.",
)  # fmt: skip
@json_option
@click.pass_obj
def init_sources(config_path: Path | None, *, is_written: bool, timeout_text: str, is_json: bool) -> None:
    """
    See where the database names the objects of the bucket, and propose the sources to declare.

    Each column of text, JSON or arrays is sampled, and what its values would name is looked up in the bucket; only what was
    found there is proposed. Nothing is changed, in the database or in the bucket, and no large table is read whole.
    """
    settings = load_settings(config_path)
    timeout = decode_text(timeout_text, timedelta, "--timeout")
    found = _discovered(settings, timeout if isinstance(timeout, timedelta) else QUESTION_TIMEOUT)
    declared = {_place(source) for source in settings.section("orphans").get("sources", ())}
    new = [one for one in found.proposals if _place(one.source) not in declared]
    if is_json:
        plain = msgspec.to_builtins(found, enc_hook=str)
        print_json({**plain, "new": [one.source.name for one in new]})
    else:
        _print(found, declared)
    if not found.proposals:
        raise NotDone(
            f"some column must name objects of {settings.get('storage.url')}, got none among {found.num_columns:,} "
            f"columns and {found.num_keys:,} objects that were looked at; "
            "see that storage.url and DATABASE_URL belong together"
        )
    if is_written and new:
        path = config_path or Path(FILE_NAME)
        write_sources(path, new)
        say(f"{len(new)} sources were added to {path}; next: millhand orphans scan")
    elif not is_json and new and is_terminal():
        say(f"paste it into {FILE_NAME}, or let --write do it")


def sources_toml(proposals: Sequence[Proposal]) -> str:
    """Return sources as they are written in a file, each with what speaks for it."""
    return "\n".join("\n".join(_toml_lines(one)) + "\n" for one in proposals)


def write_sources(path: Path, proposals: Sequence[Proposal]) -> None:
    """
    Add sources at the end of a file, in which all else stays as it is, or begin one; whole or not at all.

    Raises: NotDone, for a file that nothing can be added to.
    """
    if path.name == PROJECT or (not path.exists() and _is_in_project(path.parent)):
        raise NotDone(
            f"sources are only added to {FILE_NAME}, got settings in {PROJECT}; paste them there by hand"
        )
    before = path.read_bytes().decode() if path.exists() else ""
    known = _sources_of(before)
    names = {one.get("name") for one in known}
    num_wanted = len(known) + len(proposals)
    renamed = [_renamed(one, names) for one in proposals]
    gap = "" if not before else "\n" if before.endswith("\n") else "\n\n"
    after = before + gap + sources_toml(renamed)
    try:
        num_after = len(_sources_of(after))
    except tomllib.TOMLDecodeError as error:
        raise NotDone(
            f"orphans.sources of {path} must be written as [[orphans.sources]] to be added to, got {error}; "
            "write it so, or paste the sources by hand"
        ) from error
    if num_after != num_wanted:
        raise NotDone(
            f"{path} must hold the new sources when they are added, got {num_after}; paste them by hand"
        )
    _replace(path, after)


def _discovered(settings: Settings, timeout: timedelta) -> Discovery:
    with settings.blamed("storage"):
        store = open_store(settings.get("storage.url"))
    prefix = settings.get("orphans.prefix")

    async def go(driver: AsyncpgDriver) -> Discovery:
        try:
            return await discover(driver.pool, store, prefix=prefix, table_timeout=timeout)
        finally:
            await store.aclose()

    found = run_with_driver(settings, go)
    if not found.num_keys:
        raise NotDone(
            f"the bucket must have objects to compare with, got none in {store.url} under {prefix!r}; "
            "see storage.url and orphans.prefix"
        )
    return found


def _place(source: ReferenceSource) -> tuple[str | None, str, str | None]:
    return source.table, source.key, source.json


def _print(found: Discovery, declared: set[tuple[str | None, str, str | None]]) -> None:
    print_table(COLUMNS, [_line(one) for one in found.proposals], empty="no column names any object")
    new = [one for one in found.proposals if _place(one.source) not in declared]
    if is_terminal():
        click.echo()
    for line in _summary(found, len(new)):
        say(line)
    if is_terminal() and new:
        click.echo()
    if new:
        click.echo(sources_toml(new), nl=False, err=not is_terminal())


def _summary(found: Discovery, num_new: int) -> Iterator[str]:
    yield (
        f"looked at {found.num_columns:,} columns of {found.num_tables:,} tables, and at {found.num_keys:,} objects; "
        f"{len(found.proposals):,} columns name objects, {num_new:,} of them not declared yet"
    )
    if found.proposals and found.num_unnamed:
        unknown = any(one.num_named is None for one in found.proposals)
        examples = ", ".join(repr(key) for key in found.unnamed)
        number = f"{'up to ' if unknown else ''}{found.num_unnamed:,} of {found.num_keys:,}"
        yield (
            f"{number} objects are named by none of them, such as "
            f"{examples}: orphans, or named in a way that is not seen here (a longer text, another database)"
        )
    for table, reason in found.unread.items():
        yield f"not looked at: {table}, {reason}"


def _line(one: Proposal) -> tuple[object, ...]:
    source = one.source
    column = f"{source.table}.{source.key}{' ' + source.json if source.json else ''}"
    return (
        source.name,
        column,
        one.num_rows if one.num_rows is not None else one.num_sampled if one.is_small else "?",
        one.num_values,
        f"{one.num_found} of {one.num_asked}",
        "?" if one.num_named is None else one.num_named,
        one.examples[0],
    )


def _toml_lines(one: Proposal) -> Iterator[str]:
    source = one.source
    rows = "rows not counted yet" if one.num_rows is None else f"{one.num_rows:,} rows"
    named = "" if one.num_named is None else f", names {one.num_named:,} of the objects looked at"
    yield "[[orphans.sources]]"
    yield f"# {rows}, {one.num_sampled:,} read; {one.num_found:,} of {one.num_asked:,} objects were there{named}"
    for line in _comments(one):
        yield f"# {one_line(line)}"
    defaults = {each.name: each.default for each in dataclasses.fields(ReferenceSource)}
    for name, default in defaults.items():
        value = getattr(source, name)
        if value != default or name == "key":
            yield f"{name} = {toml(value)}"
    if one.deleted_at is not None and not source.has_many:
        yield "# Rows that are deleted softly go after their retention, with their objects, once you say so:"
        yield f"# deleted_at = {toml(one.deleted_at)}"
        yield f"# soft_deleted = {toml(f'{one.deleted_at} IS NOT NULL')}"


def _comments(one: Proposal) -> Iterator[str]:
    yield f"for example {', '.join(repr(key) for key in one.examples)}"
    if one.index is not None and not one.is_small:
        yield f"to be fast: {one.index}"


def _renamed(one: Proposal, names: set[object]) -> Proposal:
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
    """Put a file in place of another at once, with the other's permissions."""
    place = path.resolve()  # of a link, the file that it leads to
    handle, name = tempfile.mkstemp(dir=place.parent, prefix=".millhand-", suffix=".toml")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        Path(name).chmod(place.stat().st_mode & 0o777 if place.exists() else 0o644)
        Path(name).replace(place)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
