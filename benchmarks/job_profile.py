"""
Profile a worker that drains no-op jobs: the CPU time of each stage of a job.

    python benchmarks/job_profile.py --write benchmarks/results.md

The worker's process is sampled by its own CPU time (`job_profile_child.py`), so other programs hardly matter. The total
is the kernel's figure. `--write` puts the table into a document and the drawing into `docs/assets/profile.svg`; the
most expensive functions are printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contender import DEFAULTS, WIDE, Contender, about_machine, log, server_url
from document import put, table
from job_profile_child import STAGES
from measurements import measure_drain
from systems import BASELINE_TASKS

from millhand.bench.bench_schema import BenchSchema, bench_schema

NUM_JOBS = 300_000
CHILD = str(Path(__file__).with_name("job_profile_child.py"))
MARK_BEGIN = "<!-- profile: written by benchmarks/job_profile.py -->"
MARK_END = "<!-- end of profile -->"
PICTURE = Path("..", "docs", "assets", "profile.svg")
NUM_FUNCTIONS = 25
SERVER = "server's processes"

# One hue per stage, of about one lightness, readable on white and on black.
COLOURS = ("#4c78a8", "#72b7b2", "#54a24b", "#e39c37", "#b279a2", "#8c8c8c", "#d65f5f")


@dataclass(frozen=True)
class Profile:
    """The cost of a job with one setting. Units: µs of CPU; `server` is None if the server is on another machine."""

    title: str
    stages: Mapping[str, float]
    functions: Sequence[tuple[str, str, float]]
    server: float | None

    @property
    def total(self) -> float:
        """The cost in the worker's process."""
        return sum(self.stages.values())


async def profiled(one: Contender, schema: BenchSchema, num_jobs: int, server_pid: int) -> Profile:
    """Work jobs and return the cost of one."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "found.json")
        drain = await measure_drain(
            one.system,
            schema,
            num_jobs=num_jobs,
            slots=one.slots,
            with_checkpoint=True,
            child=(CHILD, str(file), str(server_pid)),
        )
        found = read(file)
    server = found["server_seconds"] / num_jobs * 1e6 if server_pid else None
    return profile_of(one.title, found["samples"], drain.cpu_us_per_job, server)


def profile_of(
    title: str, samples: Sequence[tuple[str, str, int]], cpu_us: float, server: float | None
) -> Profile:
    """Divide `cpu_us` a job among stages and functions by their share of the samples."""
    each = cpu_us / sum(count for _, _, count in samples)
    stages: Counter[str] = Counter()
    for stage, _, count in samples:
        stages[stage] += count
    costliest = sorted(samples, key=lambda sample: -sample[2])
    return Profile(
        title,
        {stage: each * stages[stage] for stage in STAGES},
        [(stage, name, each * count) for stage, name, count in costliest],
        server,
    )


def report(profiles: Sequence[Profile], about: Sequence[str]) -> str:
    """Return the stages as a table in Markdown."""
    rows = [[stage, *(f"{one.stages[stage]:.1f}" for one in profiles)] for stage in STAGES]
    rows.append(["the worker's process", *(f"{one.total:.1f}" for one in profiles)])
    rows.append([SERVER, *("-" if one.server is None else f"{one.server:.1f}" for one in profiles)])
    drawing = f"![CPU of a job by stage]({PICTURE.as_posix()})"
    heads = ["CPU, µs a job", *(one.title for one in profiles)]
    return "\n\n".join(["\n".join(about), drawing, table(heads, rows)])


def functions_of(profile: Profile) -> str:
    """Return the functions of a profile, the most expensive first."""
    lines = [f"{us:7.2f}  {stage:11}{name}" for stage, name, us in profile.functions[:NUM_FUNCTIONS]]
    return "\n".join([f"\n{profile.title}: µs a job in the functions themselves", *lines])


def drawn(profiles: Sequence[Profile]) -> str:
    """Return one bar of stages per setting, in SVG."""
    left, width, step = 180, 560, 34
    most = max(one.total for one in profiles)
    height = 70 + step * len(profiles)
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="12"',
        f' viewBox="0 0 {left + width + 80} {height}">',
        "<title>CPU of a no-op job in the worker's process, by stage</title>",
        "<style>text { fill: #333 } @media (prefers-color-scheme: dark) { text { fill: #ddd } }</style>",
        f'<text x="{left}" y="16">µs of CPU a job in the worker\'s process</text>',
    ]
    for index, one in enumerate(profiles):
        parts += bar(one, left, 28 + index * step, width / most)
    return "\n".join([*parts, *legend(left, height - 18, width), "</svg>", ""])


def bar(profile: Profile, left: float, top: float, scale: float) -> list[str]:
    """Return the bar of one setting."""
    parts = [f'<text x="{left - 6}" y="{top + 15}" text-anchor="end">{profile.title}</text>']
    at = left
    for stage, colour in zip(STAGES, COLOURS, strict=True):
        width = profile.stages[stage] * scale
        title = f"{stage}: {profile.stages[stage]:.1f} µs"
        parts.append(
            f'<rect x="{at:.1f}" y="{top}" width="{width:.1f}" height="22" fill="{colour}"><title>{title}</title></rect>'
        )
        at += width
    return [*parts, f'<text x="{at + 6:.1f}" y="{top + 15}">{profile.total:.1f}</text>']


def legend(left: float, top: float, width: float) -> list[str]:
    """Return the legend of colours."""
    parts = []
    for index, (stage, colour) in enumerate(zip(STAGES, COLOURS, strict=True)):
        at = left + index * width / len(STAGES)
        parts.append(f'<rect x="{at:.1f}" y="{top - 9}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{at + 14:.1f}" y="{top}">{stage}</text>')
    return parts


async def backend_pid(schema: BenchSchema) -> int:
    """Return the server's process that serves a connection."""
    return int((await schema.pool.fetch("SELECT pg_backend_pid() AS pid"))[0]["pid"])


