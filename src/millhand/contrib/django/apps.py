"""The Django app, which holds the project's client and registers the system check."""

from __future__ import annotations

import threading
from typing import ClassVar

from django.apps import AppConfig
from django.core import checks
from django.core.signals import setting_changed
from django.db import connections

from millhand.contrib.django import LABEL
from millhand.contrib.django.cleanup import project_cleanup
from millhand.contrib.django.discovery import whole_config
from millhand.contrib.django.setting import NAME, database_alias
from millhand.core.errors import ConfigError
from millhand.sync_client import SyncClient


class MillhandConfig(AppConfig):
    """The app's configuration, which Django creates once."""

    default_auto_field = "django.db.models.BigAutoField"
    label = LABEL
    name: ClassVar[str] = "millhand.contrib.django"
    verbose_name = "Millhand"

    def ready(self) -> None:
        self._client: SyncClient | None = None
        self._lock = threading.Lock()
        self.page_path: str | None = None  # where `with_web_page` mounts the web page
        checks.register(check_settings)
        setting_changed.connect(self._forget, dispatch_uid=__name__)

    def client(self) -> SyncClient:
        if (client := self._client) is not None:
            return client
        # Without the lock, because the modules that this imports may call `client` too.
        made = SyncClient(using=database_alias(), config=whole_config())
        with self._lock:
            self._client = self._client or made
            return self._client

    def _forget(self, *, setting: str, **_: object) -> None:
        """Drop the client when a test changes or restores the settings."""
        if setting in (NAME, "DATABASES", "TASKS"):
            with self._lock:
                self._client = None


def check_settings(**_: object) -> list[checks.CheckMessage]:
    """Return the errors of MILLHAND, of the apps' workers and of the database, for `manage.py check`."""
    try:
        whole_config()
        project_cleanup()
        alias = database_alias()
    except ConfigError as error:
        return [checks.Error(str(error), id="millhand.E001")]
    if (vendor := connections[alias].vendor) == "postgresql":
        return []
    reason = f"MILLHAND['DATABASE'] must be PostgreSQL, got {alias!r}, which is {vendor}"
    return [checks.Error(reason, id="millhand.E002")]
