"""The common shape of the commands: a help text that ends with an example, and the options that choose a database."""

from __future__ import annotations

import enum
from typing import Any

import click

_WRONG_USE = 2
META = "millhand.cli"
_ONE_HELP = "Use this database of [databases] in millhand.toml."
_ALL_HELP = "Ask every database of [databases], and name the database of each row."
CONTEXT_SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _WithExample(click.Command):
    """A command whose help shows an example."""

    def __init__(self, *args: Any, example: str, **kwargs: Any) -> None:  # noqa: ANN401 - what click takes
        super().__init__(*args, **kwargs)
        self.context_settings = CONTEXT_SETTINGS
        self.example = example

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx  # the error names the command, and click's parser does not know it
            raise

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Example"):
            formatter.write("".join(f"  {line}\n" for line in self.example.splitlines()))
        super().format_epilog(ctx, formatter)


class Choice(enum.Enum):
    """Which of the databases that the settings name a command can use."""

    NONE = "none"
    ONE = "one"
    ANY = "any"


class Command(_WithExample):
    """
    A command without subcommands.

    `choice` gives it the option `--database`, and `--all-databases` too if it can use any number of databases.
    """

    def __init__(self, *args: Any, choice: Choice = Choice.ONE, **kwargs: Any) -> None:  # noqa: ANN401 - as above
        super().__init__(*args, **kwargs)
        self.choice = choice
        if choice is not Choice.NONE:
            self.params.append(_option("--database", metavar="NAME", help=_ONE_HELP))
        if choice is Choice.ANY:
            self.params.append(_option("--all-databases", is_flag=True, help=_ALL_HELP))


def _option(name: str, **kwargs: Any) -> click.Option:  # noqa: ANN401 - what click takes
    """Return an option whose value is in the context's `meta`, where `chosen_database` reads it."""

    def keep(context: click.Context, _option: click.Parameter, value: object) -> None:
        context.meta[f"{META}{name}"] = value

    return click.Option([name], callback=keep, expose_value=False, **kwargs)


class Group(_WithExample, click.Group):
    """A command that has subcommands, each of them a `Command`."""

    command_class = Command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:  # click before 8.2 exits with 0
            click.echo(ctx.get_help(), err=True)
            ctx.exit(_WRONG_USE)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(f"{ctx.command_path} has no command {name!r}{self.hint(ctx, name)}", ctx)
        return super().resolve_command(ctx, args)

    def hint(self, ctx: click.Context, name: str) -> str:
        """Return the end of the error for a command that does not exist."""
        from millhand.shells.settings.decode import guess  # noqa: PLC0415 - for errors only

        return guess(name, self.list_commands(ctx))
