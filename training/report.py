"""What a person reads of a model: a card in Markdown and a report as one HTML file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app.bundle.manifest import Manifest
from app.bundle.signature import CategoryField, ImageField, InputField, NumberField
from training.card import accepts, model_card
from training.charts import learning_curves, picture, reliability_diagram, shades
from training.data.dataset import Dataset, Rows, class_counts
from training.data.split import Split
from training.proof import Proof
from training.select import Selection
from training.validate import Evaluation

TEMPLATES = Path(__file__).parent / "templates"
WORST_SHOWN = 12


@dataclass(frozen=True)
class Findings:
    """Everything that a report tells besides the manifest; `test` is the chosen candidate's."""

    dataset: Dataset
    split: Split
    selection: Selection
    test: Evaluation
    proof: Proof


@dataclass(frozen=True)
class Example:
    """A test row that the model found hard; `score` is what it gave to the truth, 0–1."""

    number: int
    truth: str
    answer: str
    score: float
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
    split = findings.split
    parts = {"train": split.train, "validation": split.validation, "test": split.test}
    return templates.get_template("report.html").render(
        manifest=manifest,
        findings=findings,
        chosen=findings.selection.chosen,
        parts=parts,
        counts={name: class_counts(rows) for name, rows in parts.items()},
        summaries=[(field, summary_of(field, split.train)) for field in manifest.signature.fields],
        pictures=class_pictures(split.train),
        curves=learning_curves(findings.selection),
        reliability=reliability_diagram(findings.test),
        shares=shades(findings.test.confusion),
        worst=worst_examples(findings),
        limits=accepts,
        example=example_of,
    )


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
        text = ", ".join(f"{word} {int((column == word).sum())}" for word in field.vocabulary)
        return {"text": text, "missing": int((column == "").sum())}
    if isinstance(field, ImageField):
        mean = rows.inputs[field.tensor].mean()
        return {"text": f"mean value {mean:.2f} of {field.maximum}", "missing": 0}
    return {"text": "", "missing": 0}


def class_pictures(rows: Rows) -> list[tuple[str, list[str]]]:
    """Some pictures of each class, where the input is an image."""
    field = rows.fields[0]
    if not isinstance(field, ImageField):
        return []
    images = rows.inputs[field.tensor]
    return [
        (label, [picture(images[row], field) for row in np.flatnonzero(rows.targets == index)[:3]])
        for index, label in enumerate(rows.labels)
    ]


def worst_examples(findings: Findings) -> list[Example]:
    """The test rows with the lowest score for the true class, lowest first."""
    test, rows = findings.test, findings.split.test
    field = rows.fields[0]
    examples = []
    for number in test.worst[:WORST_SHOWN]:
        scores, truth = test.scores[number], int(rows.targets[number])
        is_image = isinstance(field, ImageField)
        examples.append(
            Example(
                number=number,
                truth=rows.labels[truth],
                answer=rows.labels[int(scores.argmax())],
                score=float(scores[truth]),
                picture=picture(rows.inputs[field.tensor][number], field)
                if isinstance(field, ImageField)
                else None,
                values=() if is_image else _shown(rows, number),
            )
        )
    return examples


def _shown(rows: Rows, number: int) -> tuple[str, ...]:
    values = rows.instances[number].values()
    return tuple(
        "missing" if v is None else f"{v:g}" if isinstance(v, float) else v for v in values
    )


def example_of(field: InputField) -> str:
    """A field's example, short enough for a table."""
    if isinstance(field, ImageField):
        return "nested numbers"
    return "" if field.example is None else str(field.example)
