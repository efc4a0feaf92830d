"""The command line: `python -m training list`, `… run NAME`, `… run --data FILE`, `… init`."""

# Everything else is imported inside `main`: torch and scikit-learn take seconds and may be missing,
# help is to be at once, and an interruption is answered from the start.
import argparse
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

PROGRAM = "python -m training"
INTERRUPTED = 130
NO_PACKAGE = 3
MODELS_VARIABLE = "MODELPORT_MODELS"
#: Columns of the terminal that help is written for, and where the texts of settings begin.
WIDTH = 79
INDENT = 21
#: What a run of `--data` computes where it is not set.
COMPUTED = ("epochs", "patience", "batch_size", "missing_rate", "shift_pixels")
SETTINGS = (
    "settings, with what they are where a run has no value of its own (`list` shows those of the "
    "built-in runs); with --data, those marked * follow from the data: epochs are 15 to 150 by the "
    "rows of a table, 40 at most for texts and series, 10 to 60 by the number of pictures:"
)
STATUSES = """\
exit status:
  0    published
  1    rejected by a gate or a proof, and not published
  2    usage: an option, a setting, a path or column that does not exist, data
       that cannot be used
  3    environment: no permission, a full disk, a missing package
  130  interrupted by Ctrl-C; the line says whether --resume can go on"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; makes the end of its help only when that is asked for."""

    def __init__(self, *, end: Callable[[], str] | None = None, **more: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **more)
        self._end = end

    def format_help(self) -> str:
        self.epilog = None if self._end is None else self._end()
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description="Train a model, prove it, and publish it.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="the built-in runs")
    _add_run(commands)
    _add_init(commands)
    return parser


def _add_run(commands: Any) -> None:
    run = commands.add_parser(
        "run",
        help="train, prove and publish one run",
        description="Train the candidates of a run, choose one on the validation rows, check the\n"
        "gates on the test rows, export it, prove the export, and publish the bundle.",
        end=_settings_help,
    )
    run.add_argument("built_in", metavar="NAME", nargs="?", help="a name that `list` shows")
    _add_source(run)
    run.add_argument("--config", type=Path, metavar="FILE", help="all this in a file of TOML")
    run.add_argument("--name", metavar="NAME", help="the model's name, with --data")
    run.add_argument(
        "--field",
        action="append",
        default=[],
        metavar="COLUMN=KIND",
        dest="fields",
        help="what a column holds: number, category, boolean, date or drop; text for texts to "
        "learn from; series and step for series, a row a step; image for names of picture "
        "files; may be repeated",
    )
    run.add_argument(
        "--split", metavar="HOW", help="the same as --set split=HOW, such as time:COLUMN"
    )
    run.add_argument(
        "--budget",
        metavar="BUDGET",
        help="the same as --set budget=BUDGET, such as 10m or trials=50",
    )
    run.add_argument(
        "--models",
        type=Path,
        metavar="DIR",
        default=None,
        help=f"the model repository (default: ${MODELS_VARIABLE}, else ./models)",
    )
    run.add_argument(
        "--resume", action="store_true", help="go on from where an interruption ended this run"
    )
    run.add_argument(
        "--checkpoints",
        type=Path,
        metavar="DIR",
        help="what --resume goes on from (default: .checkpoints in the model repository)",
    )
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change a setting of the run; may be repeated",
    )


def _add_source(parser: Any) -> None:
    parser.add_argument(
        "--data", type=Path, metavar="FILE", help="a table of your own, or a folder of pictures"
    )
    parser.add_argument(
        "--target", metavar="COLUMN", help="what to predict; a,b,c for columns of labels"
    )
    parser.add_argument(
        "--kind",
        choices=("auto", "classification", "regression", "multilabel"),
        metavar="TASK",
        help="auto (decided by the target), classification, regression or multilabel",
    )


def _add_init(commands: Any) -> None:
    init = commands.add_parser(
        "init",
        help="write a commented run.toml to start from",
        description="Write a file for `run --config`, with what is guessed of --data.",
    )
    _add_source(init)
    init.add_argument(
        "--output", type=Path, metavar="FILE", default=Path("run.toml"), help="(run.toml)"
    )


def _settings_help() -> str:
    from training.config import RunConfig  # noqa: PLC0415

    lines = [textwrap.fill(SETTINGS, WIDTH)]
    for name, field in RunConfig.model_fields.items():
        mark = " *" if name in COMPUTED else ""
        usual = "none" if field.default in ("", (), None) else field.default
        lines.append(
            textwrap.fill(
                f"{field.description} ({usual})",
                WIDTH,
                initial_indent=f"  {name + mark:<{INDENT - 2}}",
                subsequent_indent=" " * INDENT,
                break_on_hyphens=False,
            )
        )
    return "\n".join([*lines, "", STATUSES])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    try:
        return _run_command(arguments)
    except KeyboardInterrupt as interruption:
        going_on = f"; {interruption}" if interruption.args else ""
        print(f"interrupted; nothing was published{going_on}", file=sys.stderr)
        return INTERRUPTED


def _run_command(arguments: Sequence[str] | None) -> int:
    try:
        from training.errors import TrainingError  # noqa: PLC0415

        options = build_parser().parse_args(arguments)
        try:
            return {"list": _list, "init": _init, "run": _run}[options.command](options)
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


def _list(_: argparse.Namespace) -> int:
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
    from training import order  # noqa: PLC0415

    wanted = order.order_of(options)
    models = options.models or Path(os.environ.get(MODELS_VARIABLE) or "models")

    from rich.console import Console  # noqa: PLC0415

    from training import pipeline  # noqa: PLC0415
    from training.export.publish import check_writable  # noqa: PLC0415
    from training.fit.checkpoints import Keep  # noqa: PLC0415
    from training.papers import summary  # noqa: PLC0415
    from training.progress import progress_on  # noqa: PLC0415
    from training.runs import find_run  # noqa: PLC0415

    console = Console()
    keep = Keep(options.checkpoints or models / pipeline.CHECKPOINTS, options.resume)
    if wanted.built_in:
        run = find_run(wanted.built_in)
        config = run.config.with_overrides(wanted.settings)
    else:
        check_writable(models)
        run, config = _own(wanted, console)
    with _telling_how_to_go_on(keep, run.name):
        outcome = pipeline.travel(run, config, models, progress_on(console), keep)
    summary.show(outcome, console)
    return 0


@contextmanager
def _telling_how_to_go_on(keep: Any, run: str) -> Iterator[None]:
    """An interruption carries what can be done about it, if anything was kept."""
    try:
        yield
    except KeyboardInterrupt:
        if not keep.is_kept(run):
            raise
        how = "the same command" if keep.resume else "the same command with --resume"
        raise KeyboardInterrupt(f"{how} goes on from {keep.folder / run}") from None


def _own(wanted: Any, console: Any) -> tuple[Any, Any]:
    """A user's own data as a run, and its settings; says what was found in the data."""
    if wanted.pictures is not None:
        from training.own.images import own_images  # noqa: PLC0415

        found = own_images(wanted.pictures, wanted.name, wanted.settings)
        for note in found.notes:
            console.print(note, highlight=False, markup=False, soft_wrap=True)
        return found.run, found.config
    from training.own import choice  # noqa: PLC0415
    from training.own import tables as own  # noqa: PLC0415

    mine = choice.any_own_run(wanted.source, wanted.name, wanted.settings)
    own.show(mine.collected, console)
    return mine.run, mine.config


def _init(options: argparse.Namespace) -> int:
    from training import order  # noqa: PLC0415

    order.write_runfile(options)
    print(f"wrote {options.output}; read it, then: {PROGRAM} run --config {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
