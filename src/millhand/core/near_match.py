"""The known name that an unknown one was meant to be."""

from __future__ import annotations

from collections.abc import Collection


def near_match(word: str, known: Collection[str]) -> str | None:
    """Return the known name that `word` was meant to be, if there is one."""
    import difflib  # noqa: PLC0415 - for errors only

    near = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return near[0] if near else None
