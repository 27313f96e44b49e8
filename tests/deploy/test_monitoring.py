"""The alert rules and the dashboard: Prometheus accepts them, they name metrics that exist, and find what they look for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

import dashboard
from free_ports import free_ports
from millhand.core.metrics.definitions import METRICS, MetricType
from required import missing
from served import served, until
from user_programs import fresh_database

HERE = Path(__file__).parent
MONITORING = HERE.parents[1] / "deploy" / "monitoring"
RULES = MONITORING / "millhand.rules.yml"
GENEROUS_SECONDS = 120.0
SCRAPE = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs:
  - job_name: millhand
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""
JOBS = """
from dataclasses import dataclass
from typing import ClassVar

from millhand import Config, Job, Workers

workers = Workers()


@dataclass(frozen=True)
class Send:
    kind: ClassVar[str] = "send"
    fails: bool = False


@workers.add()
async def send(job: Job[Send]) -> None:
    if job.args.fails:
        raise ConnectionError("no route to the mail server")
    await job.client.insert(Send(fails=True)) if job.attempt == 1 and not job.args.fails else None


config = Config(workers=workers, queues={"default": 10})
"""


def names_of(text: str) -> set[str]:
    """Return the metrics that queries name."""
    series = {
        f"{metric.name}{part}": metric.name
        for metric in METRICS
        for part in (("_bucket", "_sum", "_count") if metric.type is MetricType.HISTOGRAM else ("",))
    }
    found = set(re.findall(r"(?<![:\w])millhand_\w+", text))
    assert found <= set(series), found - set(series)
    return {series[name] for name in found}


def test_rules_and_dashboard_name_metrics_that_exist() -> None:
    """No rule or panel queries a metric that Millhand does not expose."""
    assert len(names_of(RULES.read_text())) > 10
    assert len(names_of(dashboard.text())) > 15


def test_dashboard_is_written_from_its_panels() -> None:
    """The file that Grafana imports is what the program writes."""
    assert dashboard.FILE.read_text() == dashboard.text(), "run: python docs/.writers/dashboard.py"


@pytest.mark.slow
def test_rules_alert_when_they_should() -> None:
    """Prometheus' own tests of rules pass: what each alert waits for, says and labels, and what alerts nobody."""
    check = promtool("check", "rules", "--lint=all", "--lint-fatal", RULES.name)
    played = promtool("test", "rules", "millhand.rules.test.yml")

    assert check.returncode == 0, check.stdout + check.stderr
    assert played.returncode == 0, played.stdout + played.stderr


@pytest.mark.slow
async def test_each_panel_shows_data_of_a_worker(postgres_server_url: str, tmp_path: Path) -> None:
    """Prometheus scrapes a worker with two processes, and each query of each panel finds a series there."""
    (tmp_path / "mail.py").write_text(JOBS)
    observed, listening = free_ports(2)
    (tmp_path / "prometheus.yml").write_text(SCRAPE.format(rules=RULES, port=observed))
    worker = ["-m", "millhand", "worker", "mail:config", "--processes", "2"]
    insert = ["-m", "millhand", "job", "insert", "send", '{"fails": false}']
    async with fresh_database(postgres_server_url) as url:
        variables = {"DATABASE_URL": url, "MILLHAND_OBSERVE_LISTEN": f"127.0.0.1:{observed}"}
        async with served(worker, tmp_path, **variables) as process, prometheus(tmp_path, listening) as ask:
            await process.found('"worker started"')

            async def empty_panels() -> list[str]:
                async with served(insert, tmp_path, DATABASE_URL=url) as inserted:
                    assert await inserted.ended() == 0, inserted.text
                return [query for query in queries() if not await ask(query)]

            async with asyncio.timeout(GENEROUS_SECONDS):
                left = await until(empty_panels, lambda empty: not empty)
            # A scrape that came too late leaves a gap, in which an alert is pending.
            alerts = 'ALERTS{alertname=~"MillhandNoLeader|MillhandDatabaseUnreachable"}'
            pending = await until(lambda: ask(alerts), lambda found: not found)

    assert left == []
    assert pending == []


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run promtool beside the rules."""
    return subprocess.run(
        [installed("promtool"), *arguments], capture_output=True, check=False, cwd=MONITORING, text=True
    )


def installed(name: str) -> str:
    """Return the path of a program of Debian's package."""
    program = shutil.which(name)
    return program or missing("prometheus", f"there is no `{name}` on the PATH")


def queries() -> list[str]:
    """Return the query of each line of each panel, for all jobs, instances and queues."""
    values = {"$job": ".*", "$instance": ".*", "$database": ".*", "$queue": ".*", "$__rate_interval": "1m"}
    found = [query for panel in dashboard.PANELS for _, query in panel.lines]
    for name, value in values.items():
        found = [query.replace(name, value) for query in found]
    return found


@contextlib.asynccontextmanager
async def prometheus(directory: Path, port: int) -> AsyncIterator[Any]:
    """Run Prometheus, and yield a function that returns the series of a query."""
    options = [
        f"--config.file={directory}/prometheus.yml",
        f"--storage.tsdb.path={directory}/series",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    process = await asyncio.create_subprocess_exec(
        installed("prometheus"), *options, stdout=sys.stderr, stderr=sys.stderr, cwd=directory
    )

    def asked(query: str) -> list[dict[str, Any]]:
        address = f"http://127.0.0.1:{port}/api/v1/query?{urlencode({'query': query})}"
        with urlopen(address) as answer:
            result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        # A quantile of nothing is no number.
        return [one for one in result if one["value"][1] != "NaN"]

    async def ask(query: str) -> list[dict[str, Any]]:
        return await asyncio.to_thread(asked, query)

    async def answers() -> bool:
        with contextlib.suppress(OSError):
            await ask("vector(1)")
            return True
        return False

    try:
        await until(answers, bool)
        yield ask
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()
