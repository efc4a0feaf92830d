"""What the command line and a file of TOML ask for together.

All that can be refused without the data is refused here, and quickly: what takes seconds to import
is imported where it is needed.
"""

import argparse
import os.path
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from training.config import RunConfig, parse_overrides
from training.data.header import check_columns, column_names
from training.data.kinds import KINDS
from training.errors import EnvironmentTrouble, UsageError, hint_of
from training.paths import check_exists
from training.runfile import RunFile, commented_runfile, read_runfile
from training.wording import split_column

if TYPE_CHECKING:
    from training.data.table import TableSource

#: The names of `training.runs.RUNS`, which takes seconds to import.
BUILT_IN: Final = ("digits", "fashion", "diamonds", "penguins", "languages", "vowels")


@dataclass(frozen=True)
class Order:
    """A built-in run, or a table or folder of pictures and its model's name; and settings."""

    built_in: str = ""
    pictures: Path | None = None
    source: "TableSource | None" = None
    name: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def order_of(options: argparse.Namespace) -> Order:
    """Options win over the file.

    Raises:
        UsageError: too little is asked for, things that exclude each other, a name or value that
            is not known, or a path or column that is not there.
        EnvironmentTrouble: a file cannot be read.
    """
    file = read_runfile(options.config) if options.config else RunFile()
    settings = {**file.settings, **_short_settings(options), **parse_overrides(options.overrides)}
    asked = RunConfig().with_overrides(settings)
    built_in = options.built_in or (None if options.data else file.run)
    data = options.data or (None if options.built_in else file.data)
    if built_in and data:
        raise UsageError(f"the built-in run {built_in} has data of its own, so that --data is none")
    if built_in:
        if options.fields or options.target or options.name or options.kind:
            raise UsageError("--target, --kind, --name and --field are for --data")
        return Order(built_in=_known_run(built_in), settings=settings)
    if not data:
        raise UsageError("say what to train: the NAME of a built-in run, or --data FILE")
    check_exists(data)
    name = _model_name(options.name or file.name)
    if data.is_dir():
        return Order(pictures=_pictures(data, options), name=name, settings=settings)
    source = _table(data, options, file, split_column(asked.split))
    return Order(source=source, name=name, settings=settings)


def _short_settings(options: argparse.Namespace) -> dict[str, str]:
    """Settings that have an option of their own."""
    given = {"split": options.split, "budget": options.budget}
    return {name: value for name, value in given.items() if value is not None}


def _known_run(name: str) -> str:
    if name not in BUILT_IN:
        hint = hint_of(name, BUILT_IN)
        raise UsageError(f"unknown run {name!r}{hint}; known are {', '.join(BUILT_IN)}")
    return name


def _model_name(name: str | None) -> str | None:
    if name is None:
        return None
    from app.bundle.manifest import MODEL_NAME_PATTERN  # noqa: PLC0415 (takes long to import)

    if not re.fullmatch(MODEL_NAME_PATTERN, name):
        raise UsageError(
            f"no model can be named {name!r}: letters, digits, '.', '_' and '-', 64 at most, "
            "the first a letter or digit"
        )
    return name


def _pictures(data: Path, options: argparse.Namespace) -> Path:
    from training.data.image_folder import is_image_folder  # noqa: PLC0415 (takes long to import)

    if options.fields or options.target or options.kind:
        raise UsageError(f"{data} is a folder: its sub-folders are the classes, without --target")
    if not is_image_folder(data):
        raise UsageError(f"{data} has no sub-folder with pictures; each is a class")
    return data


def _table(
    data: Path, options: argparse.Namespace, file: RunFile, divided_by: str | None
) -> "TableSource":
    """The table as it is asked for, whose columns are there as far as its beginning tells."""
    fields = {**file.fields, **parse_fields(options.fields)}
    target = _targets(options.target, data) or file.target
    if not target:
        raise UsageError("--data needs --target COLUMN, the column to predict")
    check_columns(data, [*target, *fields, *([divided_by] if divided_by else [])])

    from training.data.table import TableSource  # noqa: PLC0415 (takes long to import)

    return TableSource(data, target, options.kind or file.kind or "auto", fields)


def parse_fields(pairs: list[str]) -> dict[str, str]:
    """`["age=number"]` -> `{"age": "number"}`; a column's own name may hold `=`.

    Raises:
        UsageError: a pair without `=`, an unknown kind, or a column given twice.
    """
    fields: dict[str, str] = {}
    for pair in pairs:
        column, equals, kind = pair.rpartition("=")
        if not equals or not column:
            raise UsageError(f"--field takes column=kind, got {pair!r}")
        if kind not in KINDS:
            raise UsageError(f"--field {pair}{hint_of(kind, KINDS)}: kinds are {', '.join(KINDS)}")
        if column in fields:
            raise UsageError(f"--field {column} is given twice")
        fields[column] = kind
    return fields


def _targets(text: str | None, data: Path) -> tuple[str, ...]:
    """The column of that very name, or several with commas between them."""
    if not text or "," not in text:
        return (text,) if text else ()
    if text in _columns(data):
        return (text,)
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _columns(data: Path) -> tuple[str, ...]:
    """By the beginning of the file where that tells them, or else by all of it."""
    names = column_names(data)
    if names is None:
        from training.data.files import read_table  # noqa: PLC0415 (takes long to import)

        names = tuple(read_table(data).frame.columns)
    return names


def write_runfile(options: argparse.Namespace) -> None:
    """Write what `init` is asked for.

    Raises:
        UsageError: the file is there, or `--data` cannot be used.
        EnvironmentTrouble: it cannot be written.
    """
    columns: tuple[Any, ...] = ()
    target: tuple[str, ...] = ("the column to predict",)
    if options.data:
        check_exists(options.data)
        given = _targets(options.target, options.data)
        check_columns(options.data, given)

        from training.data.files import read_table  # noqa: PLC0415 (takes long to import)
        from training.data.infer import infer  # noqa: PLC0415

        table = read_table(options.data)
        target = given or target
        names = [name for name in table.frame.columns if name not in target]
        columns = infer(table, names, {})
    data = os.path.relpath(options.data, options.output.parent) if options.data else "table.csv"
    text = commented_runfile(data, target, columns)
    try:
        with options.output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{options.output} is there already") from None
    except OSError as error:
        raise EnvironmentTrouble(f"{options.output} cannot be written: {error.strerror}") from None
