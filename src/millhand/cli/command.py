"""The commands' common shape: every help text ends with an example that can be copied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])

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
    """A command that does something."""


class Group(_WithExample, click.Group):
    """A command that has subcommands, each of them a `Command`."""

    command_class = Command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args:  # said here, for click ended with 0 before its 8.2
            click.echo(ctx.get_help(), err=True)
            ctx.exit(_WRONG_USE)
        return super().parse_args(ctx, args)


def yes_option(function: Function) -> Function:
    """Add `--yes` to a command that asks before it acts."""
    return click.option("--yes", "-y", "is_sure", is_flag=True, help="Do it without asking.")(function)


def json_option(function: Function) -> Function:
    """Add `--json` to a command that shows something."""
    return click.option("--json", "is_json", is_flag=True, help="Print JSON, for programs.")(function)
