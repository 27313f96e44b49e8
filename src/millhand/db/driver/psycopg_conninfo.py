"""The conninfo string that libpq connects by."""

from __future__ import annotations

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from millhand.db.driver.driver import PLANNER_SETTINGS
from millhand.db.driver.translation import CONNECT_SECONDS
from millhand.db.driver.url import fault_of_pgport


def conninfo(url: str, *, is_tuned: bool = False) -> str:
    """
    Return the conninfo for `url`, with a default name and deadline, and with the planner settings if `is_tuned`.

    Raises: psycopg.ProgrammingError for what libpq cannot read; ConfigError for an invalid PGPORT, which libpq would
    report as an unknown host.
    """
    given = conninfo_to_dict(url)
    if not given.get("port") and (fault := fault_of_pgport()):
        raise fault
    settings = " ".join(f"-c {name}={value}" for name, value in PLANNER_SETTINGS.items()) if is_tuned else ""
    options = f"{settings} {given.get('options') or ''}".strip()  # of one setting the last value counts
    return make_conninfo(
        url,
        application_name=given.get("application_name") or "millhand",
        connect_timeout=given.get("connect_timeout") or int(CONNECT_SECONDS),
        **({"options": options} if options else {}),
    )
