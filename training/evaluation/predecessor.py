"""The version that is published now, on the same test rows: the new one must not be worse."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from app.bundle import BundleError
from app.bundle.manifest import Manifest, Provenance
from app.bundle.quality import Predecessor
from app.bundle.signature import LabelPrediction, ScoresPrediction, Signature
from app.bundle.store import Bundle, open_bundle, scan
from app.bundle.tensors import Array
from training.data.dataset import Rows
from training.errors import GateFailed
from training.evaluation.bootstrap import Counts, Measure, intervals
from training.evaluation.metrics import Floats, measures_of
from training.evaluation.validate import Evaluation, evaluate
from training.export import runtime
from training.progress import Progress
from training.tasks import Classification, Task

#: What may be lost: of a share such as accuracy, and relative of an error such as RMSE.
USUAL_LOSS = 0.01
USUAL_RELATIVE_LOSS = 0.02
CHANGE = "change"

Verdict = Literal["better", "equal within chance", "worse within the limit", "worse"]


@dataclasses.dataclass(frozen=True)
class Compared:
    """The published version's record, or why there is none."""

    record: Predecessor | None
    note: str


def compare_with_published(
    models: Path,
    name: str,
    *,
    signature: Signature,
    provenance: Provenance,
    test: Rows,
    new: Evaluation,
    limit: float | None,
) -> Compared:
    """Run the version that serves, or would, on the test rows, and compare row by row.

    Args:
        new: of the test rows, by the model that is to be published.
        limit: largest loss of the chief metric, relative for an error; None for the usual one.
    """
    try:
        old = published(models, name)
        if old is None:
            return Compared(None, "no version is published yet")
        reason = differs(old.manifest.signature, signature)
        if reason:
            return Compared(None, f"version {old.manifest.version} has {reason}: not compared")
        answers = _answers(old, test)
    except (BundleError, runtime.SessionTrouble) as error:
        return Compared(None, f"the published version cannot be run: {error}")
    rows = dataclasses.replace(test, task=_task_of(old.manifest, test.task))
    before = evaluate(answers, rows)
    record = _record(old, before, rows, new=new, test=test, limit=limit, provenance=provenance)
    return Compared(record, _said(record))


def check_regression(compared: Compared, progress: Progress) -> None:
    """Tell of the comparison; let nothing pass that is worse, unless that may be chance.

    Raises:
        GateFailed: by how much it is worse, and what is allowed.
    """
    progress.note(compared.note)
    record = compared.record
    if record is not None and record.verdict == "worse":
        raise GateFailed(
            f"gate failed: {_said(record)}, more than max_regression {record.limit:g}; "
            "nothing was published"
        )


def published(models: Path, name: str) -> Bundle | None:
    """The pinned version, else the newest; None where there is none.

    Raises:
        BundleError: it is there and cannot be read.
    """
    for folder in scan(models):
        if folder.name == name and folder.versions:
            version = folder.pin if folder.pin in folder.versions else folder.versions[0]
            return open_bundle(folder.path, version)
    return None


def differs(old: Signature, new: Signature) -> str | None:
    """What keeps the old graph from these rows, in words; None where nothing does."""

    def tensors(signature: Signature) -> Sequence[object]:
        specs = (*signature.inputs, *signature.outputs)
        return [(spec.name, spec.datatype, spec.shape) for spec in specs]

    def columns(signature: Signature) -> Sequence[object]:
        return sorted((field.tensor, field.column or 0, field.name) for field in signature.fields)

    def labels(signature: Signature) -> Sequence[object]:
        return [p.labels for p in signature.predictions if isinstance(p, ScoresPrediction)]

    for words, of in (("tensors", tensors), ("fields", columns), ("labels", labels)):
        if of(old) != of(new):
            return f"other {words}"
    return None


def _answers(old: Bundle, test: Rows) -> Array:
    run = runtime.open_run(old.model())
    try:
        return runtime.answers(run, test.inputs, test.task.answer, old.manifest.batching.max_rows)
    except Exception as error:  # the binding's exceptions share no public base
        raise runtime.SessionTrouble(str(error)) from error


def _task_of(manifest: Manifest, task: Task) -> Task:
    """The task as the old version decided it."""
    if not isinstance(task, Classification):
        return task
    chosen = [p for p in manifest.signature.predictions if isinstance(p, LabelPrediction)]
    return dataclasses.replace(task, threshold=chosen[0].threshold if chosen else None)


def _record(
    old: Bundle,
    before: Evaluation,
    rows: Rows,
    *,
    new: Evaluation,
    test: Rows,
    limit: float | None,
    provenance: Provenance,
) -> Predecessor:
    chief = test.task.chief
    relative = chief.goal == "lowest"
    usual = USUAL_RELATIVE_LOSS if relative else USUAL_LOSS
    allowed = usual if limit is None else limit
    measure = change_of(
        measures_of(rows.task, before.answers, rows.targets)[chief.name],
        measures_of(test.task, new.answers, test.targets)[chief.name],
        relative=relative,
    )
    change = float(measure(np.ones((1, len(test))))[0])
    spread = intervals({CHANGE: measure}, len(test), seed=provenance.seed)[CHANGE]
    gain = -change if relative else change
    likely = spread.low > 0 or spread.high < 0
    return Predecessor(
        version=old.manifest.version,
        digest=old.digest,
        metric=chief.name,
        metrics=before.metrics,
        change=change,
        relative=relative,
        interval=spread,
        limit=allowed,
        verdict=_verdict(gain, allowed, likely=likely),
        same_division=_same_division(old.manifest.provenance, provenance),
    )


def change_of(old: Measure, new: Measure, *, relative: bool) -> Measure:
    """New minus old over the same resamples; over the old where it is `relative`."""

    def measure(counts: Counts) -> Floats:
        before = old(counts)
        step = new(counts) - before
        return step / np.maximum(before, np.finfo(float).tiny) if relative else step

    return measure


def _verdict(gain: float, allowed: float, *, likely: bool) -> Verdict:
    """`likely` is a difference that hardly comes from the choice of the test rows."""
    if not likely:
        return "equal within chance"
    if gain > 0:
        return "better"
    return "worse" if -gain > allowed else "worse within the limit"


def _same_division(old: Provenance | None, new: Provenance) -> bool:
    """Whether the old version's test rows were these: then neither was trained on them."""
    if old is None or old.data_sha256 != new.data_sha256 or old.seed != new.seed:
        return False
    dividing = [key for key in new.config if key.endswith("_share") or key == "split"]
    return all(old.config.get(key) == new.config[key] for key in dividing)


def _said(record: Predecessor) -> str:
    unit = f"{record.change:+.2%}" if record.relative else f"{record.change:+.4f}"
    return (
        f"test {record.metric.replace('_', ' ')} is {unit} against version {record.version} ("
        f"{record.metrics[record.metric]:.4f}): {record.verdict}"
    )
