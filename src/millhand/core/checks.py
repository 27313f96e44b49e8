"""Checks that settings, options and filters share."""

from __future__ import annotations

from collections.abc import Callable

from millhand.core.errors import ConfigError


def check_number(
    name: str, number: object, largest: int, error: Callable[[str], Exception] = ConfigError
) -> None:
    """Raise `error` unless a number is an integer from 1 to `largest`."""
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= largest:
        raise error(f"{name} must be between 1 and {largest:,}, got {number!r}")


def check_lists(filters: object, *names: str) -> None:
    """Raise TypeError if one of these filters is a text in place of a list."""
    for name in names:
        if isinstance(text := getattr(filters, name), str):  # it is a sequence of its letters too
            raise TypeError(f"{name} must be a list, got {text!r}; write [{text!r}]")


def check_instants(filters: object, *names: str) -> None:
    """Raise ValueError if one of these filters is an instant without time zone."""
    for name in names:
        at = getattr(filters, name)
        if at is not None and at.tzinfo is None:
            raise ValueError(f"{name} must be an aware instant, got {at!r}; write datetime(…, tzinfo=UTC)")
