"""
Logging of a worker: formats, fields, job logs, and the handler of failed attempts.

`configure_logging` writes a program's log as `millhand worker` does. The formatters are for a logging configuration of
your own.
"""

from typing import TYPE_CHECKING

from millhand.core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from millhand.observe.log import JsonFormatter, TextFormatter, configure_logging
else:
    __getattr__, __dir__ = lazy_exports(
        __name__, {"millhand.observe.log": "JsonFormatter TextFormatter configure_logging"}
    )

__all__ = ["JsonFormatter", "TextFormatter", "configure_logging"]
