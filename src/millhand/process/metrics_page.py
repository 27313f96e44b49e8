"""
The page `/metrics` of a worker, and of a supervisor for all of its worker processes.

    Prometheus ──▶ supervisor ──▶ "/metrics/points" of each process ──▶ one page, with the label `process`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from millhand.core.metrics.points import Points, decode_points, encode_points, of_processes
from millhand.observe.http_server import Answer, plain

PAGE_PATH = "/metrics"
POINTS_PATH = "/metrics/points"
POINTS_TYPE = "application/msgpack"

Read = Callable[[], Sequence[Points]]


def worker_routes(read: Read) -> dict[str, Callable[[], Answer]]:
    """Return the functions of a worker's paths; `read` returns the points of its client and of its event loop."""

    def points() -> list[Points]:
        from millhand.observe.prometheus import process_points  # noqa: PLC0415 - most workers need no page

        return [*read(), *process_points()]

    return {
        PAGE_PATH: lambda: page_answer(points),
        POINTS_PATH: lambda: _or_remedy(lambda: Answer(200, POINTS_TYPE, encode_points(points()))),
    }


def page_of_processes(answers: Mapping[int, Answer]) -> Answer:
    """Return one page from the points of several processes; a process that answers otherwise is left out."""
    pages = {
        str(number): decode_points(answer.body)
        for number, answer in sorted(answers.items())
        if answer.content_type == POINTS_TYPE
    }
    return page_answer(lambda: of_processes(pages))


def page_answer(read: Read) -> Answer:
    """Return a page of points; without the library, an answer that says how to install it."""

    def answer() -> Answer:
        from millhand.observe.prometheus import CONTENT_TYPE, page  # noqa: PLC0415 - as above

        return Answer(200, CONTENT_TYPE, page(read))

    return _or_remedy(answer)


def _or_remedy(answer: Callable[[], Answer]) -> Answer:
    try:
        return answer()
    except ModuleNotFoundError as error:
        if error.name != "prometheus_client":
            raise
        return plain(503, "metrics need prometheus_client; run: pip install 'millhand[metrics]'")
