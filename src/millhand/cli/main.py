"""
The command `millhand`: run a subcommand, print its error and return its exit code.

    0  done        1  failed, with the reason on standard error        2  wrong use, with the remedy on standard error

A subcommand's module is imported when it is called, to keep `millhand --help` fast.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from millhand.cli.usage_error import usage_text
from millhand.core.errors import MillhandError
from millhand.shells.cli.command import Group
from millhand.shells.cli.error_text import exit_code, explained
from millhand.shells.exit_code import DONE, INTERRUPTED, NOT_DONE

# Name: the command's module and attribute, and the first line of its help; a test compares the two texts.
COMMANDS = {
    "archive": (
        "millhand.archive.cli:archive",
        "List and search the archive of finished jobs, restore and erase jobs.",
    ),
    "args": ("millhand.cli.args:args", "Encrypt the secret args of waiting jobs with the newest key."),
    "bench": ("millhand.cli.bench:bench", "Measure how fast Millhand inserts and works no-op jobs."),
    "client": ("millhand.cli.client:client", "List the clients that work jobs, in every language."),
    "completion": (
        "millhand.cli.completion:completion",
        "Print the script that completes millhand in bash, zsh or fish.",
    ),
    "dead": (
        "millhand.dead_jobs.cli:dead",
        "List, show, retry and delete dead letters, the copies of discarded jobs.",
    ),
    "doctor": ("millhand.cli.doctor:doctor", "Find what is wrong, and what to do about it."),
    "flow": ("millhand.flows.cli:flow", "List, show, cancel and retry flows."),
    "job": ("millhand.cli.job:job", "Insert, list, show, cancel, retry and delete jobs."),
    "kinds": ("millhand.cli.kinds:kinds", "List job kinds, and check that queued jobs can be worked."),
    "limit": (
        "millhand.limits.cli:limit",
        "List, show and change limits of queues; hold and resume partitions.",
    ),
    "migrate": ("millhand.cli.migrate:migrate", "Migrate the database schema."),
    "orphans": (
        "millhand.orphans.cli.orphans:orphans",
        "Compare rows with objects, clean up orphans, and restore them.",
    ),
    "periodic": (
        "millhand.schedules.periodic_cli:periodic",
        "List periodic jobs by their runs, and run one now.",
    ),
    "probe": (
        "millhand.cli.probe:probe",
        "Ask the worker on this machine whether it is live, ready or started.",
    ),
    "queue": ("millhand.cli.queue:queue", "List, pause and resume queues."),
    "schedule": ("millhand.schedules.cli:schedule", "List, show and change kept schedules, and run one now."),
    "web": ("millhand.cli.web:web", "Serve the web page until Ctrl-C."),
    "worker": ("millhand.cli.worker:worker", "Run a worker until Ctrl-C."),
}


class LazyGroup(Group):
    """A group that imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)  # noqa: S101 - the table above names commands only
        return command

    def hint(self, ctx: click.Context, name: str) -> str:
        """Return the command of a group that has this name: `list` is `job list`."""
        for group_name in ("job", "queue", *self.list_commands(ctx)):
            group = self.get_command(ctx, group_name)
            if isinstance(group, click.Group) and group.get_command(ctx, name) is not None:
                return f"; did you mean {f'{group_name} {name}'!r}?"
        return super().hint(ctx, name)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        near = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        commands = [CompletionItem(name, help=COMMANDS[name][1]) for name in near]
        return [*commands, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.command(
    cls=LazyGroup,
    example="millhand worker shop.jobs:config",
    epilog="A flag overrides the environment, and the environment overrides millhand.toml. Set DATABASE_URL to "
    "your database, or write embedded = true in [database] of millhand.toml for a PostgreSQL in .millhand/postgres.",
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    envvar="MILLHAND_CONFIG",
    metavar="FILE",
    help="Read settings from FILE, not from millhand.toml or pyproject.toml in the working directory.",
)
@click.version_option(package_name="millhand", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context, config_path: Path | None) -> None:
    """Run background jobs on PostgreSQL and S3, with the tables of River."""
    context.obj = config_path


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    _open_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Like standard error, escape characters that the terminal cannot show.
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        result = cli.main(args=arguments, prog_name="millhand", standalone_mode=False)
    except click.UsageError as error:
        click.echo(f"error: {explained(usage_text(error))}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("error: interrupted; nothing more was done", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        _forget_stdout()
        return NOT_DONE
    except MillhandError as error:
        click.echo(f"error: {explained(error)}", err=True)
        return exit_code(error)
    except OSError as error:  # such as a full disk under the output: a traceback would not help
        _forget_stdout()
        click.echo(f"error: the operating system reported: {explained(error)}", err=True)
        return NOT_DONE
    return result if isinstance(result, int) else DONE


def _open_closed_streams() -> None:
    """Replace closed standard streams by the null device, so that no connection gets their file numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115 - open until the process exits
            setattr(sys, name, stream)


def _forget_stdout() -> None:
    """Redirect standard output to the null device, so that the flush at exit does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
