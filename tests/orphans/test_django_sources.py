"""The file fields of a Django project as sources, and reads of the tables that Django creates."""

from __future__ import annotations

import asyncio

import django
import pytest
from django.apps import apps
from django.conf import settings
from django.core.files.storage import FileSystemStorage
from django.db import connections
from psycopg.conninfo import conninfo_to_dict
from shopfront.bucket import BucketStorage
from world import World

from millhand.core.errors import ConfigError
from millhand.orphans import OrphansConfig, ReferenceSource
from millhand.orphans.sources.django import django_sources, location_of
from millhand.orphans.sources.references import open_references

if not settings.configured:
    bucket = "shopfront.bucket.BucketStorage"
    settings.configure(
        DATABASES={
            name: {"ENGINE": "django.db.backends.postgresql", "NAME": name} for name in ("default", "remote")
        },
        DATABASE_ROUTERS=["shopfront.models.RemoteRouter"],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=["shopfront"],
        STORAGES={
            "default": {"BACKEND": bucket, "OPTIONS": {"location": "media"}},
            "documents": {"BACKEND": bucket, "OPTIONS": {"location": "documents/"}},
            "local": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
        },
        USE_TZ=True,
    )
    django.setup()


def work_as_django(url: str, schema: str) -> None:
    """Create the tables with Django, and save a row in each."""
    connection = connections["default"]
    where = conninfo_to_dict(url)
    names = {"NAME": "dbname", "HOST": "host", "PORT": "port", "USER": "user", "PASSWORD": "password"}
    connection.settings_dict |= {name: where.get(key, "") for name, key in names.items()}
    connection.settings_dict["OPTIONS"] = {"options": f"-c search_path={schema}"}
    shop = apps.get_app_config("shopfront")
    try:
        with connection.schema_editor() as editor:
            for name in ("place", "restaurant", "scan"):
                editor.create_model(shop.get_model(name))
        restaurant = shop.get_model("diner")(name="At home", picture="pictures/2026/11/a.png")
        restaurant.menu.name, restaurant.logo.name = "owners/1/menu.pdf", "logos/a b.svg"
        restaurant.save()
        shop.get_model("place").objects.create(name="Empty")
        shop.get_model("scan").objects.create(code="x", page="scan.tif")
    finally:
        connection.close()


def drop_as_django(schema: str) -> str:
    """Return the SQL that drops the tables."""
    return f"DROP TABLE {schema}.shopfront_restaurant, {schema}.shopfront_place, {schema}.legacy_scans"


def source(name: str, key: str, table: str, prepend: str, id_: str = "id") -> ReferenceSource:
    """Return a source of the shop."""
    return ReferenceSource(name=f"shopfront.{name}", table=table, key=key, id=id_, prepend=prepend)


MENU = source("place.menu", "menu", "shopfront_place", "documents/")
PICTURE = source("place.picture", "picture", "shopfront_place", "media/")
LOGO = source("restaurant.logo", "logo_file", "shopfront_restaurant", "media/", "place_ptr_id")
PAGE = source("scan.page", "page", "legacy_scans", "", "code")
ARCHIVED = source("archived.file", "file", "archive.files", "media/")


def test_each_file_field_is_one_source() -> None:
    """Inherited, renamed and proxied fields are found once each, with their table and the location of their storage."""
    found = django_sources()

    assert sorted(found, key=lambda one: one.name) == [ARCHIVED, MENU, PICTURE, LOGO, PAGE]


def test_storage_selects_the_fields_with_files_in_the_bucket() -> None:
    """`storage` selects fields by an alias of STORAGES or by a predicate."""
    by_alias = django_sources(storage="documents")
    by_function = django_sources(storage=lambda storage: isinstance(storage, FileSystemStorage))

    assert (by_alias, by_function) == ((MENU,), (PAGE,))


def test_models_of_another_database_are_left_out() -> None:
    """A model that a router keeps in another database is no source of this one."""
    assert [one.table for one in django_sources(using="remote")] == ["shopfront_remote"]


def test_schema_is_put_before_tables_that_have_none() -> None:
    """`schema` qualifies tables without one, and `min_rows` is passed on."""
    found = django_sources(schema="shop", min_rows=0)

    tables = {(one.table, one.min_rows) for one in found}
    assert tables == {
        ("archive.files", 0),
        ("shop.legacy_scans", 0),
        ("shop.shopfront_place", 0),
        ("shop.shopfront_restaurant", 0),
    }


def test_no_field_for_the_storage_is_an_error() -> None:
    """No matching field is an error, because every object would be an orphan."""
    with pytest.raises(ConfigError) as invalid:
        django_sources(storage=lambda _: False)

    message = str(invalid.value)
    assert message.startswith(
        "django must have a FileField with its files in the storage, got 5 FileFields and none for storage <"
    )
    assert message.endswith("; check INSTALLED_APPS and STORAGES")


@pytest.mark.parametrize(
    ("location", "expected"), [("", ""), ("media", "media/"), ("a/b/", "a/b/"), ("/srv/media", "")]
)
def test_a_location_in_the_bucket_is_part_of_the_key(location: str, expected: str) -> None:
    """A location within a bucket is part of the key; a directory of the machine is not."""
    assert location_of(BucketStorage(location)) == expected


@pytest.mark.slow
async def test_rows_that_django_saves_are_read_as_keys(world: World, postgres_url: str) -> None:
    """Rows of Django's ORM name the keys of the files in its storages."""
    await asyncio.to_thread(work_as_django, postgres_url, world.schema)
    wanted = [one for one in django_sources(schema=world.schema) if one.table != "archive.files"]
    references = await open_references(world.executor, OrphansConfig(sources=tuple(wanted)))

    read = await references.read_range("", None)

    await world.sql(drop_as_django(world.schema))
    assert sorted(read.ready_keys) == [
        "documents/owners/1/menu.pdf",
        "media/logos/a b.svg",
        "media/pictures/2026/11/a.png",
        "scan.tif",
    ]
