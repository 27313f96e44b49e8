"""A column that holds an array, for models that are only read."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.core.checks import CheckMessage

NEEDS_APP = "postgres.E005"


class RowArray(ArrayField):
    """An array, without `django.contrib.postgres` in INSTALLED_APPS: what that adds is for forms and for writing."""

    def check(self, **options: object) -> list[CheckMessage]:
        """Return what is wrong with the field."""
        return [message for message in super().check(**options) if message.id != NEEDS_APP]
