"""An array column for read-only models."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.core.checks import CheckMessage

NEEDS_APP = "postgres.E005"


class RowArray(ArrayField):
    """An array that works without `django.contrib.postgres` in INSTALLED_APPS, which only forms and writes need."""

    def check(self, **options: object) -> list[CheckMessage]:
        """Return the errors of the field, except the missing app."""
        return [message for message in super().check(**options) if message.id != NEEDS_APP]
