"""The API reference lists every public name, and every name that it lists can be imported."""

from __future__ import annotations

import importlib
import re
from collections import Counter

import pytest

from user_programs import PROJECT

PAGES = PROJECT / "docs" / "reference" / "api"
PUBLIC = (
    "millhand",
    "millhand.observe",
    "millhand.orphans",
    "millhand.storage",
    "millhand.testing",
    "millhand.web",
)
DIRECTIVE = re.compile(r"^::: (\S+)$", re.MULTILINE)


def documented() -> list[str]:
    return [name for page in sorted(PAGES.glob("*.md")) for name in DIRECTIVE.findall(page.read_text())]


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_name_has_one_entry(package: str) -> None:
    """Each name in `__all__` has exactly one entry on the pages of docs/reference/api."""
    count = Counter(documented())
    names = [f"{package}.{name}" for name in importlib.import_module(package).__all__]

    assert [name for name in names if count[name] != 1] == [], (
        "add a line '::: NAME' to a page of docs/reference/api"
    )


def test_no_entry_is_repeated() -> None:
    """A name is documented on one page, once."""
    assert [name for name, times in Counter(documented()).items() if times > 1] == []


def test_entry_names_what_exists() -> None:
    """Each entry names an attribute of a module that can be imported."""
    assert [name for name in documented() if not _exists(name)] == []


def _exists(name: str) -> bool:
    module_name, _, attribute = name.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        return not str(error.name).startswith("millhand")  # django.tasks is part of Django 6
    return hasattr(module, attribute)
