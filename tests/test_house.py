"""The rules of the house that no linter knows; each failure names file and line."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PROJECT = Path(__file__).parents[1]
MODULE_LINES = 450  # blank ones not counted
VAGUE_NAMES = {"base", "common", "helper", "helpers", "manager", "misc", "util", "utils"}
# Who may make a task that no `async with` owns: the two that answer for theirs in `stop`.
TASK_MAKERS = {"src/millhand/runtime/producer.py", "src/millhand/runtime/service.py"}
# Who may wait by the clock, and for what that cannot ring.
SLEEPERS = {
    "src/millhand/bench/rates.py": "the rate of inserts",
    "src/millhand/bench/run.py": "a worker that must be idle",
    "src/millhand/process/worker_process.py": "a queue that has run empty",
    "src/millhand/embedded/process.py": "a process that is nobody's child",
    "src/millhand/orphans/removal/sweep.py": "the pace at which objects are taken away",
    "tests/acceptance/test_worker.py": "a file that another process makes",
    "tests/interop/mixed_fleet.py": "a clock that says when leadership is to move",
    "tests/chaos/chaos_fleet.py": "processes that start again",
    "tests/chaos/chaos_hand.py": "how long a fault lasts",
    "tests/chaos/chaos_load.py": "the pace of a load",
    "tests/chaos/chaos_recovery.py": "time is what is measured",
    "tests/chaos/chaos_run.py": "jobs of other processes that come to their end",
    "tests/chaos/chaos_worker.py": "work that takes its time",
    "tests/interop/chaos_river.py": "the pace of a load",
    "tests/interop/river_speed.py": "time is what is measured",
}
LEAVE_RUNNING = (
    "job_complete",
    "job_complete_many",
    "job_give_back_many",
    "job_rescue_many",
    "job_set_state_if_running_many",
)
MACHINE_PATH = re.compile(r"(?<![\w.~])/(?:root|work|Users)/\w")
TEXTS = ("*.md", "*.toml", "*.sql", "justfile")


def test_modules_are_short() -> None:
    """A module that does not fit its limit does two things and becomes two."""
    lengths = {name: sum(1 for line in text.splitlines() if line.strip()) for name, text in sources("src")}
    too_long = {name: length for name, length in lengths.items() if length > MODULE_LINES}

    assert too_long == {}


def test_modules_have_names_that_say_something() -> None:
    """A room called `utils` collects what nobody has thought about."""
    vague = [name for name, _ in sources("src") if VAGUE_NAMES & set(Path(name).with_suffix("").parts)]

    assert vague == []


def test_tasks_are_owned() -> None:
    """Outside a task group only the two services that answer for their tasks make any."""
    makers = [
        f"{name}:{call.lineno}"
        for name, call in calls("src")
        if name not in TASK_MAKERS and is_bare_task(call.func)
    ]

    assert makers == []


def test_nothing_waits_by_the_clock_alone() -> None:
    """Services wait at a wake_event that can ring, and tests for a condition; a sleep is too long or too short."""
    sleepers = [
        f"{name}:{call.lineno}"
        for name, call in calls("src", "tests")
        if name not in SLEEPERS and name_of(call.func) == "sleep" and not is_literal_zero(call)
    ]

    assert sleepers == []


def test_modules_keep_no_state() -> None:
    """No `global`, so two clients in one process share nothing."""
    found = [
        f"{name}:{node.lineno}"
        for name, tree in trees("src")
        for node in ast.walk(tree)
        if isinstance(node, ast.Global)
    ]

    assert found == []


def test_tests_make_claims() -> None:
    """Every test says in one sentence what would be untrue if it failed."""
    silent = [
        f"{name}:{node.lineno} {node.name}"
        for name, tree in trees("tests")
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        if not (ast.get_docstring(node) or "").rstrip().endswith(".")
    ]

    assert silent == []


def test_texts_name_no_machine() -> None:
    """What is written here holds wherever it is read: no path of the machine it was written on."""
    files = [*sources("src", "tests", "examples", "benchmarks"), *texts()]
    found = [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}"
        for name, text in files
        for match in MACHINE_PATH.finditer(text)
        if name != "tests/test_house.py"
    ]

    assert found == []


def test_statements_that_leave_running_repeat_it() -> None:
    """An attempt that was settled by somebody else meanwhile is not settled again."""
    statements = {
        statement.split()[0]: statement
        for name, text in texts()
        if name.startswith("src/millhand/sql/job")
        for statement in re.split(r"(?m)^-- name: ", text)[1:]
    }

    assert [name for name in LEAVE_RUNNING if "state = 'running'" not in statements[name]] == []


def sources(*folders: str) -> Iterator[tuple[str, str]]:
    for folder in folders:
        for path in sorted((PROJECT / folder).rglob("*.py")):
            yield str(path.relative_to(PROJECT)), read(path)


def texts() -> Iterator[tuple[str, str]]:
    for pattern in TEXTS:
        for place in (
            PROJECT.glob(pattern),
            (PROJECT / "docs").rglob(pattern),
            (PROJECT / "src").rglob(pattern),
        ):
            for path in sorted(place):
                yield str(path.relative_to(PROJECT)), read(path)


def trees(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    for name, text in sources(*folders):
        yield name, parsed(text)


def calls(*folders: str) -> Iterator[tuple[str, ast.Call]]:
    for name, tree in trees(*folders):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield name, node


@cache
def read(path: Path) -> str:
    return path.read_text()


@cache
def parsed(text: str) -> ast.Module:
    return ast.parse(text)


def name_of(function: ast.expr) -> str:
    match function:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


def is_bare_task(function: ast.expr) -> bool:
    match function:
        case ast.Attribute(value=ast.Name(id="asyncio" | "loop"), attr="create_task"):
            return True
        case ast.Name(id="create_task"):
            return True
    return False


def is_literal_zero(call: ast.Call) -> bool:
    """`asyncio.sleep(0)` waits for nothing; it lets others have a turn."""
    return [getattr(argument, "value", None) for argument in call.args] == [0]
