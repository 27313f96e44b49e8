"""
The command `millhand`: finds the subcommand, and turns how it ended into words and an exit code.

    0  done        1  not done: the reason is on standard error        2  wrong use: so is the remedy

A subcommand's module is imported when it is called, so that `millhand --help` answers at once.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from millhand.cli.command import Group
from millhand.errors import ConfigError, InvalidJob, MillhandError
from millhand.process.exit_code import DONE, INTERRUPTED, NOT_DONE, WRONG_USE

# Name: where it is, and its help in one line, which a test compares with the command's own.
COMMANDS = {
    "bench": ("millhand.cli.bench:bench", "Insert and work no-op jobs, and print how fast."),
    "client": ("millhand.cli.client:client", "List the clients that work jobs, of every language."),
    "job": ("millhand.cli.job:job", "Insert, list, show, cancel, retry and delete jobs."),
    "kinds": (
        "millhand.cli.kinds:kinds",
        "List kinds with their args, and see that what is queued can be worked.",
    ),
    "migrate": ("millhand.cli.migrate:migrate", "Bring the database's schema to a version."),
    "orphans": ("millhand.cli.orphans:orphans", "Reconcile rows with objects, and undo what was done."),
    "queue": ("millhand.cli.queue:queue", "List, pause and resume queues."),
    "worker": ("millhand.cli.worker:worker", "Run a worker until Ctrl-C."),
}


class LazyGroup(Group):
    """A group whose commands are known by name and imported when needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)  # noqa: S101 - the table above names commands only
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.command(
    cls=LazyGroup,
    example="millhand worker shop.jobs:config",
    epilog="Settings come from flags, the environment and millhand.toml, in this order. The database is that of "
    "DATABASE_URL; without it, a PostgreSQL of its own is started in .millhand/postgres.",
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    envvar="MILLHAND_CONFIG",
    metavar="FILE",
    help="Read settings from FILE, not from millhand.toml or pyproject.toml here.",
)
@click.version_option(package_name="millhand", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context, config_path: Path | None) -> None:
    """Work background jobs with PostgreSQL and S3, on the tables of River."""
    context.obj = config_path


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    _open_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As standard error does: what a terminal cannot show is spelt.
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        result = cli.main(args=arguments, prog_name="millhand", standalone_mode=False)
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
        return WRONG_USE if isinstance(error, ConfigError | InvalidJob) else NOT_DONE
    except (
        OSError
    ) as error:  # a full disk under our output and the like: nothing that a traceback would explain
        _forget_stdout()
        click.echo(f"error: the operating system must let us work, got {explained(error)}", err=True)
        return NOT_DONE
    return result if isinstance(result, int) else DONE


def explained(error: BaseException) -> str:
    """Return what an error says, with the passwords in it masked, and nothing in it that moves the cursor."""
    from millhand.observe.secret import masked_error  # noqa: PLC0415
    from millhand.observe.terminal_text import printable  # noqa: PLC0415 - for errors only

    return printable(masked_error(str(error)))


def _open_closed_streams() -> None:
    """Put nothing in the place of standard streams that are closed: a connection would get their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115 - for as long as we run
            setattr(sys, name, stream)


def _forget_stdout() -> None:
    """Let the interpreter flush into nothing: whoever read us has gone, or has no room, which is told already."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
