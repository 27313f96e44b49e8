"""The Django app, which holds the project's client and registers the system check."""

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
    """The app's configuration, which Django creates once."""

    default_auto_field = "django.db.models.BigAutoField"
    label = LABEL
    name: ClassVar[str] = "millhand.contrib.django"
    verbose_name = "Millhand"

    def ready(self) -> None:
        """Register the check; Django calls this when all models are loaded."""
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
        """Drop the client when a test changes or restores the settings."""
        if setting in (NAME, "DATABASES", "TASKS"):
            with self._lock:
                self._client = None
