"""How libpq is told of a database."""

from __future__ import annotations

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from millhand.driver.planner import PLANNER_SETTINGS
from millhand.driver.psycopg_error import CONNECT_SECONDS
from millhand.driver.url import fault_of_pgport


def conninfo(url: str, *, is_tuned: bool = False) -> str:
    """
    Return how to connect to `url`, with a name and a deadline where it has none, and with the planner's settings.

    Raises: psycopg.ProgrammingError for what libpq cannot read; ConfigError for a PGPORT that is no port, which it would
    take for a host that cannot be found.
    """
    said = conninfo_to_dict(url)
    if not said.get("port") and (fault := fault_of_pgport()):
        raise fault
    settings = " ".join(f"-c {name}={value}" for name, value in PLANNER_SETTINGS.items()) if is_tuned else ""
    options = f"{settings} {said.get('options') or ''}".strip()  # the last one of a name is what holds
    return make_conninfo(
        url,
        application_name=said.get("application_name") or "millhand",
        connect_timeout=said.get("connect_timeout") or int(CONNECT_SECONDS),
        **({"options": options} if options else {}),
    )
