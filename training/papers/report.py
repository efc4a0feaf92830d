"""What a person reads of a model: a card in Markdown and a report as one HTML file."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from app.bundle.manifest import Manifest
from app.bundle.padding import row_lengths
from app.bundle.quality import Quality
from app.bundle.signature import CategoryField, ImageField, InputField, NumberField, SeriesField
from app.bundle.tensors import take_rows
from training.config import RunConfig
from training.data.dataset import Dataset, Rows, class_counts
from training.data.split import Split
from training.evaluation.bootstrap import RESAMPLES
from training.evaluation.caveats import caveats, is_narrow, standing
from training.evaluation.metrics import HOLDS
from training.evaluation.slices import FEW_ROWS
from training.evaluation.validate import Evaluation
from training.export.lengths import is_padded
from training.export.proof import Proof
from training.papers.card import accepts, model_card
from training.papers.charts import (
    interval_plot,
    learning_curves,
    metric_over_latency,
    picture,
    predicted_against_true,
    reliability_diagram,
    shades,
    slice_plot,
)
from training.papers.markdown import ROWS_SHOWN
from training.papers.quicker import why_not_quicker
from training.selection.select import Selection, standard_error
from training.tasks import Classification, MultiLabel, Regression, Task

TEMPLATES = Path(__file__).parent / "templates"
WORST_SHOWN = 12
SLICES_SHOWN = 16
#: Of an example's values, and of the words of a field.
VALUES_SHOWN = 12
WORDS_SHOWN = 20
#: Of more classes no matrix is drawn, only its largest numbers are named.
CLASSES_DRAWN = 20


@dataclass(frozen=True)
class Findings:
    """Everything that a report tells besides the manifest; `test` is the chosen candidate's."""

    config: RunConfig
    dataset: Dataset
    split: Split
    selection: Selection
    test: Evaluation
    proof: Proof


@dataclass(frozen=True)
class Example:
    """A test row that the model found hard.

    Attributes:
        figure: what the model gave to the truth, 0–1, or how far its number is off.
    """

    number: int
    truth: str
    answer: str
    figure: str
    picture: str | None
    values: tuple[str, ...]


def write_papers(manifest: Manifest, findings: Findings) -> dict[str, bytes]:
    """The files for people, by name; they do not depend on each other."""
    return {
        "card.md": model_card(manifest, findings.dataset).encode(),
        "report.html": report_html(manifest, findings).encode(),
    }


def report_html(manifest: Manifest, findings: Findings) -> str:
    """One file that needs nothing else: styles and pictures are inside."""
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    split, task = findings.split, findings.dataset.task
    parts = {"train": split.train, "validation": split.validation, "test": split.test}
    return templates.get_template("report.html").render(
        manifest=manifest,
        rows_shown=ROWS_SHOWN,
        values_shown=VALUES_SHOWN,
        **_quality(manifest),
        caveats=caveats(manifest, task),
        is_narrow=is_narrow,
        standing=standing,
        not_quicker=_not_quicker(findings),
        findings=findings,
        chosen=findings.selection.chosen,
        parts=parts,
        divisions=_divisions(parts),
        summaries=[(field, summary_of(field, split.train)) for field in manifest.signature.fields],
        pictures=class_pictures(split.train),
        curves=learning_curves(findings.selection),
        speeds=metric_over_latency(findings.selection, task),
        task=task,
        reliability=reliability_diagram(findings.test) if findings.test.reliability else None,
        scatter=_scatter(findings),
        shares=None if findings.test.confusion is None else shades(findings.test.confusion),
        confusions=_confusions(findings.test, task),
        worst=worst_examples(findings),
        limits=accepts,
        example=example_of,
    )


def _quality(manifest: Manifest) -> dict[str, Any]:
    """What `templates/quality.html` shows."""
    quality, metrics = manifest.quality or Quality(), manifest.metrics["test"]
    worst = quality.slices[:SLICES_SHOWN]
    return {
        "quality": quality,
        "resamples": RESAMPLES,
        "few_rows": FEW_ROWS,
        "interval_plot": interval_plot(metrics, quality.intervals.get("test", {})),
        "slice_plot": slice_plot(worst, metrics[worst[0].metric]) if worst else None,
    }


def _not_quicker(findings: Findings) -> str:
    config, split = findings.config, findings.split
    doubt = standard_error(split.validation, config.seed)
    return why_not_quicker(findings.selection, split.test.task, config.faster_by, doubt)


def _divisions(parts: Mapping[str, Rows]) -> list[tuple[str, list[int]]]:
    """Rows of each part: all, and those of each label."""
    counts = [class_counts(rows) for rows in parts.values()]
    of_labels = [(label, [each[label] for each in counts]) for label in counts[0]]
    return [("all rows", [len(rows) for rows in parts.values()]), *of_labels]


