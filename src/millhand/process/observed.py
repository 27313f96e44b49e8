"""What observes a worker, if `[observe]` or systemd asks for it. Nothing of it is imported otherwise."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from millhand.process.supervisor import LINK_VARIABLE
from millhand.shells.settings.load import Settings, environment_settings

if TYPE_CHECKING:
    from millhand.process.supervisor_observer import SupervisorObserver
    from millhand.process.worker_observer import WorkerObserver

SYSTEMD_VARIABLE = "NOTIFY_SOCKET"
OBSERVE_PREFIX = "MILLHAND_OBSERVE_"


def check_observed(settings: Settings) -> None:
    """Raise ConfigError for a setting of `[observe]` that no process can use."""
    if settings.section("observe"):
        from millhand.process.observer import observe_settings  # noqa: PLC0415 - unused without [observe]

        observe_settings(settings)


def worker_observer(settings: Settings, databases: Sequence[str] = ()) -> WorkerObserver | None:
    """Return what observes this worker process of one or several databases. Raises: ConfigError if it cannot listen."""
    is_supervised = LINK_VARIABLE in os.environ
    if not (is_supervised or _is_observed(settings)):
        return None
    from millhand.observe.service_manager import service_manager  # noqa: PLC0415 - unused without an observer
    from millhand.process.observer import observe_settings  # noqa: PLC0415
    from millhand.process.worker_observer import WorkerObserver  # noqa: PLC0415

    observed = observe_settings(settings, service_manager(), is_supervised=is_supervised)
    with settings.errors_with_origin("observe"):
        return WorkerObserver(observed, databases)


def environment_observer() -> WorkerObserver | None:
    """Return what observes this worker process if its environment asks for it, without a file of settings."""
    given = {name: text for name, text in os.environ.items() if name.startswith(OBSERVE_PREFIX)}
    if not given and SYSTEMD_VARIABLE not in os.environ:
        return None
    return worker_observer(environment_settings(given))


def supervisor_observer(settings: Settings, num_processes: int) -> SupervisorObserver | None:
    """Return what observes all processes of this supervisor. Raises: ConfigError if it cannot listen."""
    if not _is_observed(settings):
        return None
    from millhand.observe.service_manager import service_manager  # noqa: PLC0415 - unused without an observer
    from millhand.process.observer import observe_settings  # noqa: PLC0415
    from millhand.process.supervisor_observer import SupervisorObserver  # noqa: PLC0415

    observed = observe_settings(settings, service_manager())
    with settings.errors_with_origin("observe"):
        return SupervisorObserver(observed, num_processes)


def _is_observed(settings: Settings) -> bool:
    has_setting = settings.get("observe.listen") or settings.get("observe.file")
    return bool(has_setting) or SYSTEMD_VARIABLE in os.environ
