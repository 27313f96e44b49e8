"""
Write deploy/monitoring/millhand.dashboard.json, a dashboard for Grafana 10 and newer.

    python docs/.writers/dashboard.py

Each panel is a row of `PANELS`. Everything else of a panel follows from the row.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[2] / "deploy" / "monitoring" / "millhand.dashboard.json"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Metrics of a process, of the chosen ones. They have no label `database`, which others have where a process has several.
PROCESSES = 'job=~"$job", instance=~"$instance"'
DATABASES = 'database=~"$database"'
# One client's own metrics, of the chosen ones.
OURS = f"{PROCESSES}, {DATABASES}"
QUEUES = f'{OURS}, queue=~"$queue"'
# The fleet's figures, which the leader alone has.
FLEET = f'job=~"$job", {DATABASES}'
FLEET_QUEUES = f'{FLEET}, queue=~"$queue"'
PANEL_WIDTH, PANEL_HEIGHT, COLUMNS = 8, 8, 24


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A panel: its title, what a person learns from it, the unit of its values, and a legend and a query for each line."""

    title: str
    meaning: str
    unit: str
    lines: tuple[tuple[str, str], ...]
    is_stacked: bool = False


def quantile(share: float, name: str, labels: str, *by: str) -> str:
    """Return the query of a quantile of a histogram."""
    rate = f"rate({name}_bucket{{{labels}}}[$__rate_interval])"
    return f"histogram_quantile({share}, sum by ({', '.join(('le', *by))}) ({rate}))"


PANELS = (
    Panel(
        title="Oldest available job",
        meaning="How late each queue is. Paused queues are late on purpose.",
        unit="s",
        lines=(("{{queue}}", f"max by (queue) (millhand_queue_oldest_available_seconds{{{FLEET_QUEUES}}})"),),
    ),
    Panel(
        title="Unfinished jobs",
        meaning="10,001 stands for any number above 10,000.",
        unit="short",
        lines=(("{{queue}} {{state}}", f"max by (queue, state) (millhand_queue_jobs{{{FLEET_QUEUES}}})"),),
    ),
    Panel(
        title="Attempts by outcome",
        meaning="Errored attempts are tried again; discarded jobs are not.",
        unit="ops",
        lines=(
            (
                "{{outcome}}",
                f"sum by (outcome) (rate(millhand_jobs_finished_total{{{QUEUES}}}[$__rate_interval]))",
            ),
        ),
        is_stacked=True,
    ),
    Panel(
        title="Failed attempts by kind",
        meaning="Which job fails, and with which error.",
        unit="ops",
        lines=(
            (
                "{{kind}} {{error_type}}",
                f"topk(10, sum by (kind, error_type) (rate(millhand_job_errors_total{{{OURS}}}[$__rate_interval])))",
            ),
        ),
        is_stacked=True,
    ),
    Panel(
        title="Wait until the attempt",
        meaning="From when a job was due until its attempt began.",
        unit="s",
        lines=(
            ("{{queue}} p50", quantile(0.5, "millhand_job_queue_wait_seconds", QUEUES, "queue")),
            ("{{queue}} p99", quantile(0.99, "millhand_job_queue_wait_seconds", QUEUES, "queue")),
        ),
    ),
    Panel(
        title="Duration of attempts",
        meaning="By kind. A slow kind takes the slots of its queue.",
        unit="s",
        lines=(
            ("{{kind}} p50", quantile(0.5, "millhand_job_run_seconds", OURS, "kind")),
            ("{{kind}} p99", quantile(0.99, "millhand_job_run_seconds", OURS, "kind")),
        ),
    ),
    Panel(
        title="Slots and connections in use",
        meaning="At 100 %, more slots or workers help a queue that is late. Above 100 %, statements wait for a connection.",
        unit="percentunit",
        lines=(
            (
                "{{queue}}",
                f"sum by (queue) (millhand_jobs_running{{{QUEUES}}}) / sum by (queue) (millhand_slots{{{QUEUES}}})",
            ),
            (
                "connections of {{instance}}",
                f"max by (instance) (millhand_statements_running{{{OURS}}} / millhand_pool_size{{{OURS}}})",
            ),
        ),
    ),
    Panel(
        title="Inserted jobs",
        meaning="By these clients. Other programs that insert have their own metrics.",
        unit="ops",
        lines=(
            (
                "{{kind}}",
                f"topk(10, sum by (kind) (rate(millhand_jobs_inserted_total{{{OURS}}}[$__rate_interval])))",
            ),
        ),
        is_stacked=True,
    ),
    Panel(
        title="Database",
        meaning="How long the statements take that insert, fetch and complete jobs.",
        unit="s",
        lines=(
            ("insert p99", quantile(0.99, "millhand_insert_seconds", OURS)),
            ("fetch {{queue}} p99", quantile(0.99, "millhand_fetch_seconds", QUEUES, "queue")),
            ("complete p99", quantile(0.99, "millhand_job_complete_seconds", OURS)),
        ),
    ),
    Panel(
        title="Clients",
        meaning="Of all languages, as the leader knows them.",
        unit="short",
        lines=(
            ("{{language}} {{state}}", f"max by (language, state) (millhand_clients{{{FLEET}}})"),
            ("leader {{leader_role}}", f"sum by (leader_role) (millhand_leader{{{FLEET}}})"),
        ),
    ),
    Panel(
        title="Event loop",
        meaning="How long a job held up the others of its process, at worst in a minute.",
        unit="s",
        lines=(("{{instance}}", f"max by (instance) (millhand_event_loop_lag_seconds{{{PROCESSES}}})"),),
    ),
    Panel(
        title="Processes",
        meaning="Memory, and CPU as a share of one core.",
        unit="short",
        lines=(
            (
                "{{instance}} cores",
                f"sum by (instance) (rate(process_cpu_seconds_total{{{PROCESSES}}}[$__rate_interval]))",
            ),
            ("{{instance}} GB", f"sum by (instance) (process_resident_memory_bytes{{{PROCESSES}}}) / 1e9"),
        ),
    ),
    Panel(
        title="Rows of the tables",
        meaning="Many dead rows make fetches slow: look for an open transaction.",
        unit="short",
        lines=(("{{table}} {{liveness}}", f"max by (table, liveness) (millhand_table_rows{{{FLEET}}})"),),
    ),
    Panel(
        title="Size of the tables",
        meaning="With indexes.",
        unit="bytes",
        lines=(("{{table}} {{part}}", f"max by (table, part) (millhand_table_bytes{{{FLEET}}})"),),
    ),
    Panel(
        title="Leader's services",
        meaning="How long their passes take.",
        unit="s",
        lines=(("{{service}} p99", quantile(0.99, "millhand_pass_seconds", OURS, "service")),),
    ),
)


