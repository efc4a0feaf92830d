"""A user's own pictures as a run: what is trained on them, and with which settings.

They lie in a folder with a sub-folder for each class, or in a column of a table.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from app.bundle.manifest import MODEL_NAME_PATTERN
from app.bundle.tensors import Tensors
from training.config import RunConfig
from training.data.image_column import collect_image_column
from training.data.image_folder import collect_folder
from training.data.images import IMAGE
from training.data.records import Table
from training.data.table import TableSource
from training.errors import UsageError
from training.own import tables
from training.own.tables import OwnRun
from training.preprocess.tensors import ImagePreprocess, Preprocess
from training.runs import CONVNET, LINEAR, Run

#: Training steps that are enough for a small network from nothing.
_STEPS: Final = 6_000
#: Shifts of training pictures, as a part of their shorter side.
_SHIFT: Final = 16


@dataclass(frozen=True)
class OwnImages:
    """A run, its settings, and what a person should know of the pictures."""

    run: Run
    config: RunConfig
    notes: tuple[str, ...]


def own_images(path: Path, name: str | None, settings: Mapping[str, object]) -> OwnImages:
    """Read the pictures of a folder, and make a run of them.

    Args:
        name: of the model; None takes it from the folder.
        settings: what shall be other than usual, by name.
    Raises:
        UsageError, EnvironmentTrouble: as `collect_folder` and `RunConfig.with_overrides`.
    """
    found = collect_folder(path, RunConfig().with_overrides(settings))
    dataset = replace(found.dataset, notes=found.notes)
    config = usual_config(*dataset.inputs[IMAGE].shape[:3]).with_overrides(settings)
    run = Run(
        name=model_name(path, name),
        description=f"Which of {len(dataset.task.labels)} classes is in a picture",
        config=config,
        collect=lambda: dataset,
        fit_preprocess=fit_pictures,
        candidates=(LINEAR, CONVNET),
    )
    return OwnImages(run, config, found.notes)


def column_run(
    source: TableSource,
    column: str,
    name: str | None,
    settings: Mapping[str, object],
    table: Table | None = None,
) -> OwnRun:
    """From the pictures of a table's column.

    Args:
        table: of the source, where it is read already.
    Raises:
        UsageError, EnvironmentTrouble: as `collect_image_column` and `RunConfig.with_overrides`.
    """
    model = tables.model_name(source, name)
    collected = collect_image_column(source, column, RunConfig().with_overrides(settings), table)
    config = usual_config(*collected.dataset.inputs[IMAGE].shape[:3]).with_overrides(settings)
    run = Run(
        name=model,
        description=f"Predicts {', '.join(source.target)}, learnt from {source.path.name}",
        config=config,
        collect=lambda: collected.noted,
        fit_preprocess=fit_pictures,
        candidates=(LINEAR, CONVNET),
    )
    return OwnRun(run, config, collected)


def fit_pictures(train_inputs: Tensors) -> Preprocess:
    return ImagePreprocess(IMAGE, train_inputs, maximum=255)


def usual_config(rows: int, height: int, width: int) -> RunConfig:
    """Settings for so many pictures of so many pixels."""
    batch = 32 if rows < 2_000 else 64
    epochs = min(60, max(10, _STEPS * batch // rows))
    return RunConfig(
        epochs=epochs,
        patience=max(6, epochs // 4),
        batch_size=batch,
        shift_pixels=max(1, min(height, width) // _SHIFT),
    )


def model_name(path: Path, name: str | None) -> str:
    """The given name, or one made of the folder's.

    Raises:
        UsageError: no model can be named so.
    """
    made = re.sub(r"[^A-Za-z0-9._-]+", "-", path.resolve().name).strip("-._")[:64]
    found = made if name is None else name
    if not re.fullmatch(MODEL_NAME_PATTERN, found):
        raise UsageError(
            f"no model can be named {found!r}; say --name NAME, of letters, digits, '.', '_' and "
            "'-', 64 at most, the first a letter or digit"
        )
    return found
