"""
Write the reference pages that come from the command line's own tables: `python docs/.writers/cli_pages.py`.

cli.md has every help text, settings.md every setting, log.md every field, all in docs/reference. A test compares them.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import get_type_hints

import click

from log_fields import FIELDS
from millhand.cli.main import cli
from millhand.core.limit import Limit, Rate
from millhand.shells.cli.command import Command, Group
from millhand.shells.settings.catalog import Setting, all_settings
from millhand.shells.settings.decode import rule_of, unwrapped
from millhand.shells.settings.load import toml
from setting_meanings import LIMIT_MEANINGS, MEANINGS

DOCS = Path(__file__).parents[2] / "docs"
WRITTEN = "<!-- Written by docs/.writers/cli_pages.py; a test compares. -->"

CLI_HEAD = f"""\
# Command line

{WRITTEN}

For operators: every command of `millhand`, its options and its exit codes.

Set `DATABASE_URL` to your database. Without it, a command ends with exit code 2, unless you ask for an embedded database:
`embedded = true` in `[database]` of `millhand.toml`, or `millhand worker --embedded`.

`--database` and `--all-databases` are for [several databases](../how_to/use_several_databases.md). With `--all-databases`,
the answer has the column or field `database`. Standard error names each database that does not answer, and the exit code
is then 1.

In a pipe, commands print a line of tab-separated fields per row, without a heading, and messages go to standard error.
`NO_COLOR` turns colours and bold off.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed, fully or in part; standard error has the reason. For `orphans scan`, `orphans run` and `kinds check`: \
the command found something. For `doctor`: something is broken |
| 2 | wrong flag, setting or argument; standard error has the remedy. For `orphans scan` and `orphans run`: a guard \
aborted the run, or it failed |
| 130 | interrupted by Ctrl-C, for commands other than `worker` |

## Shell completion

`millhand completion` prints a script that completes commands, options and words such as states. Install it once:

| shell | command |
|---|---|
| bash | `millhand completion bash > ~/.local/share/bash-completion/completions/millhand`; needs bash 4.4 \
and the package `bash-completion` |
| zsh | `millhand completion zsh > "${{fpath[1]}}/_millhand"`, with `compinit` in `~/.zshrc` |
| fish | `millhand completion fish > ~/.config/fish/completions/millhand.fish` |

`millhand` must be in the `PATH`.

## How a worker starts and stops

- A worker migrates its embedded database by itself. If the schema of `DATABASE_URL` is old, it does not start. With
  `--migrate`, it migrates first.
- Built-in jobs use the queue `default`, or the first queue by name. `--show-config` prints which will run, and why not.
- SIGTERM and SIGHUP are as Ctrl-C: [how a worker stops](../how_to/stop_and_restart.md).
- With `--until-empty`, the worker stops when it runs no job and no job of its queues is due within five seconds. It does
  not wait for jobs of paused queues and of kinds that it does not work. If it leads, it works its periodic jobs with
  `run_on_start` first."""

EVERYWHERE = ("-h", "--database")
SHARED = 2  # commands that put an option into the shared table
PIPE = "\\|"
SHARED_HEAD = """\

## Options of several commands

Each command takes `-h`. Each takes `--database`, except {without}. A line *Also* names the others that a command takes.

| option | meaning |
|---|---|
"""

WITHOUT = ", ".join(
    f"`{path}`" for path, setting in sorted(all_settings().items()) if setting.variable is None
)
SETTINGS_HEAD = f"""\
# Settings

{WRITTEN}

For operators: every setting, its type and its default.

Write settings into `millhand.toml` in the working directory, into `[tool.millhand]` of `pyproject.toml`, or into the file
of `--config`. A flag overrides the environment, and the environment overrides the file.
`millhand worker --show-config` prints the settings in force and their origin.

With `millhand worker MODULE:CONFIG`, the file, the environment and flags override the values of your `Config`.
If the `soft_stop_timeout` of your `Config` is None, `millhand worker` uses the default of this page.

