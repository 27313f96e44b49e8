"""How the admin lists jobs without reading the table: filters that know their choices, a search and a count that end."""

from __future__ import annotations

import msgspec
from django.contrib.admin import ModelAdmin, SimpleListFilter
from django.core.paginator import Paginator
from django.db import connections
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property

from millhand.contrib.django.models import Job, Queue
from millhand.job import JobState

COUNT_MAX = 10_000
KINDS_MAX = 200
ID_MAX = 2**63 - 1

# One step of the index per kind, where DISTINCT would read all of it.
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
    """Counts no further than anybody would turn pages."""

    @cached_property
    def count(self) -> int:
        """How many rows there are, `COUNT_MAX` at most."""
        return int(self.object_list[:COUNT_MAX].count())


class StateFilter(SimpleListFilter):
    """By state; of those that are finalized there is an index, and of the others there are few."""

    parameter_name = "state"
    title = "state"

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin) -> list[tuple[str, str]]:
        """All states."""
        return [(state.value, state.value) for state in JobState]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        """Return the jobs of the state that was chosen."""
        return queryset.filter(state=self.value()) if self.value() in set(JobState) else queryset


class QueueFilter(SimpleListFilter):
    """By queue, of those that somebody works."""

    parameter_name = "queue"
    title = "queue"

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin) -> list[tuple[str, str]]:
        """The queues that are known."""
        return [(name, name) for name in Queue.objects.order_by("name").values_list("name", flat=True)]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        """Return the jobs of the queue that was chosen."""
        return queryset.filter(queue=self.value()) if self.value() else queryset


class KindFilter(SimpleListFilter):
    """By kind, of those that there are jobs of."""

    parameter_name = "kind"
    title = "kind"

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin) -> list[tuple[str, str]]:
        """The kinds in the table."""
        connection = connections[Job.objects.db]
        quoted = connection.ops.quote_name(Job._meta.db_table)  # noqa: SLF001 - documented
        with connection.cursor() as cursor:
            cursor.execute(_KINDS.format(table=quoted), [KINDS_MAX])
            return [(kind, kind) for (kind,) in cursor.fetchall()]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        """Return the jobs of the kind that was chosen."""
        return queryset.filter(kind=self.value()) if self.value() else queryset


def search(queryset: QuerySet, term: str) -> QuerySet:
    """Return the jobs with an id, with args that contain a JSON object, or of a kind; each by an index."""
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
