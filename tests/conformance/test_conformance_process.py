"""The adapter as the harness starts it: a process that reads and writes lines."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from factory import GENEROUS_SECONDS
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.store.job_list import JobListParams, job_list
from repeats import first_of

COMMAND = (sys.executable, "-m", "river_conformance")


async def started(**environment: str) -> asyncio.subprocess.Process:
    given = {f"RIVER_CONFORMANCE_{name}": value for name, value in environment.items()}
    given["PYTHONPATH"] = str(Path(__file__).parents[1])
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *COMMAND, stdin=pipe, stdout=pipe, stderr=pipe, env={**os.environ, **given}
    )


def line(number: int, method: str, /, **params: Any) -> bytes:
    return json.dumps({"id": number, "jsonrpc": "2.0", "method": method, "params": params}).encode() + b"\n"


@pytest.mark.slow
async def test_adapter_answers_each_line_in_order_until_the_input_ends(
    schema_driver: AsyncpgDriver, postgres_url: str
) -> None:
    """The process has the name that the harness gives, writes nothing else, and ends with status 0."""
    process = await started(
        APPLICATION_NAME="river-conformance-python-1", DATABASE_KIND="postgres", DATABASE_URL=postgres_url
    )
    requests = [
        line(1, "handshake"),
        line(2, "insert", schema=schema_driver.schema),
        b"no JSON\n",
        line(4, "tx_begin", handle="h"),
        line(5, "get", schema=schema_driver.schema, id=1),
    ]

    output, errors = await asyncio.wait_for(process.communicate(b"".join(requests)), GENEROUS_SECONDS)

    responses = [json.loads(text) for text in output.splitlines()]
    assert [response["id"] for response in responses] == [1, 2, None, 4, 5]
    assert responses[0]["result"]["application_name"] == "river-conformance-python-1"
    assert responses[1]["result"] == responses[4]["result"]
    assert responses[2]["error"]["code"] == -32700
    assert (errors, process.returncode) == (b"", 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"DATABASE_URL": ""},
            "RIVER_CONFORMANCE_DATABASE_URL must be the URL of a database of PostgreSQL, got none",
        ),
        (
            {"DATABASE_URL": "postgresql://h/d", "PROFILE": "sqlite-runtime-v1"},
            (
                "RIVER_CONFORMANCE_PROFILE must be insert-only-v1 or postgres-full-v1, or empty for all methods, "
                "got 'sqlite-runtime-v1'"
            ),
        ),
    ],
)
async def test_adapter_with_a_wrong_setting_ends_with_its_error(given: dict[str, str], message: str) -> None:
    """Without the URL of a database, or for an unknown profile, the process ends at once and names the variable."""
    process = await started(**given)

    output, errors = await asyncio.wait_for(process.communicate(), GENEROUS_SECONDS)

    assert (output, errors.decode().strip(), process.returncode) == (b"", f"error: {message}", 1)


@pytest.mark.slow
@pytest.mark.parametrize("number", first_of(signal.SIGTERM, signal.SIGINT))
async def test_adapter_stops_its_client_when_a_signal_arrives(
    schema_driver: AsyncpgDriver, postgres_url: str, number: signal.Signals
) -> None:
    """A signal ends the process although its input is open; the running job is available again, the transaction gone."""
    separator = "&" if "?" in postgres_url else "?"
    process = await started(
        DATABASE_URL=f"{postgres_url}{separator}options=-csearch_path%3D{schema_driver.schema}"
    )
    assert process.stdin is not None
    assert process.stdout is not None
    responses = []
    async with asyncio.timeout(GENEROUS_SECONDS):
        for request in (
            line(1, "start", client_id="signalled", queue="default"),
            line(2, "tx_begin", handle="h"),
            line(3, "tx_insert", handle="h", job={}),
            line(4, "insert", behavior="cooperative_cancel"),
            line(5, "wait", id=2, states=["running"]),
        ):
            process.stdin.write(request)
            responses.append(json.loads(await process.stdout.readline()))

        process.send_signal(number)

        assert await process.wait() == 1
    assert ["result" in one for one in responses] == [True] * 5, responses
    rows = await schema_driver.pool.run(job_list(JobListParams()))
    assert [{"attempt": row.attempt, "id": row.id, "state": row.state} for row in rows] == [
        {"attempt": 0, "id": 2, "state": "available"}
    ]
