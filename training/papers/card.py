"""The model card: what the model is for, how good it is, and where it came from, in Markdown."""

import json
import shlex
from collections.abc import Iterator, Sequence

from app.bundle.manifest import Manifest
from app.bundle.signature import (
    CategoryField,
    ImageField,
    InputField,
    NumberField,
    SeriesField,
    TextField,
)
from training.data.dataset import Dataset
from training.evaluation.caveats import caveats
from training.papers.card_quality import quality_lines
from training.papers.markdown import ROWS_SHOWN, plain, table
from training.tasks import Classification, MultiLabel, Regression

#: Of a vocabulary; a reader wants to know what kind of words.
WORDS_SHOWN = 20


def model_card(manifest: Manifest, dataset: Dataset) -> str:
    """A page of Markdown (Mitchell et al. 2019, arXiv:1810.03993, in short)."""
    return "\n".join(_lines(manifest, dataset)) + "\n"


def _lines(manifest: Manifest, dataset: Dataset) -> Iterator[str]:
    yield f"# {manifest.name}, version {manifest.version}"
    yield ""
    made = f"{manifest.created_at:%Y-%m-%d}"
    yield f"{plain(manifest.description)}. Task: {dataset.task.kind}. Made {made}."
    yield ""
    for doubt in caveats(manifest, dataset.task):
        yield f"**Doubtful.** {plain(doubt)}"
        yield ""
    yield "## Interface"
    yield ""
    yield from table(
        ("field", "kind", "accepts", "may be missing"),
        [(f.name, f.kind, accepts(f), "yes" if f.nullable else "no") for f in _fields(manifest)],
    )
    yield ""
    yield plain(_answers(dataset))
    yield ""
    yield "```sh"
    yield f"curl localhost:8000/models/{manifest.name}/predict \\"
    yield "  -H 'content-type: application/json' \\"
    yield f"  -d {_request(manifest)}"
    yield "```"
    yield ""
    yield "## Quality"
    yield ""
    names = list(manifest.metrics["test"])
    yield from table(
        ("split", *(name.replace("_", " ") for name in names)),
        [(s, *(f"{m[name]:.4f}" for name in names)) for s, m in manifest.metrics.items()],
    )
    yield ""
    if manifest.quality is not None and manifest.quality.baselines:
        yield "On the same test rows, models that need no thought:"
        yield ""
        yield from table(
            ("baseline", *(name.replace("_", " ") for name in names)),
            [
                (one.name, *(f"{one.metrics[n]:.4f}" if n in one.metrics else "–" for n in names))
                for one in manifest.quality.baselines
            ],
        )
        yield ""
    for gate in manifest.gates:
        bar = (
            f"at least {gate.minimum:g}"
            if gate.minimum is not None
            else f"at most {gate.maximum:g}"
        )
        yield f"Gate: {gate.split} {gate.metric} {bar}; it is {gate.value:.4f}."
        yield ""
    if manifest.quality is not None:
        yield from quality_lines(manifest, manifest.quality)
    yield "## Data"
    yield ""
    yield f"{plain(dataset.source)}; {len(dataset.targets):,} rows. The model knows these rows and"
    yield "no other kind: it answers anything that it is sent."
    yield ""
    if dataset.notes:
        yield "Noticed in the data:"
        yield ""
        yield from (f"- {plain(note)}" for note in dataset.notes[:ROWS_SHOWN])
        if len(dataset.notes) > ROWS_SHOWN:
            yield f"- and {len(dataset.notes) - ROWS_SHOWN:,} more, which are in report.html"
        yield ""
    yield "## Provenance"
    yield ""
    yield from _provenance(manifest)


def _answers(dataset: Dataset) -> str:
    match dataset.task:
        case Classification(labels):
            return f"Answers with one of: {_some(labels)}; and a score for each."
        case MultiLabel(labels):
            return f"Answers with a score, 0–1, for each of: {_some(labels)}."
        case Regression(unit, description):
            return f"Answers with a number: {description}{f', in {unit}' if unit else ''}."


def _fields(manifest: Manifest) -> Sequence[InputField]:
    return manifest.signature.fields


def accepts(field: InputField) -> str:
    """What values a field takes, in words."""
    if isinstance(field, NumberField):
        return f"{_range(field)} {field.unit or ''}".strip()
    if isinstance(field, CategoryField):
        return _some(field.vocabulary) + (", or another" if field.accept_unknown else "")
    if isinstance(field, ImageField):
        return f"{field.height} × {field.width} numbers 0–{field.maximum}, or a picture in base64"
    if isinstance(field, TextField):
        return f"text of up to {field.max_length:,} characters"
    if isinstance(field, SeriesField):
        steps = f"{field.minimum_length:,} to {field.maximum_length:,} steps"
        return f"{steps} of {_some(field.channels)}"
    return field.description


def _some(words: Sequence[str]) -> str:
    more = len(words) - WORDS_SHOWN
    return ", ".join([*words[:WORDS_SHOWN], *([f"{more:,} more"] if more > 0 else [])])


def _range(field: NumberField) -> str:
    match field.minimum, field.maximum:
        case None, None:
            return "any number"
        case low, None:
            return f"from {low:,g}"
        case None, high:
            return f"up to {high:,g}"
        case low, high:
            return f"{low:,g} to {high:,g}"


def _request(manifest: Manifest) -> str:
    instance = {field.name: field.example for field in manifest.signature.fields}
    body = json.dumps({"instances": [instance]}, separators=(",", ":"), ensure_ascii=False)
    return shlex.quote(body)


def _provenance(manifest: Manifest) -> Iterator[str]:
    source = manifest.provenance
    if source is None:
        return
    facts = {
        "data sha256": source.data_sha256,
        "split sha256": source.split_sha256 or "unknown",
        "config sha256": source.config_sha256,
        "weights sha256": source.weights_sha256,
        "seed": source.seed,
        "threads": source.threads,
        "commit": source.git_commit or "unknown",
        "versions": ", ".join(f"{name} {version}" for name, version in source.versions.items()),
    }
    yield from table(("what", "value"), [(key, str(value)) for key, value in facts.items()])
