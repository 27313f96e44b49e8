"""Differences between expected jobs and existing ones, formatted for error messages."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from millhand.core.job import JobRow, JobState

NUM_SHOWN = 5  # existing jobs in a message
# How many characters of a long value are shown, and how many of them come before the first difference.
TEXT_MAX, TEXT_BEFORE = 100, 20

_NOTHING = object()


class FieldDiff(NamedTuple):
    """One place in a row, such as `args.customer.name`, with the expected and the actual value."""

    place: str
    wanted: object
    got: object

    def __str__(self) -> str:
        wanted, got = _texts(self.wanted, self.got)
        return f"{self.place}: wanted {wanted}, got {got}"


class ExpectedJob(NamedTuple):
    """A kind and the expected values of columns."""

    kind: str
    columns: Mapping[str, object]

    def __str__(self) -> str:
        return " ".join(
            [repr(self.kind), *(f"{name}={_text(value)}" for name, value in self.columns.items())]
        )


def diff_job(job: JobRow, wanted: Mapping[str, object]) -> list[FieldDiff]:
    return [diff for name, value in wanted.items() for diff in _compare(name, value, getattr(job, name))]


def format_nearest(found: Sequence[JobRow], wanted: Mapping[str, object]) -> str:
    compared = sorted(((diff_job(job, wanted), job) for job in found), key=lambda pair: len(pair[0]))
    lines = [
        line
        for different, job in compared[:NUM_SHOWN]
        for line in (f"  {format_job(job)}", *(f"      {one}" for one in different))
    ]
    return "\n".join([*lines, *_more(len(found))])


def format_jobs(found: Sequence[JobRow]) -> str:
    return "\n".join([*(f"  {format_job(job)}" for job in found[:NUM_SHOWN]), *_more(len(found))])


def format_sequence_diff(found: Sequence[JobRow], wanted: Sequence[ExpectedJob]) -> str:
    """Return two sequences line by line: `!` marks a different job, `-` a missing and `+` an unexpected one."""
    matcher = difflib.SequenceMatcher(
        None, [one.kind for one in wanted], [job.kind for job in found], autojunk=False
    )
    lines: list[str] = []
    for tag, first, last, first_found, last_found in matcher.get_opcodes():
        if tag == "equal":
            pairs = zip(wanted[first:last], found[first_found:last_found], strict=True)
            lines += [line for one, job in pairs for line in _format_pair(one, job)]
        else:
            lines += [f"- {one}" for one in wanted[first:last]]
            lines += [f"+ {format_job(job)}" for job in found[first_found:last_found]]
    return "\n".join(lines)


def format_job(job: JobRow) -> str:
    return f"job {job.id}, {job.kind!r} {_text(job.args)}, {job.state.value} in queue {job.queue!r}"


def _format_pair(wanted: ExpectedJob, job: JobRow) -> Iterator[str]:
    different = diff_job(job, wanted.columns)
    yield f"{'! ' if different else '  '}{format_job(job)}"
    yield from (f"      {one}" for one in different)


def _more(num_found: int) -> Iterator[str]:
    if num_found > NUM_SHOWN:
        yield f"  and {num_found - NUM_SHOWN:,} more"


def _compare(place: str, wanted: Any, got: Any) -> Iterator[FieldDiff]:  # noqa: ANN401 - JSON
    if isinstance(wanted, Mapping) and isinstance(got, Mapping):
        for name in dict.fromkeys([*wanted, *got]):
            yield from _compare(f"{place}.{name}", wanted.get(name, _NOTHING), got.get(name, _NOTHING))
    elif isinstance(wanted, list | tuple) and isinstance(got, list | tuple) and len(wanted) == len(got):
        for index, pair in enumerate(zip(wanted, got, strict=True)):
            yield from _compare(f"{place}[{index}]", *pair)
    elif not (wanted == got and isinstance(wanted, bool) == isinstance(got, bool)):
        yield FieldDiff(place, wanted, got)


def _texts(wanted: object, got: object) -> tuple[str, str]:
    """Return both values as texts, cut to the part around the first difference."""
    texts = [_whole(wanted), _whole(got)]
    if max(map(len, texts)) <= TEXT_MAX:
        return texts[0], texts[1]
    common = next((index for index, pair in enumerate(zip(*texts, strict=False)) if len(set(pair)) > 1), 0)
    begin = max(common - TEXT_BEFORE, 0)
    cut = [("…" if begin else "") + text[begin : begin + TEXT_MAX] for text in texts]
    return tuple(  # type: ignore[return-value]
        short + ("…" if begin + TEXT_MAX < len(text) else "") for short, text in zip(cut, texts, strict=True)
    )


def _text(value: object) -> str:
    whole = _whole(value)
    return whole if len(whole) <= TEXT_MAX else f"{whole[:TEXT_MAX]}…"


def _whole(value: object) -> str:
    if value is _NOTHING:
        return "nothing"
    if isinstance(value, JobState):
        return value.value
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError:  # an instant, or a unique key
        return repr(value)
