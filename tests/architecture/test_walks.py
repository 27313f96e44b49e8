"""The walks of the architecture page, traced again."""

from __future__ import annotations

import re

import pytest

from millhand.db.driver.asyncpg import AsyncpgDriver
from walks import PAGE, page_with, walks

NUMBER = re.compile(r"^\*\*([\w ]+)\*\*, (\d+) modules", re.MULTILINE)


@pytest.mark.slow
async def test_walks_pass_no_more_modules_than_the_page_says(
    schema_driver: AsyncpgDriver, postgres_url: str
) -> None:
    """A change that leads each job through one more module is seen; the page is written again if it is meant."""
    written = {name.lower(): int(num) for name, num in NUMBER.findall(PAGE.read_text())}

    found = await walks(postgres_url, schema_driver.schema)

    passed = {name: len(modules) for name, modules in found.items()}
    assert passed.keys() == written.keys()
    assert {name: num for name, num in passed.items() if num > written[name]} == {}, (
        "run: python docs/.writers/walks.py"
    )


def test_page_keeps_what_is_around_the_walks() -> None:
    """Only the text between the marks is written; of a walk, what an earlier one has is left out."""
    page = "before\n<!-- walks: begin -->\nold\n<!-- walks: end -->\nafter\n"

    written = page_with({"insert": ["a.py"], "job": ["a.py", "b.py"]}, page)

    assert written == (
        "before\n<!-- walks: begin -->\n\n**Insert**, 1 modules: `a.py`\n\n**Job**, 2 modules, 1 of them new: `b.py`\n"
        "<!-- walks: end -->\nafter\n"
    )
