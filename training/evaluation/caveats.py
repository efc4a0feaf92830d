"""What a reader should doubt of a model that passed: figures that chance alone may have given."""

from collections.abc import Iterator
from typing import Literal

from app.bundle.manifest import Gate, Manifest
from app.bundle.quality import Baseline, Quality
from training.tasks import Metric, Task

Standing = Literal["better", "equal within chance", "worse"]


def caveats(manifest: Manifest, task: Task) -> tuple[str, ...]:
    """Sentences; none where nothing is in doubt."""
    quality = manifest.quality or Quality()
    of_gates = (_of_gate(gate, quality) for gate in manifest.gates if is_narrow(gate, quality))
    return (*of_gates, *_of_baselines(quality, task.chief))


def is_narrow(gate: Gate, quality: Quality) -> bool:
    """Whether the bar lies within the interval of the figure that passed it."""
    spread = quality.intervals.get(gate.split, {}).get(gate.metric)
    if spread is None:
        return False
    under = gate.minimum is not None and spread.low < gate.minimum
    over = gate.maximum is not None and spread.high > gate.maximum
    return under or over


def standing(one: Baseline, chief: Metric) -> Standing:
    """The model against a baseline, by the paired interval of the chief metric."""
    low, high = one.interval.low, one.interval.high
    if chief.goal == "lowest":
        low, high = -high, -low
    if low > 0:
        return "better"
    return "worse" if high < 0 else "equal within chance"


def _of_gate(gate: Gate, quality: Quality) -> str:
    spread = quality.intervals[gate.split][gate.metric]
    is_least = gate.minimum is not None
    bar = f"at least {gate.minimum:.4f}" if is_least else f"at most {gate.maximum:.4f}"
    return (
        f"The bar of {gate.split} {_words(gate.metric)}, {bar}, was passed with {gate.value:.4f}, "
        f"which may be chance: on other rows it would be {spread.low:.4f} to {spread.high:.4f}, "
        "19 times of 20, and the bar lies within."
    )


def _of_baselines(quality: Quality, chief: Metric) -> Iterator[str]:
    """The first baseline is one answer to all rows: not to be better than that is a doubt."""
    for place, one in enumerate(quality.baselines):
        found = standing(one, chief)
        spread = f"{one.change:+.4f} ({one.interval.low:+.4f} to {one.interval.high:+.4f})"
        name = _words(one.metric)
        if found == "worse":
            yield (
                f"By test {name} the model is worse than {one.name} ({one.description}), which "
                f"needs no thought: {spread}."
            )
        elif place == 0 and found == "equal within chance":
            yield (
                f"By test {name} the model is not shown to be better than {one.name} "
                f"({one.description}): the difference, {spread}, may be chance."
            )


def _words(metric: str) -> str:
    return metric.replace("_", " ")
