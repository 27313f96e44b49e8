"""The app: it holds the project's client, and looks at the settings in `manage.py check`."""

from __future__ import annotations

import threading
from typing import ClassVar

from django.apps import AppConfig
from django.core import checks
from django.core.signals import setting_changed

from millhand.contrib.django import LABEL
from millhand.contrib.django.discovery import whole_config
from millhand.contrib.django.setting import NAME, database_alias
from millhand.contrib.django.system_check import check_settings
from millhand.sync_client import SyncClient


class MillhandConfig(AppConfig):
    """The one object of this project's Millhand; Django keeps it."""

    default_auto_field = "django.db.models.BigAutoField"
    label = LABEL
    name: ClassVar[str] = "millhand.contrib.django"
    verbose_name = "Millhand"

    def ready(self) -> None:
        """Is called by Django when all models are there."""
        self._client: SyncClient | None = None
        self._lock = threading.Lock()
        checks.register(check_settings)
        setting_changed.connect(self._forget, dispatch_uid=__name__)

    def client(self) -> SyncClient:
        """Return the client of this project. Raises: ConfigError."""
        with self._lock:
            if self._client is None:
                self._client = SyncClient(using=database_alias(), config=whole_config())
            return self._client

    def _forget(self, *, setting: str, **_: object) -> None:
        """A test has other settings, or the ones before."""
        if setting in (NAME, "DATABASES", "TASKS"):
            with self._lock:
                self._client = None
