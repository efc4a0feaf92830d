"""The command line: `python -m training list`, `python -m training run NAME`."""

# Everything else is imported inside `main`: torch and scikit-learn take seconds and may be missing,
# help is to be at once, and an interruption is answered from the start.
import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

PROGRAM = "python -m training"
INTERRUPTED = 130
NO_PACKAGE = 3
MODELS_VARIABLE = "MODELPORT_MODELS"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description="Train a model, prove it, and publish it.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="the built-in runs")
    run = commands.add_parser(
        "run",
        help="train, prove and publish one run",
        description="Train the candidates of a run, choose one on the validation rows, check the "
        "gates on the test rows, export it, prove the export, and publish the bundle.",
        epilog=_settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("name", metavar="NAME", help="a name that `list` shows")
    run.add_argument(
        "--models",
        type=Path,
        metavar="DIR",
        default=None,
        help=f"the model repository (default: ${MODELS_VARIABLE}, else ./models)",
    )
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change a setting of the run; may be repeated",
    )
    return parser


def _settings_help() -> str:
    from training.config import RunConfig  # noqa: PLC0415

    fields = RunConfig.model_fields.items()
    lines = [f"  {name:<18}{field.description} ({field.default})" for name, field in fields]
    return "\n".join(
        [
            "settings, with what they are where a run has no value of its own (see `list`):",
            *lines,
            "",
            "exit status: 0 published, 1 rejected by a gate or proof, 2 usage, 3 environment",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    try:
        return _run_command(arguments)
    except KeyboardInterrupt:
        print("interrupted; nothing was published", file=sys.stderr)
        return INTERRUPTED


def _run_command(arguments: Sequence[str] | None) -> int:
    try:
        from training.errors import TrainingError  # noqa: PLC0415

        options = build_parser().parse_args(arguments)
        try:
            return _list() if options.command == "list" else _run(options)
        except TrainingError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_status
    except ModuleNotFoundError as error:
        print(
            f"error: package {error.name} is missing; install what training needs by: "
            "pip install 'modelport[train]'",
            file=sys.stderr,
        )
        return NO_PACKAGE


def _list() -> int:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from training.runs import RUNS  # noqa: PLC0415

    table = Table(box=None, pad_edge=False)
    for column in ("name", "description", "settings of its own"):
        table.add_column(column)
    for run in RUNS:
        own = "\n".join(f"{name}={value}" for name, value in run.config.own().items())
        table.add_row(run.name, run.description, own)
    Console().print(table)
    return 0


def _run(options: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415

    from training.config import parse_overrides  # noqa: PLC0415

    overrides = parse_overrides(options.overrides)
    models = options.models or Path(os.environ.get(MODELS_VARIABLE) or "models")

    from training import pipeline, summary  # noqa: PLC0415
    from training.progress import progress_on  # noqa: PLC0415

    console = Console()
    outcome = pipeline.run(options.name, models, overrides, progress_on(console))
    summary.show(outcome, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
