"""A small run of the benchmark against other queues, without those that need an environment: that it runs, not how fast."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SMALL = ("--quick", "--rounds", "0", "--systems", "millhand", "baseline", "--only", "insert", "drain", "open")
# Without those on other Pythons, which need environments.
KINDS = ("--kinds", "defaults", "tuned", "inline", "no search indexes")
TIMEOUT_SECONDS = 180.0


@pytest.mark.slow
async def test_peers_benchmark_writes_its_tables_and_a_plot(tmp_path: Path) -> None:
    """A small run writes each table between the marks of a document and draws the plot beside it."""
    document = tmp_path / "benchmarks" / "figures.md"
    for name in ("benchmarks", "docs/assets"):
        (tmp_path / name).mkdir(parents=True)
    document.write_text(
        "before\n<!-- peers: written by benchmarks/bench_peers.py -->\n<!-- end of peers -->\nafter\n"
    )
    program = str(PROJECT / "benchmarks" / "bench_peers.py")

    process = await asyncio.create_subprocess_exec(
        sys.executable, program, *SMALL, *KINDS, "--keep", str(tmp_path), "--write", str(document),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(TIMEOUT_SECONDS):
        _, errors = await process.communicate()

    text = document.read_text()
    assert process.returncode == 0, errors.decode()
    assert "failed:" not in text
    assert (text.startswith("before"), text.endswith("after\n")) == (True, True)
    assert re.findall(r"^\| ([^|]*) \|.*\n\| ---", text, re.MULTILINE) == [
        "target", "drain, one process", "drain", "drain", "millhand, defaults ÷", "insert",
        "beside an open transaction", "system", "system",
    ]  # fmt: skip
    assert re.findall(r"^\| ((?:millhand|baseline), [^|÷]*) \|", text, re.MULTILINE) == [
        "millhand, defaults", "millhand, tuned", "millhand, no search indexes", "baseline, inline", "baseline, tuned",
        "baseline, tuned",
        "millhand, defaults", "millhand, no search indexes", "baseline, tuned",
        "millhand, tuned",
    ]  # fmt: skip
    assert text.count("![") == 3
    assert (tmp_path / "docs" / "assets" / "peers.svg").read_text().count("<rect") == 1 + 5
    assert (tmp_path / "docs" / "assets" / "peers_cost.svg").read_text().count("<circle") == 4
    assert (tmp_path / "docs" / "assets" / "peers_growth.svg").exists()
