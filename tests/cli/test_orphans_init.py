"""Claims about `millhand orphans init`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cli_runner import millhand
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.orphans import ReferenceSource
from millhand.orphans.cli.init import _above, _summary
from millhand.orphans.discovery.discover import Discovery, Proposal
from millhand.shells.settings.load import load_settings

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
    """Five columns that reference objects in five ways, two that reference none, and a few orphans."""
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
    for key in [*keys, "posts/2026/orphan.png"]:
        place = project / "bucket" / key
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"object")
    (project / "millhand.toml").write_text(SETTINGS)
    yield schema
    await schema_driver.pool.execute_script(f"DROP TABLE {schema}.posts, {schema}.people")


def expected(schema: str) -> list[ReferenceSource]:
    """Return the five sources that the command should find."""
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


@pytest.mark.slow
async def test_init_adds_sources_and_keeps_the_file(shop: str) -> None:
    """All five columns are declared, the rest of the file stays, and a second run adds nothing."""
    first = await millhand("orphans", "init", "--write")
    second = await millhand("orphans", "init", "--write")
    text = Path("millhand.toml").read_text()

    assert (first.code, second.code) == (0, 0)
    assert text.startswith(SETTINGS)
    sources = load_settings().orphans_config().sources
    assert sorted(sources, key=lambda one: one.name) == expected(shop)
    assert "added 5 sources to millhand.toml; next: millhand orphans scan" in first.err
    assert "columns that reference objects: 5, of them not declared yet: 0" in second.err
    assert '# soft_deleted = "deleted_at IS NOT NULL"' in text


def test_init_counts_one_of_each_in_the_singular() -> None:
    """The summary of a small database reads as a person would write it."""
    source = ReferenceSource(name="posts.image", table="posts", key="image")
    one = Proposal(
        source=source, num_rows=1, num_sampled=1, num_values=1, num_checked=1, num_found=1, num_named=1,
        examples=("a.png",), deleted_at=None, index=None,
    )  # fmt: skip
    found = Discovery(
        num_keys=1,
        num_tables=1,
        num_columns=1,
        proposals=(one,),
        num_unnamed=1,
        unnamed=("b.png",),
        unread={},
    )

    assert list(_summary(found, 1)) == [
        "checked 1 column of 1 table and 1 object; columns that reference objects: 1, of them not declared yet: 1",
        (
            "without a reference in these columns: 1 of 1 object, such as 'b.png'; these are orphans, or referenced "
            "elsewhere (inside a longer text, in another database)"
        ),
    ]
    assert next(_above(one)) == "1 row, 1 read; 1 of 1 object found, references 1 object of those checked"


@pytest.mark.slow
async def test_scan_runs_with_the_proposed_sources(shop: str) -> None:
    """A scan with the proposed sources finds the one orphan and no other object."""
    await millhand("migrate-up")
    await millhand("orphans", "init", "--write")

    scan = await millhand("orphans", "scan", "--json")

    assert (scan.code, scan.json["objects"], scan.json["orphan_objects"]) == (1, 151, 1)
    assert scan.json["missing"] == 0


@pytest.mark.slow
async def test_init_prints_evidence_for_each_column(shop: str) -> None:
    """The JSON has rows, values, looked-up and found objects, and the unreferenced objects."""
    output = (await millhand("orphans", "init", "--json")).json

    image = next(one for one in output["proposals"] if one["source"]["key"] == "image")
    assert {key: image[key] for key in ("num_sampled", "num_values", "num_found", "num_named")} == {
        "num_sampled": 30,
        "num_values": 30,
        "num_found": 30,
        "num_named": 30,
    }
    assert image["deleted_at"] == "deleted_at"
    assert sorted(output["new"]) == [one.name for one in expected(shop)]
    assert (output["num_unnamed"], output["unnamed"]) == (1, ["posts/2026/orphan.png"])


@pytest.mark.slow
async def test_init_prints_sources_to_paste(shop: str) -> None:
    """In a pipe the table goes to standard output and the TOML to standard error; nothing is written."""
    result = await millhand("orphans", "init")

    assert [line[0] for line in sorted(result.lines)] == [one.name for one in expected(shop)]
    pasted = tomllib.loads(result.err[result.err.index("[[orphans.sources]]") :])
    assert len(pasted["orphans"]["sources"]) == 5
    assert Path("millhand.toml").read_text() == SETTINGS


@pytest.mark.slow
async def test_init_proposes_only_columns_with_found_objects(shop: str, schema_driver: AsyncpgDriver) -> None:
    """A column whose values look like keys of missing objects is not proposed."""
    await schema_driver.pool.execute_script(
        f"UPDATE {shop}.posts SET image = 'posts/2025/' || id || '.png', gallery = NULL, body = NULL;"
        f"UPDATE {shop}.people SET avatar = 'x' || avatar, home = 'https://cdn.example.com/homes/none.html'"
    )

    result = await millhand("orphans", "init", "--write")

    assert (result.code, result.lines) == (1, [])
    # Tables of other tests in this database are searched too.
    assert re.search(
        r"error: at least one column must reference objects of file:bucket, found none among \d+ columns "
        r"and 151 objects; check that storage\.url and DATABASE_URL belong together\n",
        result.err,
    )
    assert Path("millhand.toml").read_text() == SETTINGS


@pytest.mark.slow
async def test_init_does_not_change_files_of_another_shape(shop: str) -> None:
    """Sources in one list and settings in pyproject.toml are errors, and the files stay unchanged."""
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
        "sources can be added to millhand.toml only, got settings in pyproject.toml; paste them there"
        in in_project.err
    )
    assert not Path("millhand.toml").exists()


async def test_init_writes_the_sources_of_code(shop: str, project: Path) -> None:
    """Sources from a user's function are printed as TOML and added, without a scan."""
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


@pytest.mark.slow
async def test_init_needs_objects(shop: str) -> None:
    """An empty bucket is an error."""
    Path("millhand.toml").write_text(SETTINGS + 'prefix = "nothing/"\n')

    result = await millhand("orphans", "init")

    assert result.code == 1
    assert result.err.startswith("error: the bucket must have objects, found none in file:///")
    assert result.err.endswith("/bucket under 'nothing/'; check storage.url and orphans.prefix\n")
