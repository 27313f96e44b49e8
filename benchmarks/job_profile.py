"""
Where the CPU's time of a job goes, room by room: a profile of a worker that drains no-op jobs.

    python benchmarks/job_profile.py --write docs/explanation/performance.md

The worker's process is sampled by the time that it uses (`job_profile_child.py`), so it need not have the machine for
itself; what it uses altogether is what the kernel says. With `--write` the table goes into a document, and the drawing
beside it into `assets/profile.svg`; the functions behind the figures are printed.
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

from contender import DEFAULTS, WIDE, Contender, about_machine, server_url, tell
from document import put, table
from job_profile_child import ROOMS

from millhand.bench.measure import measure_drain
from millhand.bench.place import Place, bench_place
from millhand.bench.system import LIFE

NUM_JOBS = 300_000
CHILD = str(Path(__file__).with_name("job_profile_child.py"))
MARK_BEGIN = "<!-- profile: written by benchmarks/job_profile.py -->"
MARK_END = "<!-- end of profile -->"
PICTURE = Path("assets", "profile.svg")
NUM_FUNCTIONS = 25
SERVER = "server's processes"

# One hue a room, of about one lightness, and readable on white as on black.
COLOURS = ("#4c78a8", "#72b7b2", "#54a24b", "#e39c37", "#b279a2", "#8c8c8c", "#d65f5f")


@dataclass(frozen=True)
class Profile:
    """What a job costs with one setting. Units: µs of CPU; `server` is None if the server is not on this machine."""

    title: str
    rooms: Mapping[str, float]
    functions: Sequence[tuple[str, str, float]]
    server: float | None

    @property
    def total(self) -> float:
        """What it costs in the worker's process."""
        return sum(self.rooms.values())


async def profiled(one: Contender, place: Place, num_jobs: int, server_pid: int) -> Profile:
    """Work jobs, and say what each of them has cost."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "found.json")
        drain = await measure_drain(
            one.system,
            place,
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
    """Return what `cpu_us` a job are made of, by the share of the samples."""
    each = cpu_us / sum(count for _, _, count in samples)
    rooms: Counter[str] = Counter()
    for room, _, count in samples:
        rooms[room] += count
    dearest = sorted(samples, key=lambda sample: -sample[2])
    return Profile(
        title,
        {room: each * rooms[room] for room in ROOMS},
        [(room, name, each * count) for room, name, count in dearest],
        server,
    )


def report(profiles: Sequence[Profile], about: Sequence[str]) -> str:
    """Return the rooms as a table in Markdown."""
    rows = [[room, *(f"{one.rooms[room]:.1f}" for one in profiles)] for room in ROOMS]
    rows.append(["the worker's process", *(f"{one.total:.1f}" for one in profiles)])
    rows.append([SERVER, *("-" if one.server is None else f"{one.server:.1f}" for one in profiles)])
    drawing = f"![CPU of a job by room]({PICTURE.as_posix()})"
    heads = ["CPU, µs a job", *(one.title for one in profiles)]
    return "\n\n".join(["\n".join(about), drawing, table(heads, rows)])


def functions_of(profile: Profile) -> str:
    """Return the functions behind a profile, the dearest first."""
    lines = [f"{us:7.2f}  {room:11}{name}" for room, name, us in profile.functions[:NUM_FUNCTIONS]]
    return "\n".join([f"\n{profile.title}: µs a job in the functions themselves", *lines])


def drawn(profiles: Sequence[Profile]) -> str:
    """Return the rooms as bars, one of them above the other, in SVG."""
    left, width, step = 180, 560, 34
    most = max(one.total for one in profiles)
    height = 70 + step * len(profiles)
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="12"',
        f' viewBox="0 0 {left + width + 80} {height}">',
        "<title>CPU of a no-op job in the worker's process, by room</title>",
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
    for room, colour in zip(ROOMS, COLOURS, strict=True):
        width = profile.rooms[room] * scale
        told = f"{room}: {profile.rooms[room]:.1f} µs"
        parts.append(
            f'<rect x="{at:.1f}" y="{top}" width="{width:.1f}" height="22" fill="{colour}"><title>{told}</title></rect>'
        )
        at += width
    return [*parts, f'<text x="{at + 6:.1f}" y="{top + 15}">{profile.total:.1f}</text>']


def legend(left: float, top: float, width: float) -> list[str]:
    """Return which colour is which room."""
    parts = []
    for index, (room, colour) in enumerate(zip(ROOMS, COLOURS, strict=True)):
        at = left + index * width / len(ROOMS)
        parts.append(f'<rect x="{at:.1f}" y="{top - 9}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{at + 14:.1f}" y="{top}">{room}</text>')
    return parts


async def pid_of_server(place: Place) -> int:
    """Return the process whose children serve the connections to a place; 0 if it is not on this machine, or not known."""
    return parent_of(await place.backend_pid())


def parent_of(pid: int) -> int:
    """Return a process's parent; 0 if there is no such process here."""
    stat = Path("/proc", str(pid), "stat")
    return int(stat.read_text().rpartition(")")[2].split()[1]) if stat.exists() else 0


def read(file: Path) -> dict[str, Any]:
    """Return what the worker has found."""
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
    async with bench_place(url) as place:
        server_pid, profiles = await pid_of_server(place), []
        for one in (DEFAULTS, WIDE):
            tell(f"{one.title}: {num_jobs:,} jobs")
            profiles.append(await profiled(one, place, num_jobs, server_pid))
        tell(f"floor, full life: {num_jobs:,} jobs")
        floor = await measure_drain(LIFE, place, num_jobs=num_jobs, slots=LIFE.slots, with_checkpoint=True)
        about = [
            *about_machine(await place.server_version()),
            f"- One run of {num_jobs:,} jobs a setting; the load of its last minute was {os.getloadavg()[0]:.1f}.",
            f"- The floor with full life, in the same run: {floor.cpu_us_per_job:.1f} µs.",
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
