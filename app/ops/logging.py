"""Log lines: one JSON object each for machines, plain text on a terminal."""

import datetime
import json
import logging
import sys
from typing import Any, Final, Literal

#: Attributes that every record has; the rest came in by `extra` and is shown.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, Any] = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)  # escapes control characters of user strings


class TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the base class's name)
        extra = "".join(f" {key}={json.dumps(v, default=str)}" for key, v in _extra(record).items())
        return super().formatMessage(record) + extra


class _Worker(logging.Filter):
    def __init__(self, worker: int) -> None:
        super().__init__()
        self._worker = worker

    def filter(self, record: logging.LogRecord) -> bool:
        record.worker = self._worker
        return True


def configure_logging(
    form: Literal["auto", "json", "text"], level: str, worker: int | None = None
) -> None:
    """Send every logger of the process to stderr in one format.

    Args:
        worker: of several workers, which one this is; every line says so.
    """
    as_text = form == "text" or (form == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter() if as_text else JsonFormatter())
    if worker is not None:
        handler.addFilter(_Worker(worker))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # uvicorn's own lines about start and stop are said by this service in its own words.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
