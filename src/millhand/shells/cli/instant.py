"""Instants on the command line: a date, a time with a date, or a duration ago."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from millhand.core.errors import ConfigError
from millhand.shells.cli.output import WrongUse
from millhand.shells.settings.decode import decode_text


def decode_instant(text: str | None, flag: str) -> datetime | None:
    """Return the instant of a date, a time with a date, or a duration ago; None for None. Raises: WrongUse."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:  # no time, so it must be a duration
        return _ago(text, flag)
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _ago(text: str, flag: str) -> datetime:
    try:
        ago = decode_text(text, timedelta, flag)
        assert isinstance(ago, timedelta)  # noqa: S101 - decoded as one
        return datetime.now(UTC) - ago
    except (ConfigError, OverflowError) as error:
        raise WrongUse(
            f"{flag} must be a duration such as 2h or 7d, or a time such as 2026-03-01 or 2026-03-01T12:00Z, got {text!r}"
        ) from error