def variable(name: str, query: str) -> dict[str, Any]:
    """Return a variable whose values are those of a label."""
    return {
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "datasource": SOURCE,
        "definition": query,
        "includeAll": True,
        "multi": True,
        "name": name,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "type": "query",
    }


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana reads it."""
    return {
        "editable": True,
        "panels": [_panel(number, panel) for number, panel in enumerate(PANELS)],
        "refresh": "30s",
        "schemaVersion": 39,
        "tags": ["millhand"],
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "type": "datasource",
                    "query": "prometheus",
                    "current": {},
                    "refresh": 1,
                },
                variable("job", "label_values(millhand_info, job)"),
                variable("instance", 'label_values(millhand_info{job=~"$job"}, instance)'),
                variable("database", 'label_values(millhand_info{job=~"$job"}, database)'),
                variable("queue", 'label_values(millhand_slots{job=~"$job"}, queue)'),
            ]
        },
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "title": "Millhand",
        "uid": "millhand",
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    per_row = COLUMNS // PANEL_WIDTH
    custom = {"fillOpacity": 10, "stacking": {"mode": "normal" if panel.is_stacked else "none"}}
    return {
        "datasource": SOURCE,
        "description": panel.meaning,
        "fieldConfig": {"defaults": {"custom": custom, "min": 0, "unit": panel.unit}, "overrides": []},
        "gridPos": {
            "h": PANEL_HEIGHT,
            "w": PANEL_WIDTH,
            "x": number % per_row * PANEL_WIDTH,
            "y": number // per_row * PANEL_HEIGHT,
        },
        "id": number + 1,
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"datasource": SOURCE, "expr": query, "legendFormat": legend, "refId": chr(ord("A") + index)}
            for index, (legend, query) in enumerate(panel.lines)
        ],
        "title": panel.title,
        "type": "timeseries",
    }


def text() -> str:
    """Return the text of the file."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
