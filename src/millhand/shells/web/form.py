"""What a browser or a program sends with a change, and where the browser goes afterwards."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from urllib.parse import parse_qs, quote, unquote

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from millhand.core.number_text import counted
from millhand.shells.web.change import Changed

FIELDS_MAX = 1_000
ID_MAX = 2**63 - 1
# A job's args are the largest field. The access check refuses a longer body before it is read.
BODY_BYTES_MAX = 4 * 1024 * 1024
NOTICE_COOKIE = "millhand_notice"
_NOTICE_LENGTH_MAX = 500
_SHOWN_MAX = 40  # of a wrong value in an error
_JSON = "application/json"
_PAST = {
    "cancel": "Cancelled",
    "collect": "Prepared",
    "copy": "Inserted",
    "delete": "Deleted",
    "hold": "Held",
    "insert": "Inserted",
    "pause": "Paused",
    "release": "Released",
    "remove": "Removed",
    "reset": "Reset",
    "restore": "Inserted a restore:",
    "resume": "Resumed",
    "retry": "Retried",
    "run": "Inserted",
    "set": "Set",
    "snooze": "Snoozed",
    "start": "Started",
    "stop": "Stopped",
}


async def read_form(request: Request) -> Mapping[str, Sequence[str]]:
    """
    Return the fields of a form, or of a JSON object, each as a list of texts. A JSON value that is no text stays JSON.

    Raises: ValueError for a body of another shape.
    """
    body = await request.body()
    if request.headers.get("content-type", "").partition(";")[0].strip() == _JSON:
        return _fields_of_json(body)
    return parse_qs(body.decode(errors="replace"), keep_blank_values=True, max_num_fields=FIELDS_MAX)


def _fields_of_json(body: bytes) -> Mapping[str, Sequence[str]]:
    try:
        fields = msgspec.json.decode(body or b"{}", type=dict[str, msgspec.Raw])
    except msgspec.MsgspecError as error:
        raise ValueError(f"request must be a JSON object, got {error}") from error
    return {name: _texts(raw) for name, raw in fields.items()}


def _texts(raw: msgspec.Raw) -> list[str]:
    value = msgspec.json.decode(raw)
    if isinstance(value, list):
        return [item if isinstance(item, str) else msgspec.json.encode(item).decode() for item in value]
    if value is None:
        return []
    return [value if isinstance(value, str) else bytes(raw).decode()]


def whole_number(name: str, text: str, *, maximum: int, minimum: int = 1) -> int:
    """Return the number from `minimum` to `maximum` that the text of a field is. Raises: ValueError."""
    is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(maximum))
    if not is_number or not minimum <= int(text) <= maximum:
        raise ValueError(f"{name} must be a number from {minimum} to {maximum:,}, got {text[:_SHOWN_MAX]!r}")
    return int(text)


def seconds_of(text: str) -> timedelta:
    """Return the duration in a field `seconds`: up to a year. Raises: ValueError."""
    return timedelta(seconds=whole_number("seconds", text, maximum=366 * 86_400))


def decimal_seconds(name: str, text: str) -> float:
    """Return the seconds, perhaps with a part of one, that the text of a field is. Raises: ValueError."""
    if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,6})?", text):
        raise ValueError(f"{name} must be a number of seconds, got {text!r}")
    return float(text)


def local_path(text: str) -> str | None:
    """Return a path of the page, or None for anything that a browser might take for another site."""
    if not text.startswith("/") or text.startswith(("//", "/\\")) or not text.isprintable() or "\\" in text:
        return None
    return text


def notice_of(done: Changed, database: str = "") -> str:
    """Return one sentence for the person who made a change, in one of several databases."""
    subject = done.subject
    if subject.startswith("selected "):
        subject = counted(done.num_jobs, subject.removeprefix("selected ").removesuffix("s"))
    num_stopping = len(done.stopping)
    past = "Asked to stop:" if num_stopping and num_stopping == done.num_jobs else _PAST[done.action]
    text = f"{past} {subject}{f' in {database}' if database else ''}."
    if 0 < num_stopping < done.num_jobs:
        text += f" Running, and asked to stop: {num_stopping:,} of them."
    if done.skipped:
        text += f" Left {len(done.skipped):,} as they were: {next(iter(done.skipped.values()))}"
    return text


def encode_notice(text: str) -> str:
    """Return a notice as the value of a cookie."""
    return quote(text[:_NOTICE_LENGTH_MAX])


def decode_notice(value: str | None) -> str | None:
    """Return the notice in a cookie."""
    return unquote(value)[:_NOTICE_LENGTH_MAX] if value else None


def set_notice(response: Response, text: str, prefix: str) -> None:
    """Keep a notice for the next page below `prefix`: a page of another database does not show it."""
    response.set_cookie(
        NOTICE_COOKIE, encode_notice(text), max_age=60, path=f"{prefix}/", httponly=True, samesite="lax"
    )


def clear_notice(response: Response, prefix: str) -> None:
    response.delete_cookie(NOTICE_COOKIE, path=f"{prefix}/", httponly=True, samesite="lax")
