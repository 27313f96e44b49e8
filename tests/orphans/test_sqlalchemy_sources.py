"""Columns of SQLAlchemy models as sources, and reads of the tables that SQLAlchemy creates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from typing import Any, ClassVar

import pytest
from libcloud.storage.drivers.dummy import DummyStorageDriver
from sqlalchemy import (
    ARRAY,
    Column,
    ForeignKey,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    create_mock_engine,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy_file import File, FileField
from sqlalchemy_file.storage import StorageManager
from world import World

from millhand.core.errors import ConfigError
from millhand.orphans import OrphansConfig, ReferenceSource
from millhand.orphans.sources.references import open_references
from millhand.orphans.sources.sqlalchemy import sqlalchemy_sources

CDN = ["https://cdn.example.com/"]


class Bytes(BytesIO):
    """A file with a length, which libcloud's dummy storage needs."""

    def __len__(self) -> int:
        return len(self.getvalue())


class ObjectKey(TypeDecorator[str]):
    """A column type of the application."""

    impl = Text
    cache_ok = True


class Base(DeclarativeBase):
    """The models of an application."""


class User(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    avatar: Mapped[str | None] = mapped_column(info={"millhand": True})
    cover: Mapped[str | None] = mapped_column("cover_url", info={"millhand": {"url": CDN}})
    __mapper_args__: ClassVar[dict[str, Any]] = {"polymorphic_on": "kind", "polymorphic_identity": "user"}


class Admin(User):
    badge: Mapped[str | None] = mapped_column(ObjectKey)
    __mapper_args__: ClassVar[dict[str, Any]] = {"polymorphic_identity": "admin"}


class Guest(User):
    __tablename__ = "guests"

    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True)
    passport: Mapped[str | None] = mapped_column(ObjectKey)
    __mapper_args__: ClassVar[dict[str, Any]] = {"polymorphic_identity": "guest"}


class Album(Base):
    __tablename__ = "albums"

    id: Mapped[int] = mapped_column(primary_key=True)
    photos: Mapped[list[str] | None] = mapped_column(ARRAY(String), info={"millhand": True})
    pages: Mapped[dict[str, Any] | None] = mapped_column(JSONB, info={"millhand": {"json": "$.pages[*].key"}})
    note: Mapped[str | None]
    old: Mapped[str | None] = mapped_column(ObjectKey, info={"millhand": False})


AVATAR = ReferenceSource(name="users.avatar", table="users", key="avatar")
COVER = ReferenceSource(name="users.cover_url", table="users", key="cover_url", url=tuple(CDN))
PHOTOS = ReferenceSource(name="albums.photos", table="albums", key="photos", array=True)
PAGES = ReferenceSource(name="albums.pages", table="albums", key="pages", json="$.pages[*].key")
BADGE = ReferenceSource(name="users.badge", table="users", key="badge")
PASSPORT = ReferenceSource(name="guests.passport", table="guests", key="passport", id="user_id")
NOTE = ReferenceSource(name="albums.note", table="albums", key="note")


@pytest.fixture
def storages() -> Iterator[None]:
    """Two storages of sqlalchemy-file that store nothing."""
    driver = DummyStorageDriver("key", "secret")
    for name in ("avatars", "elsewhere"):
        StorageManager.add_storage(name, driver.create_container(container_name=name))
    yield
    StorageManager._clear()


def by_name(found: tuple[ReferenceSource, ...]) -> list[ReferenceSource]:
    """Return sources in order."""
    return sorted(found, key=lambda one: one.name)


def test_marked_columns_are_sources() -> None:
    """A mark makes a source, may hold its fields, and an array column is an array source."""
    assert by_name(sqlalchemy_sources(Base)) == [PAGES, PHOTOS, AVATAR, COVER]


def test_a_type_selects_its_columns() -> None:
    """Every column of the type is a source, with single and joined inheritance, unless its mark is False."""
    found = sqlalchemy_sources(Base.metadata, types=[ObjectKey])

    assert by_name(found) == by_name((PAGES, PHOTOS, AVATAR, COVER, BADGE, PASSPORT))


def test_columns_are_named_by_attribute_or_by_text() -> None:
    """A column without a mark can be named as attribute, column or text."""
    named = [
        sqlalchemy_sources(Base, columns=[column])
        for column in (Album.note, Base.metadata.tables["albums"].c.note, "albums.note")
    ]

    assert [by_name(found) for found in named] == [by_name((PAGES, PHOTOS, AVATAR, COVER, NOTE))] * 3


def test_a_schema_belongs_to_the_table() -> None:
    """The source of a table in a schema holds the schema, and `min_rows` is passed on."""
    metadata = MetaData(schema="shop")
    Table("files", metadata, Column("name", String, info={"millhand": True}), Column("id", String))

    assert sqlalchemy_sources(metadata, min_rows=0) == (
        ReferenceSource(name="shop.files.name", table="shop.files", key="name", min_rows=0),
    )