def _confusions(test: Evaluation, task: Task) -> list[tuple[str, str, int]] | None:
    """Truth, answer and rows, most rows first; None where a matrix can be drawn or there is
    none."""
    if test.confusion is None or len(task.labels) <= CLASSES_DRAWN:
        return None
    wrong = test.confusion - np.diag(np.diag(test.confusion))
    places = np.argwhere(wrong)
    order = np.argsort(-wrong[wrong > 0], kind="stable")
    return [
        (task.labels[true], task.labels[said], int(wrong[true, said]))
        for true, said in places[order].tolist()
    ]


def summary_of(field: InputField, rows: Rows) -> Mapping[str, Any]:
    """Statistics of one field on some rows, ready to print."""
    if isinstance(field, NumberField):
        column = rows.inputs[field.tensor][:, field.column].astype(np.float64)
        present = column[~np.isnan(column)]
        low, middle, high = np.quantile(present, (0, 0.5, 1)) if len(present) else [np.nan] * 3
        text = f"{low:,.5g} – {middle:,.5g} – {high:,.5g}"
        return {"text": text, "missing": int(np.isnan(column).sum())}
    if isinstance(field, CategoryField):
        column = rows.inputs[field.tensor][:, field.column]
        counts = [(word, int((column == word).sum())) for word in field.vocabulary]
        counts.sort(key=lambda pair: -pair[1])
        text = ", ".join(f"{word} {count:,}" for word, count in counts[:WORDS_SHOWN])
        if len(counts) > WORDS_SHOWN:
            text += f", and {len(counts) - WORDS_SHOWN:,} more"
        return {"text": text, "missing": int((column == "").sum())}
    if isinstance(field, ImageField):
        mean = rows.inputs[field.tensor].mean()
        return {"text": f"mean value {mean:.2f} of {field.maximum}", "missing": 0}
    if is_padded(field, rows.inputs[field.tensor]):
        low, middle, high = np.quantile(row_lengths(rows.inputs[field.tensor]), (0, 0.5, 1))
        unit = "steps" if isinstance(field, SeriesField) else "bytes"
        return {"text": f"{low:,.0f} – {middle:,.0f} – {high:,.0f} {unit}", "missing": 0}
    return {"text": "", "missing": 0}


def class_pictures(rows: Rows) -> list[tuple[str, list[str]]]:
    """Some pictures of each class, where the input is an image."""
    field = rows.fields[0]
    if not isinstance(field, ImageField) or not isinstance(rows.task, Classification):
        return []
    images = rows.inputs[field.tensor]
    return [
        (label, [picture(images[row], field) for row in np.flatnonzero(rows.targets == index)[:3]])
        for index, label in enumerate(rows.task.labels[:ROWS_SHOWN])
    ]


def worst_examples(findings: Findings) -> list[Example]:
    """The test rows with the highest loss, highest first."""
    test, rows = findings.test, findings.split.test
    field = rows.fields[0]
    numbers = np.array(test.worst[:WORST_SHOWN], dtype=np.int64)
    worst = replace(rows, inputs=take_rows(rows.inputs, numbers), targets=rows.targets[numbers])
    examples = []
    for place, number in enumerate(numbers.tolist()):
        truth, answer, figure = _said(rows.task, rows.targets[number], test.answers[number])
        is_image = isinstance(field, ImageField)
        examples.append(
            Example(
                number=number,
                truth=truth,
                answer=answer,
                figure=figure,
                picture=picture(rows.inputs[field.tensor][number], field)
                if isinstance(field, ImageField)
                else None,
                values=() if is_image else _shown(worst.instances[place]),
            )
        )
    return examples


def _said(task: Task, truth: Any, answer: Any) -> tuple[str, str, str]:
    """Truth and answer in words, and the figure of an example."""
    match task:
        case Classification(labels):
            return labels[truth], labels[answer.argmax()], f"{answer[truth]:.3f}"
        case MultiLabel(labels):
            held = [label for label, holds in zip(labels, truth, strict=True) if holds]
            said = [label for label, score in zip(labels, answer, strict=True) if score > HOLDS]
            unlikely = float(np.where(truth > 0, answer, 1 - answer).min())
            return ", ".join(held) or "none", ", ".join(said) or "none", f"{unlikely:.3f}"
        case Regression():
            return f"{truth:.6g}", f"{answer:.6g}", f"{answer - truth:+.4g}"


def _scatter(findings: Findings) -> Markup | None:
    if not isinstance(findings.dataset.task, Regression):
        return None
    return predicted_against_true(findings.test.answers, findings.split.test.targets)


def _shown(instance: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(_written(value) for value in itertools.islice(instance.values(), VALUES_SHOWN))


def _written(value: Any) -> str:
    match value:
        case None:
            return "missing"
        case float():
            return f"{value:g}"
        case list():
            return f"{len(value)} steps"
        case _:
            return str(value)


def example_of(field: InputField) -> str:
    """A field's example, short enough for a table."""
    if isinstance(field, ImageField):
        return "nested numbers"
    if isinstance(field, SeriesField):
        return f"{len(field.example or ())} steps"
    return "" if field.example is None else str(field.example)
