"""Write sources as TOML, to paste or to append to millhand.toml without changing the rest of the file."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from millhand.cli.output import NotDone
from millhand.observe.terminal_text import one_line
from millhand.orphans.config import ReferenceSource
from millhand.settings.load import FILE_NAME, toml

PROJECT = "pyproject.toml"


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
    """
    Append sources to a file, or create it; atomically, and without changing the rest.

    Raises: NotDone for a file to which sources cannot be appended.
    """
    if path.name == PROJECT or (not path.exists() and _is_in_project(path.parent)):
        raise NotDone(
            f"sources can be added to {FILE_NAME} only, got settings in {PROJECT}; paste them there"
        )
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