async def pid_of_server(schema: BenchSchema) -> int:
    """Return the server's main process; 0 if it is on another machine or unknown."""
    return parent_of(await backend_pid(schema))


def parent_of(pid: int) -> int:
    """Return a process's parent; 0 if there is no such process on this machine."""
    stat = Path("/proc", str(pid), "stat")
    return int(stat.read_text().rpartition(")")[2].split()[1]) if stat.exists() else 0


def read(file: Path) -> dict[str, Any]:
    """Return the samples that the worker wrote."""
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def parsed_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=NUM_JOBS, help="jobs a setting")
    parser.add_argument("--database-url", help="a server of yours instead; its role must be a superuser's")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table between the marks of FILE")
    return parser.parse_args()


async def run(url: str, num_jobs: int) -> tuple[list[Profile], str]:
    async with bench_schema(url) as schema:
        server_pid, profiles = await pid_of_server(schema), []
        for one in (DEFAULTS, WIDE):
            log(f"{one.title}: {num_jobs:,} jobs")
            profiles.append(await profiled(one, schema, num_jobs, server_pid))
        log(f"baseline with tasks: {num_jobs:,} jobs")
        baseline = await measure_drain(
            BASELINE_TASKS, schema, num_jobs=num_jobs, slots=BASELINE_TASKS.slots, with_checkpoint=True
        )
        about = [
            *about_machine(await schema.server_version()),
            f"- One run of {num_jobs:,} jobs for each setting; the one-minute load was {os.getloadavg()[0]:.1f}.",
            f"- The baseline with tasks, in the same run: {baseline.cpu_us_per_job:.1f} µs.",
        ]
        return profiles, report(profiles, about)


def main() -> None:
    options = parsed_options()
    with server_url(options.database_url) as url:
        profiles, text = asyncio.run(run(url, options.jobs))
    if options.write is not None:
        put(options.write, text, MARK_BEGIN, MARK_END)
        (options.write.parent / PICTURE).write_text(drawn(profiles))
    print(text, *map(functions_of, profiles), sep="\n")


if __name__ == "__main__":
    main()
