"""A run in a file: `run.toml` says what the options of the command line say, and is checked."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from training.config import RunConfig
from training.data.kinds import KINDS, TASK_KINDS, TaskKind
from training.errors import EnvironmentTrouble, UsageError, hint_of, nearest
from training.paths import check_exists

if TYPE_CHECKING:
    from training.data.infer import Column

#: The settings that a fresh file shows; the others are as good, but seldom touched.
_SHOWN: Final = ("split", "gates", "validation_share", "test_share", "learning_rate", "seed")


@dataclass(frozen=True)
class RunFile:
    """What a file says; None and empty where it says nothing.

    Attributes:
        run: a built-in run.
        data: beside the file, where it is no whole path.
        fields: kinds of columns, by name.
        settings: as `--set` takes them, by name.
    """

    run: str | None = None
    data: Path | None = None
    target: tuple[str, ...] = ()
    kind: TaskKind | None = None
    name: str | None = None
    fields: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def read_runfile(path: Path) -> RunFile:
    """Read and check a file.

    Raises:
        UsageError: it is not there, not TOML, or has an unknown key or a value of the wrong type.
        EnvironmentTrouble: it cannot be read.
    """
    check_exists(path)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EnvironmentTrouble(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path.name} is not TOML: {error}") from None
    _check_keys(path, document, list(RunFile.__dataclass_fields__), "")
    texts = {key: _text(path, document, key) for key in ("run", "data", "kind", "name")}
    if texts["kind"] not in (None, *TASK_KINDS):
        raise UsageError(f"{path.name}: kind is one of {', '.join(TASK_KINDS)}")
    fields, settings = _table(path, document, "fields"), _table(path, document, "settings")
    _check_keys(path, settings, list(RunConfig.model_fields), "settings.")
    for name, kind in fields.items():
        if kind not in KINDS:
            hint = hint_of(str(kind), KINDS)
            raise UsageError(f"{path.name}: fields.{name} is one of {', '.join(KINDS)}{hint}")
    return RunFile(
        run=texts["run"],
        data=path.parent / texts["data"] if texts["data"] else None,
        target=_target(path, document),
        kind=next((one for one in TASK_KINDS if one == texts["kind"]), None),
        name=texts["name"],
        fields=fields,
        settings=settings,
    )


def _check_keys(path: Path, table: dict[str, Any], known: Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            close = nearest(key, known)
            hint = f" (did you mean {where}{close}?)" if close else ""
            if not where and key in RunConfig.model_fields:
                hint = f" (did you mean settings.{key}?)"
            raise UsageError(
                f"{path.name}: unknown key '{where}{key}'{hint}; known are {', '.join(known)}"
            )


def _text(path: Path, document: dict[str, Any], key: str) -> str | None:
    value = document.get(key)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{path.name}: {key} is text in quotes")
    return value


def _table(path: Path, document: dict[str, Any], key: str) -> dict[str, Any]:
    value = document.get(key, {})
    if not isinstance(value, dict):
        raise UsageError(f"{path.name}: {key} is a table, [{key}]")
    return value


def _target(path: Path, document: dict[str, Any]) -> tuple[str, ...]:
    value = document.get("target", [])
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
        raise UsageError(f"{path.name}: target is the name of a column, or a list of names")
    return tuple(names)


def commented_runfile(data: str, target: Sequence[str], columns: "Sequence[Column]") -> str:
    """A file to start from; what is commented out is as it would be without.

    Args:
        columns: what was guessed of the data; none where there is none yet.
    """
    wanted = _quoted(target[0]) if len(target) == 1 else f"[{', '.join(map(_quoted, target))}]"
    lines = [
        "# A training run; start it with: python -m training run --config THIS_FILE",
        "# Options of the command line win over this file.",
        "",
        "# CSV, TSV, Parquet or NDJSON; the place is seen from this file.",
        f"data = {_quoted(data)}",
        "# The column to predict, or a list of columns that are true or false.",
        f"target = {wanted}",
        f"# One of {', '.join(TASK_KINDS)}.",
        '# kind = "auto"',
        "# The model's name; without, the file's.",
        '# name = "my-model"',
        "",
        f"# What columns hold, where the guess is wrong: {', '.join(KINDS)}.",
        "[fields]",
    ]
    lines += [f"# {_quoted(one.name)} = {_quoted(one.kind)}  # {one.why}" for one in columns]
    lines += ["" if columns else '# "a column" = "number"\n']
    lines += ["# All settings: python -m training run --help", "[settings]"]
    for name in _SHOWN:
        about = RunConfig.model_fields[name]
        lines += [f"# {about.description}", f"# {name} = {_toml(about.default)}"]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return _quoted(value)
    return "[]" if value == () else str(value)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
