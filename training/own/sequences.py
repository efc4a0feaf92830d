"""A user's own texts or series as a run; that a table holds such, its owner says by kinds."""

from collections.abc import Callable, Mapping
from typing import Final

from app.bundle.tensors import Tensors
from training.config import RunConfig
from training.data.series import Layout, collect_series
from training.data.table import Collected, TableSource
from training.data.text import collect_text
from training.errors import UsageError
from training.models import AnyCandidate
from training.own.tables import OwnRun, model_name, own_run, usual_config
from training.preprocess.tensors import Preprocess
from training.runs import BYTE_RUNS, MOMENTS, SERIES_CNN, TEXT_CNN, Run, fit_series, fit_text

#: Kinds of columns that make a run of another sort.
TEXT: Final = "text"
SERIES: Final = "series"
STEP: Final = "step"
#: A sequence costs more than a row of a table, and says more.
EPOCHS: Final = 40
PATIENCE: Final = 8


def any_own_run(source: TableSource, name: str | None, settings: Mapping[str, object]) -> OwnRun:
    """A run of texts where a column is given as text, of series where one tells them apart, else
    of a table. Arguments and errors as for `own_run`."""
    texts, series, steps = (_of_kind(source, kind) for kind in (TEXT, SERIES, STEP))
    if steps and not series:
        raise UsageError(f"{steps} is a step, but of no column is it said that it tells series")
    if texts and series:
        raise UsageError(f"{texts} is text and {series} tells series; a run is of one of them")
    if texts:
        return text_run(source, texts, name, settings)
    if series:
        return series_run(source, Layout(series, steps), name, settings)
    return own_run(source, name, settings)


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
        collect=lambda: collected.dataset,
        fit_preprocess=fit,
        candidates=candidates,
    )
    return OwnRun(run, config, collected)


def _of_kind(source: TableSource, kind: str) -> str | None:
    """The column of a kind.

    Raises:
        UsageError: there are two.
    """
    names = [name for name, given in source.fields.items() if given == kind]
    if len(names) > 1:
        raise UsageError(f"one column at most is of kind {kind}, not {', '.join(names)}")
    return names[0] if names else None
