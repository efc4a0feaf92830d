"""A user's own table as a run: its candidates, and the settings where none are given."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.bundle.manifest import MODEL_NAME_PATTERN
from training.config import RunConfig
from training.data import records
from training.data.table import Collected, TableSource, collect_table
from training.errors import UsageError
from training.models import TREES
from training.runs import LINEAR, MLP, Run, fit_own_table

#: Rows of a training step, for tables of up to so many rows.
_BATCH_SIZES: Final = ((1_000, 32), (10_000, 64), (100_000, 256))
_LARGEST_BATCH: Final = 1024
#: Training steps that are enough for a small network on a table.
_STEPS: Final = 15_000
#: Characters of an example.
_SHOWN: Final = 24


@dataclass(frozen=True)
class OwnRun:
    """A run, its settings, and what was found in the table."""

    run: Run
    config: RunConfig
    collected: Collected


def own_run(
    source: TableSource,
    name: str | None,
    settings: Mapping[str, object],
    table: records.Table | None = None,
) -> OwnRun:
    """Read a table, and make a run of it.

    Args:
        name: of the model; None takes it from the file.
        settings: what shall be other than usual, by name.
        table: of the source, where it is read already.
    Raises:
        UsageError, EnvironmentTrouble: as `collect_table` and `RunConfig.with_overrides`.
    """
    model = model_name(source, name)
    asked = RunConfig().with_overrides(settings)
    collected = collect_table(source, asked.split, table)
    config = usual_config(len(collected.dataset.targets)).with_overrides(settings)
    run = Run(
        name=model,
        description=f"Predicts {', '.join(source.target)}, learnt from {source.path.name}",
        config=config,
        collect=lambda: collected.noted,
        fit_preprocess=fit_own_table,
        candidates=(LINEAR, MLP, TREES),
    )
    return OwnRun(run, config, collected)


def model_name(source: TableSource, name: str | None) -> str:
    """The given name, or one made of the file's.

    Raises:
        UsageError: no model can be named so.
    """
    if name is None:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", source.path.stem).strip("-._")[:64]
        if not plain:
            raise UsageError(f"{source.path.name} makes no name for a model; say --name NAME")
        return plain
    if not re.fullmatch(MODEL_NAME_PATTERN, name):
        raise UsageError(
            f"no model can be named {name!r}: letters, digits, '.', '_' and '-', 64 at most, "
            "the first a letter or digit"
        )
    return name


def usual_config(rows: int) -> RunConfig:
    """Settings for a table of so many rows."""
    batch = next((size for most, size in _BATCH_SIZES if rows <= most), _LARGEST_BATCH)
    epochs = min(150, max(15, _STEPS * batch // rows))
    return RunConfig(
        epochs=epochs, patience=max(10, epochs // 5), batch_size=batch, missing_rate=0.02
    )


def show(collected: Collected, console: Console) -> None:
    """What was guessed of each column, and what was decided, left out and noticed."""
    table = Table(box=None, pad_edge=False)
    for heading in ("column", "kind", "missing", "example", "why"):
        table.add_column(heading, justify="right" if heading == "missing" else "left")
    for one in collected.columns:
        missing = f"{one.missing:.1%}" if one.missing else ""
        shown = one.example if len(one.example) <= _SHOWN else one.example[:_SHOWN] + "…"
        cells = (one.name, one.kind, missing, shown, one.why)
        table.add_row(*(Text(cell) for cell in cells), style="dim" if one.kind == "drop" else "")
    console.print(table)
    for note in collected.notes:
        style = "yellow" if note.startswith("warning") else None
        console.print(note, style=style, highlight=False, markup=False, soft_wrap=True)
