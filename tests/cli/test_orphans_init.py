"""Claims about `millhand orphans init`: what it sees, what it proposes, and what it leaves alone."""

from __future__ import annotations

import tomllib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cli_room import millhand

from millhand.driver.asyncpg import AsyncpgDriver
from millhand.orphans import ReferenceSource
from millhand.settings.load import load_settings

SETTINGS = """\
# Of the team's own hand.
[storage]
url = "file:bucket"   # stays

[orphans]
mode = "report"
grace = "0s"
allow_short_grace = true
"""
TABLES = """
CREATE TABLE {schema}.posts (
    id int PRIMARY KEY, title text, image text, gallery text[], body jsonb, deleted_at timestamptz
);
CREATE INDEX ON {schema}.posts (image COLLATE "C");
CREATE TABLE {schema}.people (email text, avatar varchar(200), home text);
INSERT INTO {schema}.posts
SELECT
    n, 'Title ' || n, 'posts/2026/' || n || '.png', ARRAY['gallery/' || n || '.jpg', NULL],
    jsonb_build_object('files', jsonb_build_array(jsonb_build_object('key', 'files/' || n || '.pdf')), 'text', 'files/x.pdf')
FROM generate_series(1, 30) AS n;
INSERT INTO {schema}.people
SELECT n || '@example.com', n || '.webp', 'https://cdn.example.com/homes/h%20' || n || '.html?v=1'
FROM generate_series(1, 30) AS n;
"""


@pytest.fixture
async def shop(project: Path, schema_driver: AsyncpgDriver) -> AsyncIterator[str]:
    """Five columns that name objects in five ways, two that name none, and a few objects of nobody."""
    schema = schema_driver.schema
    await schema_driver.pool.execute_script(TABLES.format(schema=schema))
    keys = [
        key
        for n in range(1, 31)
        for key in (
            f"posts/2026/{n}.png",
            f"gallery/{n}.jpg",
            f"files/{n}.pdf",
            f"media/avatars/{n}.webp",
            f"homes/h {n}.html",
        )
    ]
    for key in [*keys, "posts/2026/nobody.png"]:
        place = project / "bucket" / key
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"object")
    (project / "millhand.toml").write_text(SETTINGS)
    yield schema
    await schema_driver.pool.execute_script(f"DROP TABLE {schema}.posts, {schema}.people")


def expected(schema: str) -> list[ReferenceSource]:
    """Return the five sources as they are to be found."""
    people, posts = f"{schema}.people", f"{schema}.posts"
    return [
        ReferenceSource(name=f"{people}.avatar", table=people, key="avatar", prepend="media/avatars/"),
        ReferenceSource(
            name=f"{people}.home.url", table=people, key="home", url=("https://cdn.example.com/",)
        ),
        ReferenceSource(name=f"{posts}.body.files.key", table=posts, key="body", json="$.files[*].key"),
        ReferenceSource(name=f"{posts}.gallery", table=posts, key="gallery", array=True),
        ReferenceSource(name=f"{posts}.image", table=posts, key="image"),
    ]


async def test_init_adds_what_names_objects_and_keeps_the_file(shop: str) -> None:
    """Every way of naming objects is found and declared; what was in the file stays, and once more adds nothing."""
    first = await millhand("orphans", "init", "--write")
    second = await millhand("orphans", "init", "--write")
    text = Path("millhand.toml").read_text()

    assert (first.code, second.code) == (0, 0)
    assert text.startswith(SETTINGS)
    sources = load_settings().orphans_config().sources
    assert sorted(sources, key=lambda one: one.name) == expected(shop)
    assert "5 sources were added to millhand.toml; next: millhand orphans scan" in first.err
    assert "5 columns name objects, 0 of them not declared yet" in second.err
    assert '# soft_deleted = "deleted_at IS NOT NULL"' in text


async def test_what_init_declares_is_what_a_scan_needs(shop: str) -> None:
    """A scan with the proposed sources finds the one object of nobody, and no other."""
    await millhand("migrate-up")
    await millhand("orphans", "init", "--write")

    scan = await millhand("orphans", "scan", "--json")

    assert (scan.code, scan.json["objects"], scan.json["orphan_objects"]) == (1, 151, 1)
    assert scan.json["missing"] == 0


async def test_init_says_what_speaks_for_each_column(shop: str) -> None:
    """In JSON: rows, values, objects that were asked for and found, and which objects no column names."""
    told = (await millhand("orphans", "init", "--json")).json

    image = next(one for one in told["proposals"] if one["source"]["key"] == "image")
    assert {key: image[key] for key in ("num_sampled", "num_values", "num_found", "num_named")} == {
        "num_sampled": 30,
        "num_values": 30,
        "num_found": 30,
        "num_named": 30,
    }
    assert image["deleted_at"] == "deleted_at"
    assert sorted(told["new"]) == [one.name for one in expected(shop)]
    assert (told["num_unnamed"], told["unnamed"]) == (1, ["posts/2026/nobody.png"])


