"""Each claim of a guarantee table names its test, and no test repeats another."""

from __future__ import annotations

from claims import claims_without_a_test, repeated_tests
from source_files import PROJECT, read, sources

PAGE = """
| guarantee | verified by |
|---|---|
| one | `test_a.py::test_b` |
| two | [a model](models.md#x) |
| three \\| four | reading |

| setting | meaning |
|---|---|
| five | six |
"""
TESTS = """
def test_one(tmp_path: Path) -> None:
    '''One.'''
    a = tmp_path / "a"
    a.touch()
    assert a.exists()


def test_two(tmp_path: Path) -> None:
    '''Two.'''
    a = tmp_path / "b"
    a.touch()
    assert a.exists()


def test_three(tmp_path: Path) -> None:
    '''Three.'''
    a = tmp_path / "a"
    a.touch()
    assert a.exists()
""".replace("'''", '"""')


def test_claims_without_a_test_are_found() -> None:
    """A row of evidence that names neither a test nor a model is found; other tables are not read."""
    assert list(claims_without_a_test(PAGE)) == ["three \\| four"]


def test_repeated_tests_are_found() -> None:
    """Tests that do the same are one group, and without their values those of one shape."""
    assert repeated_tests([("x", TESTS)], with_values=True) == [["x::test_one", "x::test_three"]]
    assert repeated_tests([("x", TESTS)], with_values=False) == [
        ["x::test_one", "x::test_two", "x::test_three"]
    ]


def test_each_claim_names_its_test() -> None:
    """No row of a guarantee table is without evidence."""
    pages = sorted((PROJECT / "docs").rglob("*.md"))

    assert [claim for page in pages for claim in claims_without_a_test(read(page))] == []


def test_no_test_repeats_another() -> None:
    """No two tests have the same parameters and the same body."""
    assert repeated_tests(sources("tests"), with_values=True) == []
