"""
Write docs/reference/benchmark_results.md from results.md: `python benchmarks/results_page.py`; a test compares.

The page has what a reader needs to compare and to size. results.md has everything, written by the other programs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from document import table

HERE = Path(__file__).parent
RESULTS = HERE / "results.md"
PAGE = HERE.parent / "docs" / "reference" / "benchmark_results.md"
NONE = "-"

Row = dict[str, str]  # its cells by the heads of the columns

TEXT = """\
# Benchmark results

For readers who want the figures behind [Performance](../explanation/performance.md).

<!-- Written by benchmarks/results_page.py from benchmarks/results.md; a test compares. -->

[All results](https://github.example/millhand/millhand/blob/main/benchmarks/results.md) has ranges, settings, versions \
and more.
Compare figures only within one table. Where two ranges overlap, neither is better.
*Baseline*: River's tables worked by bare asyncpg: [How we measure](../explanation/performance.md#how-we-measure).

## Job systems

{peers_about}
- Figures are the median of the rounds, with least and greatest in brackets.
- *Drain*, *CPU*: no-op jobs, one process. *Pickup*: at 50 inserts/s, with defaults.

{peers}

![No-op jobs that one process drains a second, as bars with their ranges](../assets/peers.svg)

![Jobs a second against CPU a job, client and server together](../assets/peers_cost.svg)

![Rates beside rows, beside an open transaction, and of several processes](../assets/peers_growth.svg)

## Targets that are not met

{missed}

[The reasons, as far as known]\
(https://github.example/millhand/millhand/blob/main/benchmarks/results.md#targets-that-are-not-met-with-reasons).

## CPU of a job

![CPU of a job by stage](../assets/profile.svg)

## Open transactions

{pressure}

## Without search indexes

{indexes}

## Limits

*Server* is its CPU time for a job. The first line has the cost of a job, the others the ratios to it.

{limits}

## Flows

{flows}

## Kept schedules

{schedules}

## Awaited results

{waits}

## Listing objects

A whole run of the orphan cleanup. *The first* only lists the objects: boto3, and `os.walk` for a directory.

{listing}
"""


def section(text: str, title: str) -> str:
    """Return the section of the results below a heading."""
    _, _, rest = text.partition(f"\n## {title}\n")
    return rest.partition("\n## ")[0]


def tables(text: str) -> Iterator[tuple[list[str], list[Row]]]:
    """Yield the heads and the rows of each table of a text."""
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        heads, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines()]
        yield heads, [_by_head(heads, cells) for cells in rows]


def _by_head(heads: Sequence[str], cells: Sequence[str]) -> Row:
    """Return a row; of two columns with one head, the first counts."""
    return dict(reversed([*zip(heads, cells, strict=True)]))


def found_rows(text: str, head: str, *others: str) -> list[Row]:
    """Return the rows of the first table with these columns, `head` first."""
    return next(rows for heads, rows in tables(text) if heads[0] == head and {*others} <= {*heads})


def found(text: str, head: str, *others: str) -> dict[str, Row]:
    """Return these rows by their first cells."""
    return {row[head]: row for row in found_rows(text, head, *others)}


def part(text: str, title: str, head: str, columns: Sequence[str]) -> str:
    """Return some columns of a table in a section, which `head` begins."""
    rows = found(section(text, title), head)
    return table([head, *columns], [[key, *(row[one] for one in columns)] for key, row in rows.items()])


def notes(text: str, *starts: str) -> str:
    """Return the lines of a list that begin so."""
    return "\n".join(
        line for line in text.splitlines() if line.startswith(tuple(f"- {one}" for one in starts))
    )


def median(cell: str) -> str:
    """Return a figure without its range."""
    return cell.partition(" (")[0]


def peers(text: str) -> str:
    """Return a line for each system: its rates with defaults and with its fastest settings, and its contract."""
    drains = found(text, "drain", "memory, MiB")
    lines = []
    for system, contract in found(text, "system", "handler gets").items():
        names = [name for name in drains if _is_of(system, name.removesuffix(" ¹"))]
        fastest = drains[max(names, key=lambda name: _number(drains[name]["jobs/s"]))]
        defaults = next((name for name in drains if name.removesuffix(" ¹") == f"{system}, defaults"), "")
        pickups = found(text, "pickup at 50 inserts/s").get(defaults, {})
        inserts = found(text, "insert").get(defaults, {})
        lines.append([
            f"{system} ¹" if defaults.endswith("¹") else system,
            median(drains[defaults]["jobs/s"]) if defaults else NONE,
            fastest["jobs/s"],
            median(fastest["CPU, µs a job"]),
            median(pickups.get("p50, ms", NONE)),
            median(inserts.get("1,000 at a time, jobs/s", NONE)),
            _said(contract),
        ])  # fmt: skip
    heads = ["system", "drain, jobs/s, with defaults", "with the fastest settings", "CPU, µs a job", "pickup p50, ms",
             "inserts in bulk, jobs/s", "row of a job that succeeded"]  # fmt: skip
    return table(heads, lines)


def _said(contract: Row) -> str:
    """Return what a system does with the row of a job that succeeded, and for its handler if that is unusual."""
    row, handler = contract["row of a job that succeeded"], contract["handler gets"]
    return f"{row}; the handler gets {handler}" if "**" in handler else row


def _is_of(system: str, name: str) -> bool:
    """Whether these settings are a system's own, on its usual Python, with the contract of this row."""
    if ", " in system:
        return name == system
    return name == f"{system}, defaults" or (name.startswith(f"{system}, tuned") and "Python" not in name)


def _number(cell: str) -> float:
    return float(median(cell).replace(",", ""))


def missed(text: str) -> str:
    """Return the targets that are not met."""
    lines, subject = [], ""
    for row in found_rows(text, "target"):
        name = re.sub(r" \(.*?\)", "", row["target"])
        subject = subject if name.startswith("the same") else name
        if "not met" in row["verdict"]:
            lines.append([name.replace("the same", subject), row["wanted"], row["found"]])
    return table(["target", "wanted", "found"], lines)


def listing(text: str) -> str:
    """Return the whole run of each store."""
    columns = ["speed, times the first", "objects per CPU, times the first", "objects/s"]
    runs = [
        (re.sub(", .*;", ";", heads[0]), row)
        for heads, rows in tables(text)
        for row in rows
        if row[heads[0]] == "Millhand, whole run, 1 partition"
    ]
    return table(["store", *columns], [[store, *(run[one] for one in columns)] for store, run in runs])


def page(text: str) -> str:
    """Return the page."""
    jobs = section(text, "Job systems")
    server = ["server, insert", "server, fetch and completion", "jobs/s"]
    return TEXT.format(
        peers_about=notes(jobs, "Machine", "PostgreSQL", "¹"),
        peers=peers(jobs),
        missed=missed(jobs),
        pressure=part(text, "Open transactions", "beside", ["to the rate without"]),
        indexes=part(text, "Without search indexes", "what", ["without ÷ with"]),
        limits=part(text, "Limits", "queue", server),
        flows=part(text, "Flows", "jobs", server),
        schedules=part(
            text, "Kept schedules", "1,000 due a second", ["insert, p50", "start, p50", "leader", "server"]
        ),
        waits=part(text, "Awaited results", "one caller, one job after the other", ["p50", "p95"]),
        listing=listing(section(text, "Listing objects")),
    )


if __name__ == "__main__":
    PAGE.write_text(page(RESULTS.read_text()))
