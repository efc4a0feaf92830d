"""Pictures of the report: inline SVG in the page's own font and colours, and small PNGs."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from app.bundle.signature import ImageField
from app.bundle.tensors import Array
from training.select import Selection
from training.validate import Evaluation

#: matplotlib knows no CSS variables: it draws in these colours, which are replaced afterwards.
INK = "#010203"
FAINT = "#040506"
SERIES = ("#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04")
#: Of a scatter plot, so that a report stays small.
POINTS = 2000
_VARIABLES = {
    INK: "currentColor",
    FAINT: "var(--line)",
    **{color: f"var(--series-{index})" for index, color in enumerate(SERIES)},
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "modelport",
    "font.size": 10,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


def learning_curves(selection: Selection) -> Markup:
    """Loss and metric by epoch; dashed is the training split, a dot the weights kept."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.2, 3.1), layout="constrained")
        losses, metrics = figure.subplots(1, 2)
        for color, one in zip(SERIES * len(selection.trained), selection.trained, strict=False):
            epochs = one.history.epochs
            numbers = np.arange(1, len(epochs) + 1)
            loss = [epoch.validation_loss for epoch in epochs]
            metric = [epoch.validation_metric for epoch in epochs]
            losses.plot(numbers, loss, color=color, label=one.candidate.name)
            losses.plot(
                numbers, [e.train_loss for e in epochs], color=color, linestyle="--", alpha=0.55
            )
            metrics.plot(numbers, metric, color=color, label=one.candidate.name)
            best = one.history.best_epoch
            losses.plot(best, loss[best - 1], "o", color=color)
            metrics.plot(best, metric[best - 1], "o", color=color)
        name = selection.chosen.predictor.head.metric
        losses.set(title="Loss (log scale)", xlabel="epoch", yscale="log")
        metrics.set(title=f"Validation {name}", xlabel="epoch")
        metrics.legend(loc="best")
        for axes in (losses, metrics):
            _plain(axes)
        return _svg(figure)


def reliability_diagram(evaluation: Evaluation) -> Markup:
    """How often the model was right, by how sure it was; on the diagonal it is honest."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.4, 3.4), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=INK, linestyle=":", linewidth=1.2)
        for part in evaluation.reliability:
            middle, width = (part.low + part.high) / 2, part.high - part.low
            axes.bar(middle, part.accuracy, width * 0.9, color=SERIES[0], alpha=0.75)
            axes.text(middle, 0.02, str(part.rows), ha="center", fontsize=8)
        axes.set(xlabel="highest score", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.02))
        _plain(axes)
        return _svg(figure)


def predicted_against_true(values: Array, targets: Array) -> Markup:
    """Answers over truths, and how the difference is spread; at most `POINTS` rows of it."""
    shown = np.linspace(0, len(values) - 1, min(POINTS, len(values))).astype(np.int64)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.2, 3.6), layout="constrained")
        points, spread = figure.subplots(1, 2)
        ends = [float(targets.min()), float(targets.max())]
        points.plot(ends, ends, color=INK, linestyle=":", linewidth=1.2)
        points.scatter(targets[shown], values[shown], s=6, color=SERIES[0], alpha=0.5)
        points.set(title="Test rows", xlabel="true", ylabel="predicted")
        spread.hist(values - targets, bins=50, color=SERIES[0], alpha=0.75)
        spread.set(title="Predicted minus true", xlabel="difference", ylabel="rows")
        for axes in (points, spread):
            _plain(axes)
        return _svg(figure)


def _plain(axes: Axes) -> None:
    axes.title.set_fontsize(10)
    axes.set_axisbelow(True)


def _svg(figure: Figure) -> Markup:
    """The bare `<svg>` element, without the namespaces and metadata that HTML does not need."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for name in ("xmlns", "xmlns:xlink"):
        start = text.index(f" {name}=")
        text = text[:start] + text[text.index('"', start + len(name) + 3) + 1 :]
    for color, variable in _VARIABLES.items():
        text = text.replace(color, variable)
    return Markup(text)  # noqa: S704  # our own drawing; matplotlib escapes the labels in it


def picture(row: Array, field: ImageField) -> str:
    """A data URI of one image row, uint8 [height, width(, 3)] with values 0–maximum."""
    pixels = (row.astype(np.uint32) * 255 // field.maximum).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def shades(confusion: Array) -> Sequence[Sequence[float]]:
    """Share of each true class that went to each prediction, 0–1, [true][predicted]."""
    totals = np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    shares: list[list[float]] = (confusion / totals).tolist()
    return shares