Where a value may be `none`, this means no limit, unless its meaning says otherwise.
A duration is a string such as `"500ms"`, `"30s"`, `"5m"`, `"1h30m"`, `"7d"`, or a number of seconds.
The environment variable of `job_timeout` in `[worker]` is `MILLHAND_WORKER_JOB_TIMEOUT`, and the others follow this form.
{WITHOUT} have none. In environment variables, write lists as `a,b` and queues as `default:100,mail:5`.
An unknown key, a wrong type or an impossible combination is an error with exit code 2.

Secrets come from the environment only, and Millhand never prints them:

| variable | holds |
|---|---|
| `DATABASE_URL` | the database, `postgresql://…`; `postgresql+psycopg://…` and `postgresql+asyncpg://…` also select the \
driver; an empty value is an error |
| the variables that `[databases]` names | a database each, in the same form |
| `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_PROFILE` … | everything that botocore reads, for `s3://` |
| `MILLHAND_CONFIG` | the file of settings, as `--config` |
| `MILLHAND_POSTGRES_BIN` | the programs of another PostgreSQL for the embedded database; by default those of \
`millhand[embedded]`, and never one that happens to be installed |
"""

SETTINGS_EXAMPLE = """\
## Example

```toml
[worker]
soft_stop_timeout = "20s"

[worker.queues]
default = 100
mail = { max_workers = 5, fetch_poll_interval = "2s" }

[worker.queues.reports]
max_workers = 20

[worker.queues.reports.limit]
at_once = 3
by_args = ["tenant_id"]
rate = { allowed = 100, per = "1m", burst = 10 }

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

DATABASES = """
## `[databases]`

See [Use several databases](../how_to/use_several_databases.md). The key is the name of the database: up to 40 letters,
digits, `-` and `_`. The value is the environment variable that has its URL, or a table:

| key | meaning | type | default |
|---|---|---|---|
| `url_variable` | the environment variable that has the URL; the file never holds a URL | string | required |
| `schema` | the schema of its tables, instead of that in `[database]` | string | `""` |
| `color` | its color on the web page: `red`, `orange`, `green`, `blue`, `violet` or `gray` | string | `"gray"` |

No environment variable sets this section. Each variable and each URL belongs to one name. `DATABASE_URL` must then be unset,
unless a name has it as its variable. `embedded` in `[database]` must be false, and `[web.databases]` left out.
"""

INTRODUCTIONS = {
    "database": "The connections to the database.",
    "worker": "The worker: the fields of `millhand.Config` that are not objects.",
    "heartbeat": "The built-in heartbeat job. A `Client` has it too; its `Config` has `heartbeat_interval`.",
    "orphans": "The built-in orphan cleanup; `[[orphans.sources]]` are the fields of `millhand.orphans.ReferenceSource`.",
    "storage": "The object store.",
    "archive": "The archive of finished jobs, see [Archive finished jobs](../how_to/archive_jobs.md).",
    "web": "The web page, see [Run the web page](../how_to/web_page.md). The variable `MILLHAND_WEB_SECRET` signs the "
    "sessions of several processes.",
    "observe": "Probes of `millhand worker`, see [Monitor workers](../how_to/monitor.md#health-checks).",
    "log": "The log of `millhand worker`.",
    "otel": "The traces of `millhand worker`, see [Trace jobs](../how_to/traces.md). The SDK of OpenTelemetry reads the "
    "variables `OTEL_…`.",
}

LIMIT_HEAD = """
### `[worker.queues.NAME.limit]`

The limit of a queue, for all clients together: the fields of [`Limit` and `Rate`](api/config.md), which describe the rules.
[Limit how many jobs run at once](../how_to/limit_concurrency.md) shows how to use one.
At least one of `at_once`, `at_once_per_client`, `total`, `rate` and `in_order` is required.
`MILLHAND_WORKER_QUEUES` and `--queue` replace the whole table `queues`, also its limits.

| key | meaning | value | default |
|---|---|---|---|
"""

TABLE_HEAD = "| key | meaning | value | default |\n|---|---|---|---|\n"

LOGGING_HEAD = f"""\
# Log

{WRITTEN}

For operators and programmers: the format of the log, its levels and its fields.
[Log messages](log_messages.md) lists every message.
For a program that runs a client itself, see [Log in your program](../how_to/log_in_your_program.md).

`millhand worker` writes text on a terminal and one JSON object per line in a pipe; choose with `--log-format` and
`--log-level`.

With `--log-format json`, an error that keeps the worker from starting is a line of the log too: `worker not started`.
Otherwise it is text on standard error. A traceback of your module, and a wrong option or setting, are always text.

A line has a constant phrase, which you can search for, and fields. In JSON the phrase is `message`, next to `timestamp`,
`level`, `logger` and, after an error, `exception`. If your own field has one of these names, its name gets a `_`: `level_`.
Millhand never logs args or metadata of jobs, and masks passwords in URLs.

A line that your worker function logs also has `job_id`, `kind`, `queue` and `attempt`. Fields of yours win.
With [OpenTelemetry](../how_to/traces.md), a line that is logged within a span has `trace_id`, `span_id` and `trace_flags`.

| level | meaning |
|---|---|
| `debug` | every step, such as `fetching stopped` |
| `info` | normal events, such as `worker started`; in `millhand worker` also each `job completed` |
| `warning` | a failure that Millhand handles, such as `job errored`: the job is retried |
| `error` | a failure that needs you, such as `job discarded` |

## Schemas

`--log-schema`, or `schema` in `[log]`, names the keys of JSON as your log system expects them. Text stays the same.

| part | `millhand` | `ecs`, Elastic Common Schema | `otel`, OpenTelemetry | `gcp`, Google Cloud Logging |
|---|---|---|---|---|
| time | `timestamp` | `@timestamp` | `timestamp` | `time` |
| level | `level` | `log.level` | `severity_text`, `severity_number` | `severity` |
| phrase | `message` | `message` | `body` | `message` |
| logger | `logger` | `log.logger` | `scope.name` | `logger` |
| class and text of an error | `error_type`, `error` | `error.type`, `error.message` | \
`attributes.exception.type`, `.message` | `error_type`, `error` |
| traceback | `exception` | `error.stack_trace` | `attributes.exception.stacktrace` | `stack_trace` |
| trace and span | `trace_id`, `span_id` | `trace.id`, `span.id` | `trace_id`, `span_id` | \
`logging.googleapis.com/trace`, `…/spanId` |
| another field | its name | `labels.` and its name | in `attributes` | its name |

With `gcp`, the trace is `projects/PROJECT/traces/ID` if `GOOGLE_CLOUD_PROJECT` names the project.
A formatter of your own program takes the schema too: `JsonFormatter(schema="ecs")`.

## Fields

| field | meaning |
|---|---|
"""


def cli_page() -> str:
    """Return docs/reference/cli.md: the help texts, with the options that commands share in one table."""
    commands = [*_commands(cli, "millhand", None)]
    shared = _shared_options(commands)
    without = ", ".join(
        f"`{path}`"
        for path, command, context in commands
        if not isinstance(command, click.Group)
        and "--database" not in {_name(record) for record in _records(command, context)}
    )
    parts = [CLI_HEAD, _shared_table(shared, without)]
    parts.extend(
        f"## `{_usage(path, command, context)}`\n\n{_command(command, context, shared)}"
        for path, command, context in commands
        if not isinstance(command, click.Group) or len(_text(command, context).splitlines()) > 1
    )
    return "\n".join(parts)


def _shared_options(
    commands: Sequence[tuple[str, click.Command, click.Context]],
) -> dict[str, tuple[str, str]]:
    """Return name and help of each option that commands share; of two with one name, the more frequent one."""
    found = Counter(
        record
        for _, command, context in commands
        for option in command.get_params(context)
        if isinstance(option, click.Option) and (record := option.get_help_record(context))
    )
    names: dict[str, tuple[str, str]] = {}
    for record, number in found.most_common():
        if number >= SHARED:
            names.setdefault(_name(record), record)
    return names


def _name(record: tuple[str, str]) -> str:
    return record[0].partition(" ")[0].rstrip(",")


def _shared_table(shared: dict[str, tuple[str, str]], without: str) -> str:
    rows = [f"| `{option.replace('|', PIPE)}` | {meaning} |\n" for option, meaning in shared.values()]
    return SHARED_HEAD.format(without=without) + "".join(rows)


def _command(command: click.Command, context: click.Context, shared: dict[str, tuple[str, str]]) -> str:
    """Return the help of a command without the shared options, which it names; of a group, what it is for."""
    records = {_name(record): record for record in _records(command, context)}
    also = [name for name, record in records.items() if shared.get(name) == record and name not in EVERYWHERE]
    formatter = context.make_formatter()
    if own := [record for name, record in records.items() if shared.get(name) != record]:
        formatter.write_dl(own)
    lines = [_text(command, context), formatter.getvalue().rstrip()]
    lines.append(_example(command, [name for name in records if name not in shared]))
    block = "\n\n".join(line for line in lines if line)
    return f"```text\n{block}\n```\n" + (
        f"\nAlso {', '.join(f'`{name}`' for name in also)}.\n" if also else ""
    )


def _text(command: click.Command, context: click.Context) -> str:
    formatter = context.make_formatter()
    command.format_help_text(context, formatter)
    text = textwrap.dedent(formatter.getvalue()).strip()
    return f"{text}\n\n{textwrap.fill(command.epilog, 100)}" if command.epilog else text


def _records(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    for option in command.get_params(context):
        if isinstance(option, click.Option) and (record := option.get_help_record(context)):
            yield record


def _usage(path: str, command: click.Command, context: click.Context) -> str:
    """Return a command with its arguments."""
    pieces = [piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]"]
    return path if isinstance(command, click.Group) else " ".join([path, *pieces])


def _example(command: click.Command, options: Sequence[str]) -> str:
    """Return the example of a command, if it shows one of these options, or more than one line."""
    assert isinstance(command, Command | Group)
    lines = command.example.splitlines()
    is_needed = len(lines) > 1 or set(command.example.split()) & {*options}
    return "\n".join(f"$ {line}" for line in lines) if is_needed else ""


def settings_page() -> str:
    """Return docs/reference/settings.md."""
    parts = [SETTINGS_HEAD, "\n", SETTINGS_EXAMPLE]
    for section, settings in groupby(all_settings().values(), lambda setting: setting.section):
        parts.append(f"\n## `[{section}]`\n\n{INTRODUCTIONS[section]}\n\n{TABLE_HEAD}")
        parts.extend(map(_setting, settings))
        if section == "database":
            parts.append(DATABASES)
        if section == "worker":
            parts.extend((LIMIT_HEAD, *_limit_fields()))
    return "".join(parts)


def logging_page() -> str:
    """Return docs/reference/log.md."""
    return LOGGING_HEAD + "".join(f"| `{name}` | {meaning} |\n" for name, meaning in FIELDS.items())


def _short(hint: object) -> str:
    """Return the rule of a type, in a word if there is one."""
    names: dict[object, str] = {
        timedelta: "duration",
        bool: "boolean",
        int: "integer",
        float: "number",
        str: "string",
    }
    return names.get(hint) or rule_of(hint).removeprefix("a ").removeprefix("one of ")


def _limit_fields() -> Iterator[str]:
    for key, meaning in LIMIT_MEANINGS.items():
        table, name = (Rate if key.startswith("rate.") else Limit), key.removeprefix("rate.")
        [default] = [field.default for field in dataclasses.fields(table) if field.name == name]
        hint = unwrapped(get_type_hints(table)[name])[0]
        rule = _short(hint)
        shown = "" if default in (None, dataclasses.MISSING) else f"`{toml(default)}`"
        yield f"| `{key}` | {meaning} | {rule} | {shown} |\n"


def _setting(setting: Setting) -> str:
    hint, is_optional = unwrapped(setting.hint)
    rule = _short(hint).replace("'", "`")
    if is_optional and hint is not str:
        rule += " or `none`"
    default = "" if setting.default is None and hint is str else f"`{toml(setting.default)}`"
    return f"| `{setting.key}` | {MEANINGS[setting.path]} | {rule} | {default} |\n"


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
