"""`python -m app`: the service's command line."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final, NoReturn

from app import __version__
from app.errors import StartupError

if TYPE_CHECKING:
    from app.settings import Settings

logger = logging.getLogger("app")

WORKER: Final = "worker"
#: Options that are settings.
_OVERRIDES: Final = ("models", "host", "port", "workers", "cache")
_SERVE_MORE: Final = """
With several workers, the first proves the models and the others use what it found; the cores are
divided between them. SIGTERM ends all after their requests; SIGHUP looks for new versions and pins.
"""
_PLAN_MORE: Final = """
The file is for MODELPORT_PLAN on machines like this one, which then measure nothing.
"""
_PIN_MORE: Final = """
Writes to the model repository; services that run follow within MODELPORT_POLL_S, or on SIGHUP.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    # First of all, before the slow imports: process 1 of a container ignores what it does not
    # handle, and an orchestrator that changes its mind would have to wait and kill.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end_at_once)
    from app.ops.logging import configure_logging  # noqa: PLC0415
    from app.settings import load_settings  # noqa: PLC0415

    given = sys.argv[1:] if arguments is None else arguments
    parser = _worker_parser() if given[:1] == [WORKER] else _parser()
    options = parser.parse_args(given)
    try:
        settings = load_settings(**{name: getattr(options, name, None) for name in _OVERRIDES})
        configure_logging(settings.log_format, settings.log_level, getattr(options, "place", None))
        return _COMMANDS[options.command](settings, options)
    except StartupError as error:
        _say_why(options.command, error)
        return error.exit_status


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

    def command(name: str, about: str, more: str = "") -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=about, description=f"{about}. {more}".strip())
        made.add_argument(
            "--models", type=Path, metavar="DIR", help="model repository (MODELPORT_MODELS, models)"
        )
        return made

    serve = command("serve", "prove the published models and answer requests", _SERVE_MORE)
    serve.add_argument("--host", help="address to listen on (MODELPORT_HOST, 127.0.0.1)")
    serve.add_argument("--port", type=int, help="port, 0 for a free one (MODELPORT_PORT, 8000)")
    serve.add_argument(
        "--workers", type=int, metavar="N", help="processes that serve (MODELPORT_WORKERS, 1)"
    )
    command("doctor", "show what the service would find and use here")
    plan = command("plan", "prove and calibrate models here, and show what they cost", _PLAN_MORE)
    plan.add_argument("names", nargs="*", metavar="NAME", help="models; all when none is named")
    plan.add_argument("--out", type=Path, metavar="FILE", help="where to write the plans")
    pin = command("pin", "serve this version of a model, whatever else is published", _PIN_MORE)
    pin.add_argument("name", metavar="NAME", help="model")
    pin.add_argument("version", metavar="VERSION", type=int, help="version, a whole number")
    unpin = command("unpin", "serve the newest version of a model that proves again", _PIN_MORE)
    unpin.add_argument("name", metavar="NAME", help="model")
    return parser


def _worker_parser() -> argparse.ArgumentParser:
    """Of what a supervisor starts; nobody else does, so `--help` does not tell of it."""
    parser = argparse.ArgumentParser(prog=f"python -m app {WORKER}")
    parser.add_argument("command", choices=[WORKER])
    for name in ("place", "number", "listener", "channel"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--cache")
    return parser


def _serve(settings: "Settings", options: argparse.Namespace) -> int:  # noqa: ARG001
    # Until there is something to look at anew; a terminal that closes does not end the service.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if settings.workers > 1:
        from app.supervisor import supervise  # noqa: PLC0415 (a small process)

        return supervise(settings)
    from app.server import serve  # noqa: PLC0415 (bad settings are told before slow imports)

    serve(settings)
    return _end_now()


def _work(settings: "Settings", options: argparse.Namespace) -> int:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from app.worker import Assignment, work  # noqa: PLC0415

    work(
        settings,
        Assignment(
            options.place, options.number, options.listener, options.channel, options.folder
        ),
    )
    return _end_now()


def _end_now() -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    # A run that outlasted the grace period is in native code: the interpreter's own end would wait
    # for it or abort under it.
    os._exit(0)


def _plan(settings: "Settings", options: argparse.Namespace) -> int:
    from app.planning import plan  # noqa: PLC0415

    return _print(plan(settings, options.names, options.out))


def _pin(settings: "Settings", options: argparse.Namespace) -> int:
    from app.pin import pin  # noqa: PLC0415

    return _print([pin(settings, options.name, options.version)])


def _unpin(settings: "Settings", options: argparse.Namespace) -> int:
    from app.pin import unpin  # noqa: PLC0415

    return _print([unpin(settings, options.name)])


def _print(lines: Iterable[str]) -> int:
    try:
        for line in lines:
            print(line, flush=True)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _say_why(command: str, error: StartupError) -> None:
    """One line on stderr: of the log where that is JSON, else for a person."""
    from app.ops.logging import JsonFormatter  # noqa: PLC0415

    handlers = logging.getLogger().handlers
    if any(isinstance(handler.formatter, JsonFormatter) for handler in handlers):
        what = "cannot start" if command in ("serve", WORKER) else f"{command} failed"
        logger.error(what, extra={"error": str(error)})
    else:  # as text, or before the format was known
        print(f"modelport: {error}", file=sys.stderr)


def _doctor(settings: "Settings", options: argparse.Namespace) -> int:  # noqa: ARG001
    from app.doctor import report  # noqa: PLC0415

    found = report(settings)
    _print(found.lines)
    return 0 if found.can_serve else 1


_COMMANDS: Final[Mapping[str, Callable[["Settings", argparse.Namespace], int]]] = {
    "serve": _serve,
    WORKER: _work,
    "doctor": _doctor,
    "plan": _plan,
    "pin": _pin,
    "unpin": _unpin,
}


if __name__ == "__main__":
    sys.exit(main())
