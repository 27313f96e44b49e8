"""Claims about `./just demo --web`, as a person on call meets it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from user_programs import PROJECT, environment

GENEROUS_SECONDS = 180.0  # a charge is discarded after half a minute


class Demo:
    """A demo that runs, its output so far, and its API."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.text = ""
        self.api = httpx.AsyncClient()

    async def read_until(self, pattern: str) -> re.Match[str]:
        """Return the match of a pattern when it is in the output."""
        assert self.process.stdout is not None
        while not (match := re.search(pattern, self.text)):
            line = await self.process.stdout.readline()
            assert line, self.text
            self.text += line.decode()
        return match

    async def until(self, path: str, condition: Callable[[Any], bool]) -> Any:
        """Return an answer of the API when it fulfils a condition, which is checked at each line of the live events."""
        async with self.api.stream("GET", "/live", timeout=None) as events:
            lines = events.aiter_lines()
            while not condition(answer := (await self.api.get(f"/api/v1/{path}")).raise_for_status().json()):
                await anext(lines)
        return answer


@pytest.fixture
async def demo() -> AsyncIterator[Demo]:
    """A demo with its page; Ctrl-C ends it and the worker."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "examples.demo", "--web", "--port", "0",
        cwd=PROJECT, env=environment(), start_new_session=True,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    demo = Demo(process)
    try:
        async with asyncio.timeout(GENEROUS_SECONDS):
            url = await demo.read_until(r"Open (http://127\.0\.0\.1:\d+)/login\?token=(\S+)")
            demo.api.base_url = url[1]
            demo.api.headers["Authorization"] = f"Bearer {url[2]}"
            yield demo
            os.killpg(process.pid, signal.SIGINT)
            await process.communicate()
    finally:
        await demo.api.aclose()
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
async def test_demo_page_shows_an_outage_and_its_end(demo: Demo) -> None:
    """
    Charges fail and are discarded, reports wait for a slot, a queue has no client, and a worker leads.

    The first overview has the failures of the minutes before. When the provider is back, a discarded
    charge that is retried succeeds, and its receipt is sent.
    """
    first = await demo.until("", lambda _: True)
    failing = await demo.until("queues/default", lambda page: page["queue"]["num_retryable"] > 3)
    queues = await demo.until(
        "queues",
        lambda page: [one["limit"] for one in page["queues"] if one["name"] == "reports"] == ["slots"],
    )
    fleet = await demo.until("fleet", lambda page: all(one["leader_id"] for one in page["leaders"]))
    mail = await demo.until("queues/mail", lambda _: True)
    discarded = await demo.until("jobs?q=state:discarded", lambda page: page["jobs"])
    assert demo.process.stdin is not None
    demo.process.stdin.write(b"\n")
    await demo.read_until("payment provider is back")
    job = f"jobs/{discarded['jobs'][0]['id']}"
    (await demo.api.post(f"/api/v1/{job}/retry")).raise_for_status()
    await demo.until(job, lambda page: page["job"]["state"] == "completed")
    await demo.until("queues/mail", lambda page: any(job["state"] == "completed" for job in page["newest"]))

    findings = " ".join(finding["text"] for finding in first["verdict"]["findings"])
    assert first["history"]["total"]["discarded"] > 0
    assert [error["kind"] for error in first["errors"]] == ["charge_card"]
    assert "history ends" not in findings
    assert {job["state"] for job in failing["newest"] if job["kind"] == "charge_card"} >= {"retryable"}
    assert {one["name"]: one["limit"] for one in queues["queues"]} == {
        "default": None,
        "mail": None,
        "partner": "no_client",
        "reports": "slots",
    }
    assert [one["kind"] for one in fleet["unworked_kinds"]] == ["send_receipt"]
    assert mail["newest"] == []
