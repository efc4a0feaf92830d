"""What the person at the terminal sees at the end of a run."""

import shlex
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from app.bundle.manifest import Gate
from training.pipeline import Outcome
from training.selection.latency import Latency

#: The model repository that `make serve` serves when it is told of no other.
_USUAL_MODELS: Final = Path(__file__).resolve().parent.parent / "models"


def show(outcome: Outcome, console: Console) -> None:
    """Candidates, test metrics with gates, and where the bundle is."""
    console.print()
    console.print(_candidates(outcome))
    console.print()
    console.print(_metrics(outcome))
    console.print()
    console.print(_baselines(outcome))
    console.print()
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


def _candidates(outcome: Outcome) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("candidate")
    metrics = (outcome.dataset.task.chief, outcome.dataset.task.second)
    names = [f"validation {metric.name.replace('_', ' ')}" for metric in metrics]
    for column in ("parameters", "epochs", "seconds", "ms, 1 row", "ms, 32 rows", *names):
        table.add_column(column, justify="right")
    table.add_column("")
    for one in outcome.selection.trained:
        chosen = one is outcome.selection.chosen
        table.add_row(
            one.candidate.name,
            f"{one.predictor.parameter_count:,}",
            str(len(one.history.epochs) or "–"),
            f"{one.history.seconds:.1f}",
            *_times(one.latency),
            *(f"{one.validation.metrics[metric.name]:.4f}" for metric in metrics),
            "chosen" if chosen else one.fault and "not proved",
            style="bold" if chosen else "",
        )
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
        one = intervals.get(name)
        spread = "" if one is None else f"{one.low:.4f} – {one.high:.4f}"
        table.add_row(name.replace("_", " "), f"{value:.4f}", spread, bar)
    return table


def _baselines(outcome: Outcome) -> Table:
    """The model beside those that need no thought, on the test rows."""
    task, quality = outcome.dataset.task, outcome.manifest.quality
    metrics = (task.chief.name, task.second.name)
    table = Table(box=None, pad_edge=False)
    table.add_column("beside")
    for name in metrics:
        table.add_column(f"test {name.replace('_', ' ')}", justify="right")
    table.add_column("the model's minus this one's, 95 %")
    own = outcome.evaluations["test"].metrics
    name = outcome.selection.chosen.candidate.name
    table.add_row(name, *(f"{own[metric]:.4f}" for metric in metrics), "", style="bold")
    for one in quality.baselines if quality else ():
        change = f"{one.change:+.4f} ({one.interval.low:+.4f} to {one.interval.high:+.4f})"
        table.add_row(one.name, *(f"{one.metrics[metric]:.4f}" for metric in metrics), change)
    return table


def _bar(gate: Gate) -> str:
    if gate.minimum is not None:
        return f"at least {gate.minimum:.4f}"
    return f"at most {gate.maximum:.4f}"
