"""The error that ends a command as a line of its log, for programs that read the log as JSON."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click

from millhand.core.errors import MillhandError
from millhand.core.log.logger import logger_of
from millhand.shells.cli.error_text import exit_code, explained

logger = logger_of(__name__)


@contextlib.contextmanager
def start_errors_logged(log_format: str) -> Iterator[None]:
    """
    Log an error of the block and exit with its code, if the log is JSON by choice.

    With `auto`, in a pipe too, the error stays text on standard error: most pipes are read by people.
    """
    try:
        yield
    except (MillhandError, click.ClickException) as error:
        if log_format != "json":
            raise
        text = error.format_message() if isinstance(error, click.ClickException) else error
        cause = error.__cause__ or error
        fields = {"error": explained(text), "error_type": type(cause).__name__}
        logger.error("worker not started", extra=fields)  # noqa: TRY400 - as on a terminal, without a traceback
        raise click.exceptions.Exit(exit_code(error)) from error
