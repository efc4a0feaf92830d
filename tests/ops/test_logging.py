"""Log lines: one object a line for machines, one line for people."""

import json
import logging
import sys
from collections.abc import Iterator
from datetime import datetime

import pytest

from app.ops.logging import JsonFormatter, TextFormatter, configure_logging

HOSTILE = 'a"b\\c\r\nINFO forged\x00\x1b[31m\u2028\u202e\ud800'


def record(message: str, *args: object, level: int = logging.INFO, **extra: object):
    made = logging.getLogger("app.test").makeRecord(
        "app.test", level, __file__, 1, message, args, None, extra=extra
    )
    made.created = 0.1234
    return made


def test_json_has_time_level_logger_message_and_extra() -> None:
    line = json.loads(JsonFormatter().format(record("%d rows", 3, model="digits", rows=3)))

    assert line == {
        "time": "1970-01-01T00:00:00.123+00:00",
        "level": "info",
        "logger": "app.test",
        "message": "3 rows",
        "model": "digits",
        "rows": 3,
    }
    assert datetime.fromisoformat(line["time"]).tzinfo is not None


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_hostile_extra_stays_on_one_line(formatter: logging.Formatter) -> None:
    line = formatter.format(record("x", name_given=HOSTILE, **{HOSTILE[:1]: HOSTILE}))

    assert line.isprintable()
    assert line.isascii()


def test_a_hostile_message_stays_on_one_line_of_json() -> None:
    line = JsonFormatter().format(record("got %s", HOSTILE))

    assert line.isprintable()
    assert json.loads(line)["message"] == f"got {HOSTILE}"


def test_what_json_does_not_know_is_written_as_text() -> None:
    line = json.loads(JsonFormatter().format(record("x", path=pytest, number=float("1.5"))))

    assert line["number"] == 1.5
    assert "module" in line["path"]


def test_an_exception_is_part_of_the_line() -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        made = record("failed", level=logging.ERROR)
        made.exc_info = sys.exc_info()

    line = JsonFormatter().format(made)

    assert len(line.splitlines()) == 1
    assert "ValueError: first\nsecond" in json.loads(line)["exception"]


def test_text_shows_extra_behind_the_message() -> None:
    assert (
        TextFormatter()
        .format(record("loaded", model="a b", rows=2))
        .endswith('INFO    loaded model="a b" rows=2')
    )


class TestConfigure:
    @pytest.fixture(autouse=True)
    def _root_is_put_back(self) -> Iterator[None]:
        root = logging.getLogger()
        kept = root.handlers[:], root.level, logging.getLogger("uvicorn").level
        root.handlers = []
        yield
        root.handlers, root.level = kept[0], kept[1]
        logging.getLogger("uvicorn").setLevel(kept[2])

    @pytest.mark.parametrize(
        ("form", "tty", "kind"),
        [
            ("json", True, JsonFormatter),
            ("text", False, TextFormatter),
            ("auto", True, TextFormatter),
            ("auto", False, JsonFormatter),
        ],
    )
    def test_the_form(
        self, form: str, tty: bool, kind: type, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: tty)

        configure_logging(form, "warning")

        (handler,) = logging.getLogger().handlers
        assert type(handler.formatter) is kind
        assert logging.getLogger().level == logging.WARNING

    def test_every_line_of_a_worker_says_which(self, capsys: pytest.CaptureFixture[str]) -> None:
        configure_logging("json", "info", worker=3)
        logging.getLogger("app.test").info("hello")

        assert json.loads(capsys.readouterr().err)["worker"] == 3
