"""What the command line and a file of TOML ask for together."""

import argparse
import os.path
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.config import parse_overrides
from training.data.files import read_table
from training.data.images import is_image_folder
from training.data.infer import infer
from training.data.table import TableSource
from training.errors import EnvironmentTrouble, UsageError
from training.runfile import RunFile, commented_runfile, read_runfile


@dataclass(frozen=True)
class Order:
    """A built-in run, or a table or folder of pictures and its model's name; and settings."""

    built_in: str = ""
    pictures: Path | None = None
    source: TableSource | None = None
    name: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def order_of(options: argparse.Namespace) -> Order:
    """Options win over the file.

    Raises:
        UsageError: too little is asked for, or things that exclude each other.
        EnvironmentTrouble: a file cannot be read.
    """
    file = read_runfile(options.config) if options.config else RunFile()
    settings = {**file.settings, **_short_settings(options), **parse_overrides(options.overrides)}
    built_in = options.built_in or (None if options.data else file.run)
    data = options.data or (None if options.built_in else file.data)
    if built_in and data:
        raise UsageError(f"the built-in run {built_in} has data of its own, so that --data is none")
    if built_in:
        if options.fields or options.target or options.name or options.kind:
            raise UsageError("--target, --kind, --name and --field are for --data")
        return Order(built_in=built_in, settings=settings)
    if not data:
        raise UsageError("say what to train: the NAME of a built-in run, or --data FILE")
    name = options.name or file.name
    if data.is_dir():
        if options.fields or options.target or options.kind:
            raise UsageError(
                f"{data} is a folder: its sub-folders are the classes, without --target"
            )
        if not is_image_folder(data):
            raise UsageError(f"{data} has no sub-folder with pictures; each is a class")
        return Order(pictures=data, name=name, settings=settings)
    target = _targets(options.target, data) or file.target
    if not target:
        raise UsageError("--data needs --target COLUMN, the column to predict")
    fields = {**file.fields, **parse_fields(options.fields)}
    kind = options.kind or file.kind or "auto"
    source = TableSource(data, target, kind, fields)
    return Order(source=source, name=name, settings=settings)


def _short_settings(options: argparse.Namespace) -> dict[str, str]:
    """Settings that have an option of their own."""
    given = {"split": options.split, "budget": options.budget}
    return {name: value for name, value in given.items() if value is not None}


def parse_fields(pairs: list[str]) -> dict[str, str]:
    """`["age=number"]` -> `{"age": "number"}`; a column's own name may hold `=`.

    Raises:
        UsageError: a pair without `=`, or a column given twice.
    """
    fields: dict[str, str] = {}
    for pair in pairs:
        column, equals, kind = pair.rpartition("=")
        if not equals or not column:
            raise UsageError(f"--field takes column=kind, got {pair!r}")
        if column in fields:
            raise UsageError(f"--field {column} is given twice")
        fields[column] = kind
    return fields


def _targets(text: str | None, data: Path) -> tuple[str, ...]:
    """The column of that very name, or several with commas between them."""
    if not text or "," not in text:
        return (text,) if text else ()
    if text in read_table(data).frame.columns:
        return (text,)
    return tuple(part.strip() for part in text.split(",") if part.strip())


def write_runfile(options: argparse.Namespace) -> None:
    """Write what `init` is asked for.

    Raises:
        UsageError: the file is there, or `--data` cannot be used.
        EnvironmentTrouble: it cannot be written.
    """
    columns: tuple[Any, ...] = ()
    target: tuple[str, ...] = ("the column to predict",)
    if options.data:
        table = read_table(options.data)
        target = _targets(options.target, options.data) or target
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
