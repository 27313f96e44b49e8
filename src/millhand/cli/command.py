"""The common shape of the commands: a help text that ends with an example."""

from __future__ import annotations

from typing import Any

import click

_WRONG_USE = 2
CONTEXT_SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _WithExample(click.Command):
    """A command whose help shows an example."""

    def __init__(self, *args: Any, example: str, **kwargs: Any) -> None:  # noqa: ANN401 - what click takes
        super().__init__(*args, **kwargs)
        self.context_settings = CONTEXT_SETTINGS
        self.example = example

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Example"):
            formatter.write("".join(f"  {line}\n" for line in self.example.splitlines()))
        super().format_epilog(ctx, formatter)


class Command(_WithExample):
    """A command without subcommands."""


class Group(_WithExample, click.Group):
    """A command that has subcommands, each of them a `Command`."""

    command_class = Command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args:  # click before 8.2 exits with 0
            click.echo(ctx.get_help(), err=True)
            ctx.exit(_WRONG_USE)
        return super().parse_args(ctx, args)
