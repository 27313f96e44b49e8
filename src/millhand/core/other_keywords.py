"""What to write in place of keywords that other job systems have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NoReturn, TypedDict

_MORE_ATTEMPTS, _LATER = "max_attempts=…", "scheduled_at=datetime.now(UTC) + timedelta(…)"
_RETRY, _TIMEOUT = "retry=…", "timeout=timedelta(seconds=…)"
_OPTIONS: Final[Mapping[str, str]] = {
    **{
        name: f"{name}=…"
        for name in ("max_attempts", "metadata", "pending", "priority", "queue", "tags", "unique")
    },
    **dict.fromkeys(("max_retries", "max_tries", "retries"), _MORE_ATTEMPTS),
    **dict.fromkeys(("eta", "scheduled_at", "schedule_at", "run_at", "run_after"), "scheduled_at=…"),
    **dict.fromkeys(("countdown", "delay", "schedule_in", "defer_by"), _LATER),
    "queue_name": "queue=…",
}
_PARAMETERS: Final[Mapping[str, str]] = {
    "name": "kind=…",
    **dict.fromkeys(("time_limit", "soft_time_limit", "job_timeout"), _TIMEOUT),
    **dict.fromkeys(("default_retry_delay", "retry_backoff", "retry_policy", "retry_strategy"), _RETRY),
}


class NoKeywords(TypedDict):
    """The type of `**other` in a function that explains other keywords: type checkers refuse each of them."""


def refuse_insert_keywords(names: Iterable[str]) -> NoReturn:
    """Raise TypeError with the options to write in place of keywords of `insert`."""
    names = list(names)
    raise TypeError(_text("insert", names, _opts(names)))


def refuse_add_keywords(names: Iterable[str]) -> NoReturn:
    """Raise TypeError with the parameters to write in place of keywords of `workers.add`."""
    names = list(names)
    opts = _opts(names)
    parts = [*_unique(names, _PARAMETERS), *([f"insert_opts={opts}"] if opts else [])]
    in_class = "; in an args class, write `insert_opts: ClassVar[InsertOpts] = …`" if opts else ""
    raise TypeError(_text("workers.add", names, ", ".join(parts)) + in_class)


def _opts(names: Iterable[str]) -> str:
    options = _unique(names, _OPTIONS)
    return f"InsertOpts({', '.join(options)})" if options else ""


def _unique(names: Iterable[str], known: Mapping[str, str]) -> list[str]:
    return list(dict.fromkeys(known[name] for name in names if name in known))


def _text(called: str, names: Iterable[str], remedy: str) -> str:
    unknown = ", ".join(map(repr, names))
    return f"{called} must get its own parameters, got {unknown}" + (f"; write {remedy}" if remedy else "")
