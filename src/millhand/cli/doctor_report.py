"""What `millhand doctor` prints: findings for people, a line for each in a pipe, and JSON."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Sequence

import click

from millhand.core.job import Json
from millhand.core.number_text import duration
from millhand.observe.terminal_text import one_line
from millhand.shells.cli.output import counted, is_terminal, print_message
from millhand.shells.doctor.finding import CheckResult, Finding, Level, Report, Unseen

UNSEEN, COMMAND = "unseen", "command"
STYLES = {Level.BROKEN: "bold red", Level.HARMFUL: "yellow", Level.NOTABLE: "cyan", UNSEEN: "magenta"}
INDENT = 9  # the longest level, and two spaces
# On a narrower terminal, texts begin in the third column.
NARROW = 60
WIDTH_MAX = 100  # longer lines are hard to read


def report_fields(report: Report) -> dict[str, Json]:
    """Return the report as JSON."""
    return {
        "database": report.database,
        "role": report.role,
        "server_version": report.server,
        "seconds": round(report.took.total_seconds(), 3),
        "is_broken": report.is_broken,
        **{level.value: report.count(level) for level in Level},
        "checks": [
            {
                "check": result.check,
                "level": None if result.level is None else result.level.value,
                "findings": [_fields(finding) for finding in result.findings],
                "more_findings": result.num_more,
                "unseen": [_fields(unseen) for unseen in result.unseen],
            }
            for result in report.results
        ],
    }


def print_report(report: Report, name: str = "") -> None:
    """
    Print the report: for people on a terminal, and a line for each finding in a pipe.

    `name` is that of one of several databases. It is above the report, or the first column.
    """
    named = (name,) if name else ()
    if is_terminal():
        if name:
            click.echo(f"database {name}\n")
        _print_blocks(report)
        if name:
            click.echo()
    else:
        for line in lines(report):
            click.echo("\t".join(map(one_line, (*named, *line))))
        print_message(": ".join((*named, summary(report))))


def lines(report: Report) -> Iterator[tuple[str, ...]]:
    """
    Yield the columns of each finding, and of what could not be seen: level, check, subject, the texts, and each command.

    Commands may be of the shell and of SQL, so they are not joined.
    """
    for level, result, one in _entries(report):
        subject, effect = (one.subject, one.effect) if isinstance(one, Finding) else ("", "")
        text = one.found if isinstance(one, Finding) else one.reason
        yield level, result.check, subject, text, effect, one.remedy, *(one.commands or ("",))


def summary(report: Report) -> str:
    """Return how many checks ran, where, and what they found."""
    where = f"database {report.database} as role {report.role}, PostgreSQL {report.server}"
    ran = f"{counted(len(report.results), 'check')} of {where}, in {duration(report.took)}"
    found = [f"{report.count(level)} {level.value}" for level in Level if report.count(level)]
    if num_unseen := sum(bool(result.unseen) for result in report.results):
        found.append(f"{counted(num_unseen, 'check')} could not see everything")
    return f"{ran}: {', '.join(found) or 'nothing found'}"


def blocks(report: Report, width: int) -> Iterator[list[tuple[str, str]]]:
    """Yield the lines of each finding for a terminal of this width, each with its style."""
    for level, result, one in _entries(report):
        if isinstance(one, Finding):
            yield _block(level, result.check, f"{one.found} {one.effect}", one, width)
            if result.num_more and one is result.findings[-1]:
                yield [(f"and {counted(result.num_more, 'more finding')} of {result.check}", "")]
    for one, checks in _unseen(report).items():
        yield _block(UNSEEN, ", ".join(checks), one.reason, one, width)


def _unseen(report: Report) -> dict[Unseen, list[str]]:
    """Return what could not be seen, and the checks that it is missing for."""
    found: dict[Unseen, list[str]] = {}
    for result in report.results:
        for one in result.unseen:
            found.setdefault(one, []).append(result.check)
    return found


def _block(level: str, checks: str, text: str, one: Finding | Unseen, width: int) -> list[tuple[str, str]]:
    indent = INDENT if width >= NARROW else 2
    head = _wrapped(checks, indent if width >= NARROW else len(level) + 1, width)
    lines = [(f"{level}{head[0][len(level) :]}", level), *((line, "") for line in head[1:])]
    for part in (text, f"Remedy: {one.remedy}"):
        lines += [(line, "") for line in _wrapped(part, indent, width)]
    # Not wrapped: a command that is copied must stay one line.
    return [*lines, *((f"{' ' * (indent + 2)}{one_line(command)}", COMMAND) for command in one.commands)]


def _wrapped(text: str, indent: int, width: int) -> list[str]:
    space = " " * indent
    return textwrap.wrap(
        one_line(text),
        max(min(width, WIDTH_MAX), indent + 20),
        initial_indent=space,
        subsequent_indent=space,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _entries(report: Report) -> Iterator[tuple[str, CheckResult, Finding | Unseen]]:
    """Yield findings, the worst first, then what could not be seen."""
    for level in Level:
        for result in report.results:
            yield from ((level.value, result, one) for one in result.findings if one.level is level)
    for result in report.results:
        yield from ((UNSEEN, result, one) for one in result.unseen)


def _print_blocks(report: Report) -> None:
    from rich.console import Console  # noqa: PLC0415 - half of a command's time, and unused in a pipe
    from rich.text import Text  # noqa: PLC0415

    console = Console(
        color_system=None if os.environ.get("NO_COLOR") else "auto", highlight=False, soft_wrap=True
    )
    for block in blocks(report, console.width):
        for text, style in block:
            line = Text(text)
            if style == COMMAND:
                line.stylize("bold")
            elif style:
                line.stylize(STYLES[style], 0, len(style))
            console.print(line)
        console.print()
    in_order = [result.check for result in report.results if result.is_ok]
    if in_order:
        for text in _wrapped(f"in order: {', '.join(in_order)}", 0, console.width):
            console.print(Text(text, style="dim"))
    for text in _wrapped(summary(report), 0, console.width):
        console.print(Text(text))


def _fields(one: Finding | Unseen) -> dict[str, Json]:
    names: Sequence[str] = (
        ("level", "subject", "found", "effect") if isinstance(one, Finding) else ("reason",)
    )
    fields: dict[str, Json] = {name: str(getattr(one, name)) for name in names}
    return {**fields, "remedy": one.remedy, "commands": list(one.commands)}
