"""List jobs in the admin without scanning the table: filters with known choices, a bounded count, and indexed search."""

from __future__ import annotations

import msgspec
from django.contrib.admin import ModelAdmin, SimpleListFilter
from django.core.paginator import Paginator
from django.db import connections
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property

from millhand.contrib.django.models import Job, Queue
from millhand.core.job import JobState

COUNT_MAX = 10_000
KINDS_MAX = 200
ID_MAX = 2**63 - 1

# One index lookup per kind; DISTINCT would read the whole index.
_KINDS = """
WITH RECURSIVE kinds AS (
    (SELECT kind FROM {table} ORDER BY kind LIMIT 1)
    UNION ALL
    SELECT (SELECT job.kind FROM {table} AS job WHERE job.kind > kinds.kind ORDER BY job.kind LIMIT 1)
    FROM kinds
    WHERE kinds.kind IS NOT NULL
)
SELECT kind FROM kinds WHERE kind IS NOT NULL LIMIT %s
"""


class BoundedPaginator(Paginator):
    """Counts at most `COUNT_MAX` rows."""

    @cached_property
    def count(self) -> int:
        return int(self.object_list[:COUNT_MAX].count())


class ColumnFilter(SimpleListFilter):
    """Filters by a column's value; `parameter_name` is the column."""

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return queryset.filter(**{self.parameter_name: self.value()}) if self.value() else queryset


class StateFilter(ColumnFilter):
    """Filters by state; finalized jobs have an index, and other jobs are few."""

    parameter_name = title = "state"

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin) -> list[tuple[str, str]]:
        return [(state.value, state.value) for state in JobState]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return super().queryset(request, queryset) if self.value() in set(JobState) else queryset


class QueueFilter(ColumnFilter):
    """Filters by queue."""

    parameter_name = title = "queue"

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin) -> list[tuple[str, str]]:
        return [(name, name) for name in Queue.objects.order_by("name").values_list("name", flat=True)]


class KindFilter(ColumnFilter):
    """Filters by kind."""

    parameter_name = title = "kind"

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin) -> list[tuple[str, str]]:
        connection = connections[Job.objects.db]
        quoted = connection.ops.quote_name(Job._meta.db_table)  # noqa: SLF001 - documented
        with connection.cursor() as cursor:
            cursor.execute(_KINDS.format(table=quoted), [KINDS_MAX])
            return [(kind, kind) for (kind,) in cursor.fetchall()]


def search(queryset: QuerySet, term: str) -> QuerySet:
    """Return the jobs with an id, of a kind, or whose args contain a JSON object; each uses an index."""
    term = term.strip()
    if not term:
        return queryset
    if term.isascii() and term.isdigit():
        return queryset.filter(pk=int(term)) if int(term) <= ID_MAX else queryset.none()
    if term.startswith("{"):
        try:
            return queryset.filter(args__contains=msgspec.json.decode(term))
        except msgspec.DecodeError:
            return queryset.none()
    return queryset.filter(kind=term)
