"""Logs for machines: a JSON object a line."""

import json
import logging
from datetime import UTC, datetime


class JsonFormatter(logging.Formatter):
    """Makes a JSON object of a record: `time`, `level`, `logger`, `message` and, of an error, `traceback`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def log_json() -> None:
    """Have all that is logged from now on be JSON."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonFormatter())
