"""Stack traces of Python and Go, split into the frames of the application and those of its libraries."""

from __future__ import annotations

import re

import msgspec

# `  File "/app/shop/jobs.py", line 48, in send`
_PYTHON_FRAME = re.compile(r'^\s*File "(?P<path>[^"]*)", line \d+')
# `\t/app/shop/jobs.go:48 +0x1d`; the line before it names the function.
_GO_FRAME = re.compile(r"^\t(?P<path>/\S+\.go):\d+")
_LIBRARY = re.compile(
    r"(^|/)(site-packages|dist-packages|lib/python3[^/]*|go/pkg/mod|go/src|usr/lib|millhand|importlib)/"
    r"|^<frozen |/asyncio/|/concurrent/futures/|^<string>$|/vendor/"
)


class TraceLines(msgspec.Struct, frozen=True):
    """Consecutive lines of a trace. `is_own` says that they are of the application, not of a library."""

    text: str
    is_own: bool


def split_trace(trace: str) -> tuple[TraceLines, ...]:
    """Return the lines of a trace in their order, in groups of the application's frames and of all other lines."""
    groups: list[tuple[bool, list[str]]] = []
    is_own = False
    lines = trace.splitlines()
    for number, line in enumerate(lines):
        if (frame := _PYTHON_FRAME.match(line)) or (frame := _GO_FRAME.match(line)):
            is_own = _LIBRARY.search(frame["path"]) is None
        elif number + 1 < len(lines) and (following := _GO_FRAME.match(lines[number + 1])):
            is_own = _LIBRARY.search(following["path"]) is None
        elif not line.startswith((" ", "\t")):
            is_own = False
        if not groups or groups[-1][0] != is_own:
            groups.append((is_own, []))
        groups[-1][1].append(line)
    return tuple(TraceLines("\n".join(group), is_own) for is_own, group in groups)
