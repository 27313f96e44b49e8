"""What a person runs on another engine: the export of the rows, and the statement."""

from __future__ import annotations

from datetime import datetime

from millhand.core.orphans import OrphansConfig
from millhand.orphans.inventory.difference_sql import DUCKDB, CanaryKeys, Compared, Dialect, difference_sql
from millhand.orphans.inventory.differences import report_sql, rows_sql, scope_of
from millhand.orphans.inventory.inventory_report import newest_report
from millhand.orphans.sources.references import References
from millhand.storage import ObjectStore

REPORT_TABLE, ROWS_TABLE = "inventory", "millhand_rows"
ROWS_FILES = "rows-*.csv"


def export_script(references: References, config: OrphansConfig) -> str:
    """Return a script for psql that writes the rows of each source into a file: source, key, size, etag and state."""
    low, high = config.key_range
    parts = ["-- Run this with psql after the report was written. It writes a file for each source.\n"]
    for number, source in enumerate(references.statements, 1):
        parts.append(
            f"\\o {ROWS_FILES.replace('*', str(number))}\n"
            f"COPY (\n{source.export_sql(low, high)}\n) TO STDOUT (FORMAT csv, ENCODING 'UTF8');\n"
        )
    return "".join([*parts, "\\o\n"])


async def printed_statement(
    store: ObjectStore,
    config: OrphansConfig,
    dialect: Dialect,
    *,
    now: datetime,
    report_table: str | None,
    rows_table: str | None,
) -> str:
    """
    Return the statement for the newest report. Without names of tables, DuckDB reads the files, and others the usual names.

    Raises: InventoryUnusable; StoreError.
    """
    async with newest_report(str(config.inventory), store, now=now) as report:
        is_duckdb = dialect is DUCKDB
        from_report = report_table or (report_sql(report, report.file_urls) if is_duckdb else REPORT_TABLE)
        compared = Compared(
            canaries=CanaryKeys.of(report.manifest.created_at, scope_of(config, store.url)),
            columns=report.manifest.columns,
            excluded=config.exclude,
            has_etags=any(source.etag for source in config.sources),
            is_encoded=report.is_encoded,
            is_typed=False,
            prefix=config.prefix,
            report=from_report,
            root=report.root,
            rows=rows_table or (rows_sql(ROWS_FILES) if is_duckdb else ROWS_TABLE),
        )
        created = report.manifest.created_at.isoformat()
        heading = f"-- Report of {created} in {report.manifest.format}, for {dialect.name}.\n"
        return heading + difference_sql(compared, dialect)
