"""What the person at the terminal sees at the end of a run."""

import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.bundle.manifest import Gate
from training.evaluation.caveats import caveats, is_narrow, standing
from training.pipeline import Outcome
from training.selection.latency import Latency

#: The model repository that `make serve` serves when it is told of no other.
_USUAL_MODELS: Final = Path(__file__).resolve().parent.parent / "models"

#: Columns of the comparison with baselines.
MINUS: Final = "the model's minus this"
SPREAD: Final = "19 times of 20"
IS: Final = "the model is"
#: A column without a heading.
CHOSEN: Final = ""
#: Characters of a line in which any table has room.
_ENDLESS: Final = 10_000


def show(outcome: Outcome, console: Console) -> None:
    """Candidates, test metrics with gates, doubts, and where the bundle is."""
    for table in (_candidates(outcome, console), _metrics(outcome), _baselines(outcome, console)):
        console.print()
        console.print(table)
    console.print()
    for doubt in caveats(outcome.manifest, outcome.dataset.task):
        console.print(f"doubtful: {doubt}", style="yellow", highlight=False, markup=False)
    manifest, folder = outcome.manifest, outcome.bundle.path
    for line in (
        f"Published {manifest.name} version {manifest.version} in {folder}",
        f"  read it:   {folder / 'report.html'}",
        f"  serve it:  {_serve_command(folder.parent.parent)}",
        "             (a running service looks for new versions, proves them and takes over)",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _serve_command(models: Path) -> str:
    """What a person pastes at the root of the source."""
    models = models.resolve()
    if models == _USUAL_MODELS:
        return "make serve"
    return f"MODELPORT_MODELS={shlex.quote(str(models))} make serve"


def _candidates(outcome: Outcome, console: Console) -> Table:
    metrics = (outcome.dataset.task.chief, outcome.dataset.task.second)
    names = ["validation " + metric.name.replace("_", " ") for metric in metrics]
    rows = []
    for one in outcome.selection.trained:
        one_row_ms, batch_ms = _times(one.latency)
        cells = {
            "candidate": one.candidate.name,
            "parameters": f"{one.predictor.parameter_count:,}",
            "epochs": str(len(one.history.epochs) or "–"),
            "seconds": f"{one.history.seconds:.1f}",
            "ms, 1 row": one_row_ms,
            "ms, 32 rows": batch_ms,
        }
        for name, metric in zip(names, metrics, strict=True):
            cells[name] = f"{one.validation.metrics[metric.name]:.4f}"
        chosen = one is outcome.selection.chosen
        cells[CHOSEN] = "chosen" if chosen else one.fault and "not proved"
        rows.append(_Row(cells, "bold" if chosen else ""))
    return _fitting(rows, console, ("parameters", "epochs", "seconds", "ms, 1 row"))


@dataclass(frozen=True)
class _Row:
    """Cells by the names of their columns."""

    cells: Mapping[str, str]
    style: str = ""


def _fitting(rows: Sequence[_Row], console: Console, dispensable: Sequence[str]) -> Table:
    """A table that is not wider than the terminal: its headings are broken between words, then
    columns are left out, in this order."""
    endless = console.options.update(width=_ENDLESS)
    tables = (
        _table(rows, dispensable[: max(0, step)], broken=step >= 0)
        for step in range(-1, len(dispensable) + 1)
    )
    for table in tables:
        if console.measure(table, options=endless).maximum <= console.width:
            break
    return table


def _table(rows: Sequence[_Row], left_out: Sequence[str], *, broken: bool) -> Table:
    table = Table(box=None, pad_edge=False)
    names = [name for name in rows[0].cells if name not in left_out]
    for place, name in enumerate(names):
        widest = max(cell_len(row.cells[name]) for row in rows)
        heading = textwrap.fill(name, max(1, widest, *map(cell_len, name.split())))
        is_figure = place > 0 and name not in (CHOSEN, IS)
        table.add_column(
            heading if broken else name, justify="right" if is_figure else "left", no_wrap=True
        )
    for row in rows:
        table.add_row(*(Text(row.cells[name]) for name in names), style=row.style)
    return table


def _times(latency: Latency | None) -> tuple[str, str]:
    if latency is None:
        return "", ""
    return f"{latency.one_row_ms:.3f}", f"{latency.batch_ms:.3f}"


def _metrics(outcome: Outcome) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("test metric")
    table.add_column("value", justify="right")
    table.add_column("19 times of 20", justify="right")
    table.add_column("gate")
    quality = outcome.manifest.quality
    intervals = {} if quality is None else quality.intervals["test"]
    gates = {gate.metric: gate for gate in outcome.manifest.gates if gate.split == "test"}
    for name, value in outcome.evaluations["test"].metrics.items():
        gate = gates.get(name)
        bar = "" if gate is None else f"passed: {_bar(gate)}"
        if gate is not None and quality is not None and is_narrow(gate, quality):
            bar = f"passed, perhaps by chance: {_bar(gate)}"
        one = intervals.get(name)
        spread = "" if one is None else f"{one.low:.4f} – {one.high:.4f}"
        table.add_row(name.replace("_", " "), f"{value:.4f}", spread, bar)
    return table


def _baselines(outcome: Outcome, console: Console) -> Table:
    """The model beside those that need no thought, on the test rows."""
    task, quality = outcome.dataset.task, outcome.manifest.quality
    metrics = (task.chief.name, task.second.name)
    own = outcome.evaluations["test"].metrics

    def cells(name: str, figures: Mapping[str, float]) -> dict[str, str]:
        shown = {f"test {key.replace('_', ' ')}": f"{figures[key]:.4f}" for key in metrics}
        return {"beside": name, **shown}

    published = cells(outcome.selection.chosen.candidate.name, own)
    rows = [_Row({**published, MINUS: "", SPREAD: "", IS: ""}, "bold")]
    for one in quality.baselines if quality else ():
        compared = {
            MINUS: f"{one.change:+.4f}",
            SPREAD: f"{one.interval.low:+.4f} to {one.interval.high:+.4f}",
            IS: standing(one, task.chief),
        }
        rows.append(_Row({**cells(one.name, one.metrics), **compared}))
    return _fitting(rows, console, (SPREAD, f"test {metrics[1].replace('_', ' ')}"))


def _bar(gate: Gate) -> str:
    if gate.minimum is not None:
        return f"at least {gate.minimum:.4f}"
    return f"at most {gate.maximum:.4f}"
