"""Pictures of the report: inline SVG in the page's own font and colours, and small PNGs."""

import base64
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from PIL import Image

from app.bundle.quality import Interval, Slice
from app.bundle.signature import ImageField
from app.bundle.tensors import Array
from training.evaluation.validate import Evaluation
from training.models import Predictor
from training.selection.latency import BATCH_ROWS
from training.selection.select import Selection, Trained, pareto
from training.tasks import Metric, Task

#: matplotlib knows no CSS variables: it draws in these colours, which are replaced afterwards.
INK = "#010203"
FAINT = "#040506"
SERIES = ("#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04")
#: Of a scatter plot, so that a report stays small.
POINTS = 2000
#: Of a name on an axis.
LABEL_CHARACTERS = 36
#: From so many powers of ten on, an axis has no ticks between them.
TIGHT_DECADES = 2.5
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


def learning_curves(selection: Selection) -> Markup | None:
    """Loss and metric by epoch; dashed is the training split, a dot the weights kept.

    Of the networks: trees have no epochs.
    """
    learnt = [one for one in selection.trained if one.history.epochs]
    networks = [one.predictor for one in learnt if isinstance(one.predictor, Predictor)]
    if not networks:
        return None
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.2, 3.1), layout="constrained")
        losses, metrics = figure.subplots(1, 2)
        for color, one in zip(SERIES * len(learnt), learnt, strict=False):
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
        losses.set(title="Loss (log scale)", xlabel="epoch", yscale="log")
        _few_log_ticks(losses.yaxis)
        metrics.set(title=f"Validation {networks[0].head.metric}", xlabel="epoch")
        metrics.legend(loc="best")
        for axes in (losses, metrics):
            axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
            _plain(axes)
        return _svg(figure)


def metric_over_latency(selection: Selection, task: Task) -> Markup | None:
    """The chief metric on the validation rows over the time for a batch; what is on the line is
    not beaten in both. Faint are the trials of a search."""
    timed = [one for one in selection.trained if one.latency is not None]
    if len(timed) < 2:
        return None
    chief = task.chief
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5.6, 3.4), layout="constrained")
        axes = figure.subplots()
        times_ms = [trial.latency.batch_ms for trial in selection.trials]
        values = [abs(trial.rank) for trial in selection.trials]
        axes.plot(times_ms, values, "o", color=INK, markersize=3, alpha=0.3)
        front = np.array([_point(one, chief) for one in pareto(timed, task)])
        axes.step(front[:, 0], front[:, 1], where="post", color=FAINT, linewidth=1.2)
        for one in timed:
            x, y = _point(one, chief)
            is_chosen = one.candidate.name == selection.chosen.candidate.name
            axes.plot(x, y, "o", color=SERIES[0], markersize=9 if is_chosen else 5)
            name = f"{one.candidate.name}, chosen" if is_chosen else one.candidate.name
            axes.annotate(name, (x, y), xytext=(7, 5), textcoords="offset points", fontsize=9)
        axes.set(
            xlabel=f"milliseconds for {BATCH_ROWS} rows (log scale)",
            ylabel=f"validation {chief.name.replace('_', ' ')}",
            xscale="log",
        )
        axes.margins(x=0.25, y=0.15)
        _few_log_ticks(axes.xaxis)
        _plain(axes)
        return _svg(figure)


def _point(one: Trained, metric: Metric) -> tuple[float, float]:
    return one.latency.batch_ms if one.latency else 0.0, one.validation.metrics[metric.name]


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
            axes.xaxis.set_major_locator(MaxNLocator(5))
            _plain(axes)
        return _svg(figure)


def interval_plot(metrics: Mapping[str, float], intervals: Mapping[str, Interval]) -> Markup | None:
    """Metrics between 0 and 1 with what they would be on other rows; None without any."""
    shown = [name for name in intervals if 0 <= metrics[name] <= 1 and intervals[name].high <= 1]
    if not shown:
        return None
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.4, 0.6 + 0.42 * len(shown)), layout="constrained")
        axes = figure.subplots()
        for place, name in enumerate(reversed(shown)):
            ends = [intervals[name].low, intervals[name].high]
            axes.plot(ends, [place, place], color=SERIES[0], linewidth=5, alpha=0.4)
            axes.plot(metrics[name], place, "o", color=SERIES[0])
        names = [name.replace("_", " ") for name in reversed(shown)]
        axes.set_yticks(range(len(shown)), names)
        axes.set(xlim=(0, 1), ylim=(-0.6, len(shown) - 0.4))
        _plain(axes)
        return _svg(figure)


def slice_plot(slices: Sequence[Slice], whole: float) -> Markup:
    """The chief metric of each slice, worst on top, with its interval and number of rows."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.2, 0.7 + 0.3 * len(slices)), layout="constrained")
        axes = figure.subplots()
        for place, one in enumerate(reversed(slices)):
            axes.barh(place, one.value, 0.7, color=SERIES[0], alpha=0.25 if one.few else 0.7)
            ends = [one.interval.low, one.interval.high]
            axes.plot(ends, [place, place], color=INK, linewidth=1.2)
        names = [f"{_short(one.field)}: {_short(one.values)} ({one.rows})" for one in slices]
        axes.set_yticks(range(len(slices)), [_literal(name) for name in reversed(names)])
        axes.axvline(whole, color=INK, linestyle=":", linewidth=1.2)
        axes.set(xlabel=slices[0].metric.replace("_", " "), ylim=(-0.6, len(slices) - 0.4))
        _plain(axes)
        return _svg(figure)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LABEL_CHARACTERS else text[: LABEL_CHARACTERS - 1] + "…"


def _literal(text: str) -> str:
    """matplotlib takes what is between dollars for formulas."""
    return text.replace("$", r"\$")


def _few_log_ticks(axis: Axis) -> None:
    """Plain numbers that do not run into each other, on an axis whose limits are settled."""
    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    if decades < 1:
        axis.set_major_locator(MaxNLocator(5))
    else:
        steps = (1.0, 2.0, 5.0) if decades < TIGHT_DECADES else (1.0,)
        axis.set_major_locator(LogLocator(subs=steps))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _plain(axes: Axes) -> None:
    axes.title.set_fontsize(10)
    axes.set_axisbelow(True)


def _svg(figure: Figure) -> Markup:
    """The bare `<svg>` element, without the namespaces and metadata that HTML does not need."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with warnings.catch_warnings():
        # The browser's fonts have it.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
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
