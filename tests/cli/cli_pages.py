"""
Writes the pages that are drawn from the command line's own tables: `python tests/cli/cli_pages.py` writes them.

cli.md has every help text, settings.md every setting, log.md every field, all in docs/reference. Tests compare.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import click

from millhand.cli.main import cli
from millhand.observe.fields import FIELDS
from millhand.settings.catalog import Setting, all_settings
from millhand.settings.decode import rule_of, unwrapped
from millhand.settings.load import toml

DOCS = Path(__file__).parents[2] / "docs"
WRITTEN = "<!-- Written by tests/cli/cli_pages.py; a test compares. -->"

CLI_HEAD = f"""\
# The command line

{WRITTEN}

`millhand` speaks to the database of `DATABASE_URL`; without it, to a PostgreSQL of its own in `.millhand/postgres`, which
it starts, migrates and stops.
Tables and progress are for terminals.
In a pipe every row is a line of tab-separated fields without a heading, what a person is told goes to standard error, and
`--json` prints JSON.
`NO_COLOR` is honoured.

| exit code | means |
|---|---|
| 0 | done |
| 1 | not done, or not all; the reason is on standard error. Of `orphans scan`, `run`, `kinds check`: something was found |
| 2 | wrong use: a flag, setting or argument that cannot be; how to mend it is told. Of `orphans scan` and `run`: refused |
| 130 | interrupted by Ctrl-C, commands other than `worker` |

## How a worker starts and stops

- A worker on a database of its own migrates it. On the database of `DATABASE_URL` it refuses to start on an old schema
  and says what to run; `--migrate` does it first.
- `MODULE:CONFIG` is imported from the working directory or the installed packages. Beside a configuration of yours, a
  built-in job runs if its section, `[heartbeat]` or `[orphans]`, has a setting; without one, both run. They go into the
  queue `default`, or into the first by name where that is not worked.
- The first SIGINT (Ctrl-C), SIGTERM or SIGHUP stops in order: nothing new is fetched, running jobs are waited for as
  long as `soft_stop_timeout`, then interrupted and given back, and such an attempt does not count. The second interrupts
  them at once. The third ends the process where it stands.
- The last line of the log is `worker stopped`. The exit code is 0 after any stop in order, 1 after a crash.
- `--until-empty` stops when no job of the worked queues is running here and none is due within five seconds. Jobs that are
  scheduled or retried later, those of paused queues, and those of kinds that are not worked here, are left.
"""

SETTINGS_HEAD = f"""\
# Settings

{WRITTEN}

Settings stand in `millhand.toml` in the working directory, or below `[tool.millhand]` in `pyproject.toml`, or in the file
of `--config`.
The environment wins over the file, a flag over the environment; `millhand worker --show-config` prints what is in force
and where each value was said.
With `millhand worker MODULE:CONFIG`, the values of your `Config` stand lowest: what is said in the file, the environment
or a flag wins over them.
A `soft_stop_timeout` of None, which a process that is told to stop cannot wait for, is then the default of this page.

A duration is a text such as `"500ms"`, `"30s"`, `"5m"`, `"1h"`, `"7d"`, or a number of seconds.
In the environment, lists are `a,b` and queues `default:100,mail:5`.
An unknown key, a wrong type or an impossible pair is an error with exit code 2; nothing is guessed.

Secrets come from the environment alone, and are never shown:

| variable | holds |
|---|---|
| `DATABASE_URL` | where the database is, `postgresql://…`; `postgresql+psycopg://…` and \
`postgresql+asyncpg://…` say by which driver as well; \
without it an embedded one is started in `.millhand/postgres` |
| `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_PROFILE` … | whatever botocore reads, for `s3://` |
| `MILLHAND_CONFIG` | the file to read, as `--config` |
| `MILLHAND_POSTGRES_BIN` | the programs of another PostgreSQL for the embedded database |
"""

SETTINGS_EXAMPLE = """\
## Example

```toml
[worker]
queues = { default = 100, mail = { max_workers = 5, fetch_poll_interval = "2s" } }
soft_stop_timeout = "20s"

[heartbeat]
interval = "30s"

[storage]
url = "s3://uploads"

[orphans]
mode = "quarantine"

[[orphans.sources]]
name = "uploads"
table = "uploads"
pending = "state = 'pending'"
created_at = "created_at"
```
"""

INTRODUCTIONS = {
    "database": "How the database is used.",
    "worker": "The worker itself; the fields of `millhand.Config` that are not objects.",
    "heartbeat": "The built-in heartbeat.",
    "orphans": "The built-in orphan cleanup; `[[orphans.sources]]` are the fields of `millhand.orphans.ReferenceSource`.",
    "storage": "The objects.",
    "log": "The log of `millhand worker`.",
}

TABLE_HEAD = "| key | means | value | default | variable |\n|---|---|---|---|---|\n"

LOGGING_HEAD = f"""\
# The log

{WRITTEN}

The library speaks to Python's `logging`, one logger a module, and never configures it.
`millhand worker` shows the log as text on a terminal and as one JSON object a line in a pipe; `--log-format` and
`--log-level` choose.

A line has a constant phrase, to be searched for, and fields. In JSON the phrase is `message`, beside `timestamp`, `level`,
`logger` and, where something was raised, `exception`; a field of yours by such a name is shown as `level_`. Args and
metadata of jobs are never logged, passwords in URLs are masked.

| level | means |
|---|---|
| `debug` | every step, such as `job completed` |
| `info` | what a person would want to know tomorrow |
| `warning` | it went wrong and healed itself, such as `job errored`: the job is tried again |
| `error` | it did not, such as `job discarded` |

## Fields

| field | means |
|---|---|
"""


def cli_page() -> str:
    """Return docs/reference/cli.md."""
    parts = [CLI_HEAD]
    for path, command, context in _commands(cli, "millhand", None):
        parts.append(f"## `{path}`\n\n```text\n{command.get_help(context).rstrip()}\n```\n")
    return "\n".join(parts)


def settings_page() -> str:
    """Return docs/reference/settings.md."""
    parts = [SETTINGS_HEAD, "\n", SETTINGS_EXAMPLE]
    section = ""
    for setting in all_settings().values():
        if setting.section != section:
            section = setting.section
            parts.append(f"\n## `[{section}]`\n\n{INTRODUCTIONS[section]}\n\n{TABLE_HEAD}")
        parts.append(_setting(setting))
    return "".join(parts)


def logging_page() -> str:
    """Return docs/reference/log.md."""
    return LOGGING_HEAD + "".join(f"| `{name}` | {meaning} |\n" for name, meaning in FIELDS.items())


def _setting(setting: Setting) -> str:
    hint, is_optional = unwrapped(setting.hint)
    rule = "a duration" if hint is timedelta else rule_of(hint).replace("'", "`")
    if is_optional and hint is not str:
        rule += ", or `none`"
    default = "" if setting.default is None and hint is str else f"`{toml(setting.default)}`"
    variable = f"`{setting.variable}`" if setting.variable else ""
    return f"| `{setting.key}` | {setting.about} | {rule} | {default} | {variable} |\n"


def _commands(
    command: click.Command, path: str, parent: click.Context | None
) -> Iterator[tuple[str, click.Command, click.Context]]:
    settings = {**command.context_settings, "terminal_width": 100}
    context = click.Context(command, info_name=path.rpartition(" ")[2], parent=parent, **settings)
    yield path, command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from _commands(child, f"{path} {name}", context)


PAGES = {
    "reference/cli.md": cli_page,
    "reference/settings.md": settings_page,
    "reference/log.md": logging_page,
}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")
