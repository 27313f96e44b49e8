"""Options that several commands share, each defined once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from millhand.core.job import JobState
from millhand.engine.store.job_list import JobFilters
from millhand.shells.cli.chosen_database import command_settings
from millhand.shells.cli.param_types import SomeOf, Whole, not_empty, parts

Function = TypeVar("Function", bound=Callable[..., Any])


def options(*decorators: Callable[[Any], Any]) -> Callable[[Function], Function]:
    """Return one decorator that adds several options, shown in the given order."""

    def add(function: Function) -> Function:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return add


def list_option(name: str, parameter: str, help: str, **more: Any) -> Callable[[Any], Any]:  # noqa: ANN401
    """Return a repeatable option that also takes `a,b`."""
    help = f"{help}; repeatable, or as a,b."
    return click.option(name, parameter, multiple=True, callback=parts, help=help, **more)


_FAILED = "for failed jobs: --state retryable,discarded"
_STATE = SomeOf([state.value for state in JobState], meant={"failed": _FAILED, "errored": _FAILED})
yes_option = click.option("--yes", "-y", "is_sure", is_flag=True, help="Do not ask for confirmation.")
json_option = click.option("--json", "is_json", is_flag=True, help="Print JSON.")
limit_option = click.option(
    "--limit", type=Whole(1, 10_000), default=100, show_default=True, help="List at most this many."
)
queues_option = list_option("--queue", "queues", "Only jobs in this queue", metavar="NAME")
dry_run_option = click.option("--dry-run", is_flag=True, help="Print what would be done, and change nothing.")


def job_filters(function: Function) -> Function:
    """Add the options that select jobs, and pass the command their `filters: JobFilters`."""

    @options(
        list_option("--state", "states", "Only jobs in this state", type=_STATE),
        list_option("--kind", "kinds", "Only jobs of this kind", metavar="KIND"),
        queues_option,
        list_option("--tag", "tags", "Only jobs with all of these tags", metavar="TAG"),
    )
    @functools.wraps(function)
    def command(
        *args: Any,  # noqa: ANN401 - what the command takes
        states: Sequence[str],
        kinds: Sequence[str],
        queues: Sequence[str],
        tags: Sequence[str],
        **others: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        filters = JobFilters(
            kinds=kinds or None,
            queues=queues or None,
            states=tuple(map(JobState, states)) or None,
            tags_all=tags or None,
        )
        return function(*args, filters=filters, **others)

    return command  # type: ignore[return-value]  # click calls it with the options as keywords


def schema_settings(function: Function) -> Function:
    """Add `--schema`, and pass the command its settings, with that schema if it is given."""

    @click.option(
        "--schema",
        callback=not_empty,
        metavar="NAME",
        help="Use the tables in this schema, not in the one of the settings.",
    )
    @click.pass_obj
    @functools.wraps(function)
    def command(config_path: Any, /, *, schema: str | None, **others: Any) -> Any:  # noqa: ANN401
        flags = {"database.schema": ("--schema", schema)} if schema is not None else {}
        return function(command_settings(config_path, flags=flags), **others)

    return command  # type: ignore[return-value]  # as above
