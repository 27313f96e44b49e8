"""
Loggers whose messages carry their fields in the text.

A message is a constant phrase, and its values are in `extra`. The formatters of `millhand.observe` write both. Another
formatter writes the message alone, so its text has the fields too; otherwise it would not name the job.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping


class FieldRecord(logging.LogRecord):
    """
    A record with its fields in the message.

    Attributes:
        event: The phrase alone. Formatters that write attributes as fields, such as those for JSON, write it too. It is
            the last of the record's own attributes: what comes after it, a handler has added.
    """

    event: str

    def getMessage(self) -> str:  # noqa: N802 - the name is of `logging`
        """Return the phrase with the fields."""
        if self.msg != self.event:  # a QueueHandler has replaced it by the whole text
            return str(self.msg)
        # For formatters of others only: a start needs no patterns.
        from millhand.core.log.field_text import message_with  # noqa: PLC0415

        return message_with(self.event, self.own_fields)

    @property
    def queued_trace(self) -> str:
        """The traceback, if a QueueHandler has moved it into the message; the fields before it have no line break."""
        return "" if self.msg == self.event else str(self.msg).partition("\n")[2]

    @property
    def own_fields(self) -> Mapping[str, object]:
        """The fields that Millhand logged, without what an application adds to every record."""
        names = list(vars(self))
        # With the record's own values, because an application's factory may read them.
        made_by = logging.getLogRecordFactory()
        of_every_record = vars(
            made_by(self.name, self.levelno, self.pathname, self.lineno, self.msg, (), None)
        )
        own = names[: names.index("event")]
        return {name: getattr(self, name) for name in own if name not in of_every_record}


def logger_of(module: str) -> logging.Logger:
    """Return the logger of a module of Millhand; its records are `FieldRecord`s."""
    logger = logging.getLogger(module)
    logger.addFilter(_to_field_record)
    return logger


def is_own_filter(one: object) -> bool:
    """Return whether a filter of a logger is that of `logger_of`, which only makes `FieldRecord`s."""
    return one is _to_field_record


def _to_field_record(record: logging.LogRecord) -> bool:
    if type(record) is logging.LogRecord:  # an application may make records of its own class
        vars(record)["event"] = record.msg
        record.__class__ = FieldRecord
    return True
