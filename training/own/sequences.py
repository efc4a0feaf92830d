"""A user's own texts or series as a run."""

from collections.abc import Callable, Mapping
from typing import Final

from app.bundle.tensors import Tensors
from training.config import RunConfig
from training.data.series import Layout, collect_series
from training.data.table import Collected, TableSource
from training.data.text import collect_text
from training.models import AnyCandidate
from training.own.tables import OwnRun, model_name, usual_config
from training.preprocess.tensors import Preprocess
from training.runs import BYTE_RUNS, MOMENTS, SERIES_CNN, TEXT_CNN, Run, fit_series, fit_text

#: A sequence costs more than a row of a table, and says more.
EPOCHS: Final = 40
PATIENCE: Final = 8


def text_run(
    source: TableSource, column: str, name: str | None, settings: Mapping[str, object]
) -> OwnRun:
    """From the texts of one column. Errors as for `own_run`."""
    asked = RunConfig().with_overrides(settings)
    collected = collect_text(source, column, asked.split)
    candidates = (BYTE_RUNS, TEXT_CNN)
    return _own(source, name, settings, collected, fit=fit_text, candidates=candidates)


def series_run(
    source: TableSource, layout: Layout, name: str | None, settings: Mapping[str, object]
) -> OwnRun:
    """From series of steps, a row each. Errors as for `own_run`."""
    asked = RunConfig().with_overrides(settings)
    collected = collect_series(source, layout, asked.split)
    candidates = (MOMENTS, SERIES_CNN)
    return _own(source, name, settings, collected, fit=fit_series, candidates=candidates)


def _own(
    source: TableSource,
    name: str | None,
    settings: Mapping[str, object],
    collected: Collected,
    *,
    fit: Callable[[Tensors], Preprocess],
    candidates: tuple[AnyCandidate, ...],
) -> OwnRun:
    usual = usual_config(len(collected.dataset.targets))
    fewer = {
        "epochs": min(EPOCHS, usual.epochs),
        "patience": min(PATIENCE, usual.patience),
        "missing_rate": 0.0,
    }
    config = usual.with_overrides({**fewer, **settings})
    run = Run(
        name=model_name(source, name),
        description=f"Predicts {', '.join(source.target)}, learnt from {source.path.name}",
        config=config,
        collect=lambda: collected.noted,
        fit_preprocess=fit,
        candidates=candidates,
    )
    return OwnRun(run, config, collected)
