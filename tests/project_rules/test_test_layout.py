"""Tests of a module are where a person looks for them: in the folder of its package, in a file with its name."""

from __future__ import annotations

from pathlib import Path

from source_files import PROJECT, sources

LINES = 100
TESTS = PROJECT / "tests"
# Top-level modules have no package.
OF_TOP_LEVEL = TESTS / "client"


def candidates(module: Path) -> list[Path]:
    """Return the test files whose name says that they test a module, given as a path below src/millhand."""
    package, name = module.parts[:-1], module.stem
    if name == "__init__":
        name = package[-1]
    # Pages of all capabilities are tested in one application, and commands of the orphan cleanup beside other commands.
    folders = [TESTS / part for part in (*package[:1], "cli", "web")] if package else [OF_TOP_LEVEL]
    patterns = [f"test_{name}*.py", *(f"test_{part}_{name}*.py" for part in package)]
    return [path for folder in folders for pattern in patterns for path in folder.rglob(pattern)]


def long_modules() -> list[Path]:
    """Return each module with more lines than a module may have without a test file of its own."""
    root = Path("src/millhand")
    return [
        Path(name).relative_to(root)
        for name, text in sources("src/millhand")
        if text.count("\n") > LINES and name != "src/millhand/__init__.py"  # it holds names only
    ]


def test_long_modules_have_test_files_of_their_name() -> None:
    """Each module with more than 100 lines has `tests/<package>/test_<module>*.py`."""
    missing = [str(module) for module in long_modules() if not candidates(module)]

    assert missing == []


def test_a_module_without_its_test_file_is_found() -> None:
    """A module with an invented name has no candidates, in a package or at the top."""
    assert [candidates(Path(path)) for path in ("runtime/no_such_module.py", "no_such_module.py")] == [[], []]
