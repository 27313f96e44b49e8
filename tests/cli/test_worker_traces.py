"""Claims about the traces of `millhand worker --otel`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from factory import insert_job
from millhand.db.driver.asyncpg import AsyncpgDriver
from user_programs import run_python

pytestmark = pytest.mark.slow

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SETTINGS = """
[database]
schema = "{schema}"
[heartbeat]
enabled = false
[log]
format = "json"
[otel]
propagation = "child"
style = "otelriver"
"""


@pytest.mark.usefixtures("worker_modules")
@pytest.mark.parametrize("num_processes", [1, 2])
async def test_worker_sends_its_spans_as_the_variables_of_opentelemetry_say(
    num_processes: int,
    empty_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    postgres_url: str,
    schema_driver: AsyncpgDriver,
) -> None:
    """With `--otel`, each process exports its spans, with style and propagation of `[otel]`; the log has their ids."""
    (empty_directory / "millhand.toml").write_text(SETTINGS.format(schema=schema_driver.schema))
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    await insert_job(schema_driver.pool, kind="noop", metadata=f'{{"traceparent": "00-{TRACE}-{SPAN}-01"}}')
    arguments = ["-m", "millhand", "worker", "shop:config", "--until-empty", "--otel"]

    ended = await run_python(
        [*arguments, "--processes", str(num_processes)], database_url=postgres_url, directory=empty_directory
    )

    assert (ended.code, ended.stderr) == (0, "")
    [completed] = [line for line in ended.stdout.splitlines() if '"message":"job completed"' in line]
    [span] = re.findall(r'"trace_id":"(\w+)","span_id":"(\w+)","trace_flags":"0[13]"', completed)
    assert span[0] == TRACE
    assert '"name": "river.work"' in ended.stdout
    assert f'"span_id": "0x{span[1]}"' in ended.stdout
    assert f'"parent_id": "0x{SPAN}"' in ended.stdout


@pytest.mark.usefixtures("worker_modules")
async def test_worker_without_an_exporter_does_not_start(
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch, postgres_url: str, schema_driver: AsyncpgDriver
) -> None:
    """The error names the flag, the package to install and the variable; the exit code is that of a wrong setting."""
    (empty_directory / "millhand.toml").write_text(SETTINGS.format(schema=schema_driver.schema))
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")

    ended = await run_python(
        ["-m", "millhand", "worker", "shop:config", "--otel", "--log-format", "text"],
        database_url=postgres_url,
        directory=empty_directory,
    )

    assert ended.code == 2
    assert ended.stderr == (
        "error: --otel: enabled requires the exporter 'zipkin' of OpenTelemetry, got none; "
        "pip install opentelemetry-exporter-zipkin, or set OTEL_TRACES_EXPORTER\n"
    )
