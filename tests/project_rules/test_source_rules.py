"""Rules about the source that no linter knows. Each failure names the file, and the line where there is one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from source_files import calls, sources, texts, trees

from millhand.db.sql import statements

MODULE_LINES = 450  # blank ones not counted
VAGUE_NAMES = {"base", "common", "helper", "helpers", "manager", "misc", "util", "utils"}
# Modules that create a task outside `async with`: their `stop` waits for it.
TASK_MAKERS = {
    "src/millhand/engine/awaited_jobs.py",
    "src/millhand/engine/producer.py",
    "tests/river_conformance/running.py",
    "src/millhand/engine/service.py",
}
# Modules that sleep, and the reason: what they wait for sends no event.
SLEEPERS = {
    "src/millhand/bench/rates.py": "limits the rate of inserts",
    "src/millhand/bench/bench_run.py": "waits until a worker is idle",
    "tests/river_conformance/echo_worker.py": "works a job that takes time",
    "tests/river_conformance/lifecycle.py": "polls a job that any client may change",
    "src/millhand/process/worker_process.py": "polls whether a queue is empty",
    "src/millhand/embedded/process.py": "polls a process that is not our child",
    "src/millhand/sync_client.py": "polls awaited jobs, because it cannot listen",
    "src/millhand/orphans/removal/sweep.py": "limits the rate of removals",
    "tests/acceptance/test_worker.py": "polls a file that another process creates",
    "tests/acceptance/test_worker_metrics.py": "polls a Prometheus, which scrapes each second",
    "tests/interop/mixed_fleet.py": "moves leadership at a fixed interval",
    "tests/chaos/chaos_fleet.py": "delays the restart of processes",
    "tests/chaos/chaos_injector.py": "limits the duration of a fault",
    "tests/chaos/chaos_flows.py": "limits the rate of flows and of their changes",
    "tests/chaos/chaos_limits.py": "limits the rate of changes",
    "tests/chaos/chaos_load.py": "limits the rate of a load",
    "tests/chaos/chaos_migrations.py": "limits the duration of a fault",
    "tests/chaos/chaos_recovery.py": "measures time",
    "tests/chaos/chaos_run.py": "polls the jobs of other processes",
    "tests/chaos/chaos_worker.py": "simulated work takes time",
    "tests/interop/chaos_river.py": "limits the rate of a load",
    "tests/interop/chaos_shared.py": "limits the rate of a load",
    "tests/interop/river_speed.py": "measures time",
    "tests/standstill.py": "limits the duration of a fault",
}
LEAVE_RUNNING = (
    "job_complete",
    "job_complete_many",
    "job_rescue_stranded_many",
    "job_rescue_many",
    "job_set_state_if_running_many",
)
# The slash first: the search for it is fast.
MACHINE_PATH = re.compile(r"/(?<![\w.~]/)(?:root|work|Users)/\w")


def test_modules_are_short() -> None:
    """No module in src has more than 450 lines that are not blank."""
    lengths = {name: sum(1 for line in text.splitlines() if line.strip()) for name, text in sources("src")}
    too_long = {name: length for name, length in lengths.items() if length > MODULE_LINES}

    assert too_long == {}


def test_no_two_test_files_have_one_name() -> None:
    """Pytest imports test files by their base names, and collects nothing if two are the same."""
    names = [Path(name).name for name, _ in sources("tests") if Path(name).name.startswith("test_")]

    assert sorted(names) == sorted(set(names))


def test_modules_have_specific_names() -> None:
    """No module or package in src is named `utils`, `helpers` or the like."""
    vague = [name for name, _ in sources("src") if VAGUE_NAMES & set(Path(name).with_suffix("").parts)]

    assert vague == []


def test_tasks_have_an_owner() -> None:
    """Outside a task group, only the modules that wait for their tasks in `stop` create tasks."""
    makers = [
        f"{name}:{call.lineno}"
        for name, call in calls("src", containing="create_task(")
        if name not in TASK_MAKERS and is_bare_task(call.func)
    ]

    assert makers == []


def test_nothing_sleeps_for_a_fixed_time() -> None:
    """Services wait for an event and tests for a condition; only the listed modules call `sleep`."""
    sleepers = [
        f"{name}:{call.lineno}"
        for name, call in calls("src", "tests", containing="sleep(")
        if name not in SLEEPERS and name_of(call.func) == "sleep" and not is_literal_zero(call)
    ]

    assert sleepers == []


def test_modules_keep_no_state() -> None:
    """No module in src uses `global`, so two clients in one process share nothing."""
    found = [
        f"{name}:{node.lineno}"
        for name, tree in trees("src", containing="global ")
        for node in ast.walk(tree)
        if isinstance(node, ast.Global)
    ]

    assert found == []


def test_loggers_carry_their_fields() -> None:
    """Each logger of a module in src is made by `logger_of`, so that its messages have their fields in the text."""
    found = [
        f"{name}:{call.lineno}"
        for name, call in calls("src", containing="getLogger(")
        if name_of(call.func) == "getLogger"
        and [ast.unparse(argument) for argument in call.args] == ["__name__"]
    ]

    assert found == []


def test_tests_make_claims(request: pytest.FixtureRequest) -> None:
    """Every collected test has a docstring that ends with a full stop."""
    tests = {item.function for item in request.session.items if isinstance(item, pytest.Function)}
    without = [
        f"{test.__module__}.{test.__qualname__}"
        for test in tests
        if not (test.__doc__ or "").rstrip().endswith(".")
    ]

    assert sorted(without) == []


def test_texts_name_no_machine() -> None:
    """No file contains a path of the machine on which it was written."""
    files = [*sources("src", "tests", "examples", "benchmarks"), *texts()]
    found = [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}"
        for name, text in files
        for match in MACHINE_PATH.finditer(text)
        if name != "tests/project_rules/test_source_rules.py"
    ]

    assert found == []


def test_statements_that_leave_running_check_for_it() -> None:
    """Each statement that moves a job out of `running` has `state = 'running'` in its condition."""
    assert [name for name in LEAVE_RUNNING if "state = 'running'" not in statements()[name]] == []


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
    """Return whether a call is `asyncio.sleep(0)`, which lets other tasks run and waits for nothing."""
    return [getattr(argument, "value", None) for argument in call.args] == [0]
