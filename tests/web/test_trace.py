from __future__ import annotations

import pytest

from millhand.web.trace import split_trace

PYTHON = """\
Traceback (most recent call last):
  File "/app/.venv/lib/python3.13/site-packages/httpx/_transports/default.py", line 101, in map_errors
    yield
  File "/app/shop/jobs.py", line 48, in send
    response = await http.post(url)
               ^^^^^^^^^^^^^^^^^^^^
  File "/usr/lib/python3.13/asyncio/tasks.py", line 507, in wait_for
    return await fut
httpx.ReadTimeout: no answer"""
GO = """\
goroutine 21 [running]:
runtime/debug.Stack()
\t/usr/local/go/src/runtime/debug/stack.go:26 +0x5e
main.(*Worker).Work(0xc0000, {0x7f, 0xc1})
\t/app/jobs/send.go:31 +0x1d
github.com/riverqueue/river.(*executor).execute()
\t/root/go/pkg/mod/github.com/riverqueue/river@v0.51.2/job_executor.go:204 +0x1f"""


@pytest.mark.parametrize(
    ("trace", "own"),
    [
        (PYTHON, ["\n".join(PYTHON.splitlines()[3:6])]),
        (GO, ["main.(*Worker).Work(0xc0000, {0x7f, 0xc1})\n\t/app/jobs/send.go:31 +0x1d"]),
        ("", []),
        ("nothing like a trace\n  at all", []),
    ],
)
def test_frames_of_the_application_are_told_from_those_of_libraries(trace: str, own: list[str]) -> None:
    """The application's frames are found in traces of Python and Go, and no line is lost."""
    groups = split_trace(trace)

    assert [group.text for group in groups if group.is_own] == own
    assert "\n".join(group.text for group in groups) == trace
