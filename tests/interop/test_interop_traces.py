"""A trace goes on from River with otelriver in Go to Millhand, and back."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from go_build import built
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext
from river_program import GENEROUS_SECONDS

from millhand import Client, Config, InsertOpts, Job, Workers
from millhand.contrib.opentelemetry import OpenTelemetry
from millhand.tracing import Propagation

SOURCES = Path(__file__).parent / "otelriver"


@dataclass(frozen=True)
class PyEcho:
    kind: ClassVar[str] = "py_echo"


@dataclass(frozen=True)
class GoEcho:
    kind: ClassVar[str] = "go_echo"


class Spans:
    """The spans of Millhand, in memory."""

    def __init__(self, propagation: Propagation) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.middleware = OpenTelemetry(tracer_provider=provider, propagation=propagation)

    def only(self) -> ReadableSpan:
        [span] = self._exporter.get_finished_spans()
        return span


def ids(context: SpanContext | None) -> str:
    return "" if context is None else f"{context.trace_id:032x}-{context.span_id:016x}"


@pytest.fixture
async def otelriver(postgres_url: str, schema: str) -> Any:
    """Run the Go program in a mode, and return its spans by name."""
    program = await asyncio.to_thread(built, "otelriver", SOURCES)
    separator = "&" if "?" in postgres_url else "?"
    environment = {**os.environ, "DATABASE_URL": f"{postgres_url}{separator}search_path={schema}"}

    async def run(mode: str) -> dict[str, dict[str, Any]]:
        process = await asyncio.create_subprocess_exec(
            program, mode, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await asyncio.wait_for(process.communicate(), 2 * GENEROUS_SECONDS)
        assert process.returncode == 0, err.decode()
        return {span["name"]: span for span in map(json.loads, out.splitlines())}

    return run


@pytest.mark.parametrize("propagation", ["link", "child"])
async def test_trace_of_a_go_insert_goes_on_in_python(
    otelriver: Any, propagation: Propagation, postgres_url: str, schema: str
) -> None:
    """An attempt here links to the very span of the insert in Go; with `child` it is in that span's trace."""
    spans, workers = Spans(propagation), Workers()

    @workers.add()
    async def echo(job: Job[PyEcho]) -> None: ...

    config = Config(
        workers=workers, middleware=[spans.middleware], queues={"py": 1}, schema=schema, leader_election=False
    )
    insert = (await otelriver("insert"))["river.insert_many"]["ids"]
    async with Client(postgres_url, config) as client:
        with client.subscribe() as events:
            await asyncio.wait_for(anext(events), GENEROUS_SECONDS)

    span = spans.only()
    assert [ids(link.context) for link in span.links] == [insert]
    assert ids(span.parent) == (insert if propagation == "child" else "")


async def test_trace_of_a_python_insert_goes_on_in_go(otelriver: Any, postgres_url: str, schema: str) -> None:
    """The attempt in Go links to the very span of the insert here."""
    spans = Spans("link")
    async with Client(postgres_url, Config(middleware=[spans.middleware], schema=schema)) as client:
        await client.insert(GoEcho(), InsertOpts(queue="go"))

    work = (await otelriver("work"))["river.work"]

    assert work["links"] == [ids(spans.only().get_span_context())]