async def test_init_prints_sources_to_paste(shop: str) -> None:
    """In a pipe the table goes to standard output and the TOML to standard error; nothing is written."""
    result = await millhand("orphans", "init")

    assert [line[0] for line in sorted(result.lines)] == [one.name for one in expected(shop)]
    pasted = tomllib.loads(result.err[result.err.index("[[orphans.sources]]") :])
    assert len(pasted["orphans"]["sources"]) == 5
    assert Path("millhand.toml").read_text() == SETTINGS


async def test_init_proposes_nothing_that_it_did_not_see_match(
    shop: str, schema_driver: AsyncpgDriver
) -> None:
    """Columns whose values look like keys, but name no object that is there, are no sources."""
    await schema_driver.pool.execute_script(
        f"UPDATE {shop}.posts SET image = 'posts/2025/' || id || '.png', gallery = NULL, body = NULL;"
        f"UPDATE {shop}.people SET avatar = 'x' || avatar, home = 'https://cdn.example.com/homes/none.html'"
    )

    result = await millhand("orphans", "init", "--write")

    assert (result.code, result.lines) == (1, [])
    assert (
        "error: some column must name objects of file:bucket, got none among 7 columns and 151 objects "
        "that were looked at; see that storage.url and DATABASE_URL belong together\n" in result.err
    )
    assert Path("millhand.toml").read_text() == SETTINGS


async def test_init_does_not_add_to_what_it_cannot_add_to(shop: str) -> None:
    """Sources that were written as one list, and settings in pyproject.toml, are left to their owner."""
    inline = SETTINGS + 'sources = [{ name = "all", select = "SELECT 1" }]\n'
    Path("millhand.toml").write_text(inline)
    in_line = await millhand("orphans", "init", "--write")
    kept = Path("millhand.toml").read_text()
    Path("millhand.toml").unlink()
    Path("pyproject.toml").write_text('[tool.millhand.storage]\nurl = "file:bucket"\n')
    in_project = await millhand("orphans", "init", "--write")

    assert (in_line.code, kept) == (1, inline)
    assert "orphans.sources of millhand.toml must be written as [[orphans.sources]]" in in_line.err
    assert in_project.code == 1
    assert (
        "sources are only added to millhand.toml, got settings in pyproject.toml; paste them there by hand"
        in in_project.err
    )
    assert not Path("millhand.toml").exists()


async def test_init_puts_the_sources_of_code_into_words(shop: str, project: Path) -> None:
    """Sources that a function of the user's returns are printed as TOML and added, without a look at anything."""
    (project / "shop_sources.py").write_text(
        "from millhand.orphans import ReferenceSource\n"
        "def sources():\n"
        "    return [ReferenceSource(name='a', table='posts', key='image', prepend='media/', url=('//cdn/',))]\n"
        "nothing = ()\n"
    )

    printed = await millhand("orphans", "init", "--from", "shop_sources:sources")
    added = await millhand("orphans", "init", "--from", "shop_sources:sources", "--write")
    empty = await millhand("orphans", "init", "--from", "shop_sources:nothing")
    wrong = await millhand("orphans", "init", "--from", "shop_sources")

    assert tomllib.loads(printed.out)["orphans"]["sources"] == [
        {"name": "a", "table": "posts", "key": "image", "url": ["//cdn/"], "prepend": "media/"}
    ]
    assert added.code == 0
    assert load_settings().orphans_config().sources == (
        ReferenceSource(name="a", table="posts", key="image", prepend="media/", url=("//cdn/",)),
    )
    assert (empty.code, wrong.code) == (2, 2)
    assert empty.err == (
        "error: shop_sources:nothing must be ReferenceSources or a function that returns some, got tuple\n"
    )
    assert wrong.err == (
        "error: MODULE:NAME must be a module and a name in it, got 'shop_sources'; "
        "write it like 'shop.orphans:sources'\n"
    )


async def test_init_needs_objects(shop: str) -> None:
    """An empty bucket says nothing of any column."""
    Path("millhand.toml").write_text(SETTINGS + 'prefix = "nothing/"\n')

    result = await millhand("orphans", "init")

    assert result.code == 1
    assert result.err.startswith("error: the bucket must have objects to compare with, got none in file:///")
    assert result.err.endswith("/bucket under 'nothing/'; see storage.url and orphans.prefix\n")
