"""Celery's chord on Redis: the parts count in the result backend, and the last one sends the callback."""

from __future__ import annotations

import asyncio
import sys

import flow_journal
import flow_program
import flow_system
import harness
from celery import Celery, chord

SETTINGS = harness.settings()

app = Celery("bench", backend=harness.redis_url(), broker=harness.redis_url())
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_transport_options=SETTINGS.get("transport", {}),
    result_backend_transport_options=SETTINGS.get("transport", {}),
    **SETTINGS.get("conf", {}),
)


@app.task(name="part")
def part(fan_out: int, n: int) -> None:
    """One part."""
    flow_journal.work_in_process(fan_out, n)


@app.task(name="callback")
def callback(fan_out: int) -> None:
    """The body of the chord, which takes no results."""
    flow_journal.call_back(fan_out)


class FlowCelery(flow_system.FlowSystem):
    """`celery worker` with the options of the settings."""

    name = "celery"
    is_on_redis = True

    async def insert_fan_out(self, fan_out: int, num_parts: int) -> None:
        await asyncio.to_thread(_insert, fan_out, num_parts)

    def command_at(self, place: int) -> list[str]:
        words = ["-m", "celery", "-A", "flow_celery", "worker", "-l", "WARNING", "-n", f"place{place}@%h"]
        return [sys.executable, *words, *harness.settings()["options"]]


def _insert(fan_out: int, num_parts: int) -> None:
    chord(part.si(fan_out, n) for n in range(num_parts))(callback.si(fan_out))


if __name__ == "__main__":
    import flow_celery  # the name by which its worker imports this module

    flow_program.main(flow_celery.FlowCelery())