@pytest.mark.parametrize(
    ("columns", "info", "message"),
    [
        (["files.nam"], {}, "columns must name columns of the models as table.column, got 'files.nam'"),
        (
            [],
            {},
            (
                "the models must have a column that names objects, got 1 columns and none of them marked; "
                'mark it: mapped_column(info={"millhand": True})'
            ),
        ),
        (
            [],
            {"millhand": {"urls": CDN}},
            (
                "the mark of column 'files.name' must be True or fields of a source, got 'urls'; known: "
                "array, cascades, created_at, delete, deleted_at, etag, function, id, json, key, min_rows, name, pending, "
                "prepend, ready, select, size, soft_deleted, table, time_zone, unattached, upload_id, url"
            ),
        ),
    ],
)
def test_no_matching_column_is_an_error(columns: list[str], info: dict[str, Any], message: str) -> None:
    """A wrong name, an unknown field in a mark, and models without a mark are errors with a remedy."""
    metadata = MetaData()
    Table("files", metadata, Column("name", String, info=info))

    with pytest.raises(ConfigError) as invalid:
        sqlalchemy_sources(metadata, columns=columns)

    assert str(invalid.value) == message


@pytest.mark.slow
async def test_tables_that_sqlalchemy_creates_are_read_as_keys(world: World) -> None:
    """The sources of the models read the tables of the models."""
    await make(world, Base.metadata)
    await world.sql(
        "INSERT INTO {schema}.users (kind, avatar, cover_url, badge) VALUES "
        "('admin', 'avatars/1', 'https://cdn.example.com/covers/1%20.png', 'badges/1')"
    )
    await world.sql(
        "INSERT INTO {schema}.albums (photos, pages) VALUES ($1, $2::text::jsonb)",
        ["photos/1", "photos/2"],
        '{"pages": [{"key": "pages/1"}]}',
    )

    keys = await keys_of(world, sqlalchemy_sources(Base, types=[ObjectKey]))

    await drop(world, Base.metadata)
    assert keys == ["avatars/1", "badges/1", "covers/1 .png", "pages/1", "photos/1", "photos/2"]


@pytest.mark.slow
async def test_columns_of_sqlalchemy_file_need_no_mark(world: World, storages: None) -> None:
    """A column of one file or several is a source for the files and thumbnails in the selected storage."""
    metadata = MetaData()
    made = Table(
        "people",
        metadata,
        Column("photo", FileField(upload_storage="avatars")),
        Column("papers", FileField(multiple=True)),
        Column("other", FileField(upload_storage="elsewhere")),
    )
    photo, paper = File(Bytes(b"photo"), filename="a.png"), File(Bytes(b"paper"), filename="b.pdf")
    photo.save_to_storage("avatars")
    photo.store_content(Bytes(b"thumbnail"), "avatars", name="thumbnail-1")
    paper.save_to_storage("avatars")
    await make(world, metadata)
    await world.sql(
        "INSERT INTO {schema}.people VALUES ($1::text::json, $2::text::json, NULL)",
        json.dumps(made.c.photo.type.process_bind_param(photo, postgresql.dialect())),
        json.dumps(made.c.papers.type.process_bind_param([paper], postgresql.dialect())),
    )

    sources = sqlalchemy_sources(metadata, storage="avatars")
    keys = await keys_of(world, sources)

    await drop(world, metadata)
    assert [one.name for one in sources] == ["people.photo", "people.papers"]
    assert keys == sorted([photo.file_id, "thumbnail-1", paper.file_id])


async def make(world: World, metadata: MetaData) -> None:
    """Create the tables as SQLAlchemy does."""
    statements: list[str] = []
    engine = create_mock_engine(
        "postgresql+psycopg://",
        lambda sql, *_, **__: statements.append(str(sql.compile(dialect=engine.dialect))),
    )
    metadata.create_all(engine, checkfirst=False)
    script = ";\n".join([f"SET LOCAL search_path = {world.schema}", *statements])
    async with world.executor.begin() as tx:
        for statement in script.split(";\n"):
            await tx.fetch(statement)


async def drop(world: World, metadata: MetaData) -> None:
    """Drop the tables."""
    for name in metadata.tables:
        await world.sql(f"DROP TABLE {{schema}}.{name} CASCADE")


async def keys_of(world: World, sources: tuple[ReferenceSource, ...]) -> list[str]:
    """Return all keys that the sources name, in order."""
    placed = [replace(one, table=f"{world.schema}.{one.table}") for one in sources]
    references = await open_references(world.executor, OrphansConfig(sources=tuple(placed)))
    return sorted((await references.read_range("", None)).ready_keys)
