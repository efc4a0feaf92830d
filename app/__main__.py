"""`python -m app`: the service's command line."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from app import __version__
from app.errors import StartupError

if TYPE_CHECKING:
    from app.settings import Settings

logger = logging.getLogger("app")


def main(arguments: Sequence[str] | None = None) -> int:
    # First of all, before the slow imports: process 1 of a container ignores what it does not
    # handle, and an orchestrator that changes its mind would have to wait and kill.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end_at_once)
    from app.ops.logging import configure_logging  # noqa: PLC0415
    from app.settings import load_settings  # noqa: PLC0415

    options = _parser().parse_args(arguments)
    try:
        settings = load_settings(
            models=options.models,
            host=getattr(options, "host", None),
            port=getattr(options, "port", None),
        )
        configure_logging(settings.log_format, settings.log_level)
        if options.command == "serve":
            _serve(settings)
        else:
            return _doctor(settings)
    except StartupError as error:
        _say_why(error)
        return error.exit_status
    return 0


def _end_at_once(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """Until requests are served nothing is in flight, and a thread that loads models need not be
    waited for."""
    os._exit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m app",
        description="Serve published models over HTTP.",
        epilog="Every setting is an environment variable MODELPORT_*; see docs/settings.md.",
    )
    parser.add_argument("--version", action="version", version=f"modelport {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="prove the published models and answer requests")
    serve.add_argument("--host", help="address to listen on (MODELPORT_HOST, 127.0.0.1)")
    serve.add_argument("--port", type=int, help="port, 0 for a free one (MODELPORT_PORT, 8000)")
    doctor = commands.add_parser("doctor", help="show what the service would find and use here")
    for command in (serve, doctor):
        command.add_argument(
            "--models", type=Path, metavar="DIR", help="model repository (MODELPORT_MODELS, models)"
        )
    return parser


def _serve(settings: "Settings") -> None:
    from app.server import serve  # noqa: PLC0415 (bad settings are told before slow imports)

    serve(settings)
    sys.stdout.flush()
    sys.stderr.flush()
    # A run that outlasted the grace period is in native code: the interpreter's own end would wait
    # for it or abort under it.
    os._exit(0)


def _say_why(error: StartupError) -> None:
    """One line on stderr: of the log where that is JSON, else for a person."""
    from app.ops.logging import JsonFormatter  # noqa: PLC0415

    handlers = logging.getLogger().handlers
    if any(isinstance(handler.formatter, JsonFormatter) for handler in handlers):
        logger.error("cannot start", extra={"error": str(error)})
    else:  # as text, or before the format was known
        print(f"modelport: {error}", file=sys.stderr)


def _doctor(settings: "Settings") -> int:
    from app.doctor import report  # noqa: PLC0415

    found = report(settings)
    try:
        print(*found.lines, sep="\n", flush=True)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0 if found.can_serve else 1


if __name__ == "__main__":
    sys.exit(main())
