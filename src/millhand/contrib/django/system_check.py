"""`manage.py check`: report wrong settings before the start."""

from __future__ import annotations

from django.core.checks import CheckMessage, Error
from django.db import connections

from millhand.contrib.django.built_in import built_ins
from millhand.contrib.django.discovery import whole_config
from millhand.contrib.django.setting import database_alias
from millhand.errors import ConfigError


def check_settings(**_: object) -> list[CheckMessage]:
    """Return the errors of MILLHAND, of the apps' workers and of the database."""
    try:
        whole_config()
        built_ins()
        vendor = connections[database_alias()].vendor
    except ConfigError as error:
        return [Error(str(error), id="millhand.E001")]
    if vendor != "postgresql":
        return [
            Error(
                f"MILLHAND['DATABASE'] must be PostgreSQL, got {database_alias()!r}, which is {vendor}",
                id="millhand.E002",
            )
        ]
    return []
