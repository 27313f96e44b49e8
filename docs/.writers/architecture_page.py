"""
Draw the generated parts of docs/explanation/architecture.md: the table of layers, and three diagrams in docs/assets.

Run `python docs/.writers/architecture_page.py` to write them; test_architecture_page.py compares them.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import grimp

from diagrams import Lane, Step, layers_svg, sequence_svg

PROJECT = Path(__file__).parents[2]
PACKAGE = PROJECT / "src" / "millhand"
PAGE = PROJECT / "docs" / "explanation" / "architecture.md"
ASSETS = PROJECT / "docs" / "assets"
BEGIN, END = "<!-- layers: begin -->", "<!-- layers: end -->"

# Modules whose imports the drawing leaves out: values that almost every other module uses.
VALUES = ("control", "core", "version")

JOB_LANES = (
    Lane("Your application", "app"),
    Lane("PostgreSQL", "database"),
    Lane("Worker process", "worker"),
)
JOB_STEPS = (
    Step("app", "app", "encode args, apply options", "core/insert_opts.py"),
    Step("app", "database", "INSERT the row; NOTIFY river_insert", "engine/inserter.py"),
    Step("database", "worker", "the notification wakes the producer", "engine/notifier.py"),
    Step("worker", "database", "fetch with SKIP LOCKED: running", "engine/producer.py"),
    Step("worker", "worker", "decode args, call the worker", "engine/job_executor.py"),
    Step("worker", "worker", "decide the next state", "core/transition.py"),
    Step("worker", "database", "UPDATE ended attempts in one batch", "engine/completer.py"),
    Step("worker", "worker", "send events to subscribers", "engine/subscription.py"),
    Step("worker", "database", "leader: due jobs become available", "engine/maintenance/job_scheduler.py"),
    Step("worker", "database", "leader: jobs of dead clients return", "engine/maintenance/client_rescuer.py"),
)
ORPHAN_LANES = (Lane("Your tables", "tables"), Lane("Orphan cleanup run", "run"), Lane("Bucket", "bucket"))
ORPHAN_STEPS = (
    Step("run", "tables", "check the sources against the catalog", "orphans/sources/check.py"),
    Step("run", "bucket", "check the binding of the bucket", "orphans/binding.py"),
    Step("run", "bucket", "restore objects that a row references", "orphans/removal/recovery.py"),
    Step("run", "bucket", "list the objects, page by page", "orphans/scan/listing.py"),
    Step("run", "tables", "read the rows that name the keys", "orphans/sources/references.py"),
    Step("run", "run", "compare, leave out excluded keys", "orphans/scan/compare.py"),
    Step("run", "run", "find the rule that fits", "orphans/evaluate.py"),
    Step("run", "run", "write findings to the ledger", "orphans/ledger.py"),
    Step("run", "tables", "search for near matches", "orphans/scan/near_match.py"),
    Step("run", "run", "check the guards, or abort the run", "orphans/removal/guard.py"),
    Step("run", "tables", "search undeclared columns", "orphans/removal/undeclared.py"),
    Step("run", "bucket", "check again, move to quarantine", "orphans/removal/sweep.py"),
    Step("run", "bucket", "delete when the quarantine ends", "orphans/removal/recovery.py"),
)


def layers() -> list[list[str]]:
    """Return the layers of the import contract, highest first, each with its modules."""
    contracts = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    contract = next(contract for contract in contracts if contract["type"] == "layers")
    return [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]


def source_of(name: str) -> Path:
    """Return the file whose docstring says what a module or package is for."""
    package = PACKAGE / name / "__init__.py"
    return package if package.exists() else PACKAGE / f"{name}.py"


def purpose(name: str) -> str:
    """Return the first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(source_of(name).read_text())) or ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return paragraph.partition(". ")[0].removesuffix(".")


def imports() -> dict[str, set[str]]:
    """Return which top-level modules each top-level module imports."""
    graph = grimp.build_graph("millhand", cache_dir=None)
    found: dict[str, set[str]] = {name: set() for layer in layers() for name in layer}
    for module in graph.modules:
        importer = _top(module)
        for imported in graph.find_modules_directly_imported_by(module):
            if importer in found and _top(imported) in found and importer != _top(imported):
                found[importer].add(_top(imported))
    return found


def layer_table() -> str:
    """Return the packages of the layers as a table in Markdown."""
    rows = ["| layer | package | what it does |", "|--:|---|---|"]
    rows += [
        f"| {number} | `{name}/` | {purpose(name)} |"
        for number, layer in enumerate(layers(), 1)
        for name in layer
        if (PACKAGE / name).is_dir()
    ]
    return "\n".join(rows) + "\n"


def page() -> str:
    """Return the page with its generated table."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n\n{layer_table()}\n{END}{after}"


def drawings() -> Iterator[tuple[Path, str]]:
    """Yield each diagram: its file and its SVG."""
    drawn = [[name for name in layer if name not in VALUES] for layer in layers()]
    edges = {name: targets - set(VALUES) for name, targets in imports().items() if name not in VALUES}
    yield ASSETS / "layers.svg", layers_svg([layer for layer in drawn if layer], edges)
    yield ASSETS / "job.svg", sequence_svg("The path of one job", JOB_LANES, JOB_STEPS)
    yield ASSETS / "orphan_run.svg", sequence_svg("One run of the orphan cleanup", ORPHAN_LANES, ORPHAN_STEPS)


def _top(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    for path, svg in drawings():
        path.write_text(svg, encoding="utf-8")
