"""From the evidence to a manifest, and from there into the model repository."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from app.bundle import PublishFailed
from app.bundle.manifest import Batching, Gate, Graph, Manifest, Provenance
from app.bundle.quality import Quality
from app.bundle.signature import Signature
from app.bundle.store import Bundle, publish
from training.config import RunConfig
from training.data.dataset import Dataset
from training.data.split import Split
from training.errors import EnvironmentTrouble
from training.evaluation.validate import Evaluation
from training.export.proof import Proof, tie_margin
from training.export.variants import Variants
from training.papers.drift import reference_distributions
from training.runs import Run
from training.tasks import Regression


def signature_of(dataset: Dataset) -> Signature:
    """Both levels of the interface of a model of this data."""
    return Signature(
        inputs=dataset.specs,
        outputs=dataset.task.specs(),
        fields=dataset.fields,
        predictions=dataset.task.predictions(),
    )


def build_manifest(
    *,
    run: Run,
    config: RunConfig,
    dataset: Dataset,
    split: Split,
    evaluations: Mapping[str, Evaluation],
    gates: Sequence[Gate],
    proof: Proof,
    variants: Variants,
    quality: Quality,
    graph: Graph,
    provenance: Provenance,
) -> Manifest:
    """The manifest without version number and file records, which the store fills in."""
    return Manifest(
        name=run.name,
        version=1,
        description=run.description,
        task="regression" if isinstance(dataset.task, Regression) else "classification",
        created_at=datetime.now(UTC).replace(microsecond=0),
        signature=signature_of(dataset),
        batching=Batching(
            row_independent=True, max_rows=config.max_rows, checked_rows=proof.checked_rows
        ),
        tolerances=proof.tolerances,
        tie_margin=tie_margin(dataset.task),
        variants=variants.records,
        graph=graph,
        metrics={name: dict(one.metrics) for name, one in evaluations.items()},
        gates=tuple(gates),
        quality=quality,
        drift=reference_distributions(split.train.inputs, split.train.fields),
        provenance=provenance,
    )


def publish_bundle(
    models: Path,
    manifest: Manifest,
    files: Mapping[str, bytes],
    describe: Callable[[Manifest], Mapping[str, bytes]],
) -> Bundle:
    """Publish under the next free version number, completely or not at all.

    Raises:
        EnvironmentTrouble: the repository takes no more.
    """
    try:
        return publish(
            models,
            manifest.name,
            files,
            lambda version: manifest.model_copy(update={"version": version}),
            describe,
        )
    except PublishFailed as error:
        raise EnvironmentTrouble(str(error)) from error


def check_writable(models: Path) -> None:
    """Make the repository's folder and try a file in it, before any time is spent on training.

    Raises:
        EnvironmentTrouble: it cannot be made or written.
    """
    try:
        models.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=models):
            pass
    except OSError as error:
        raise EnvironmentTrouble(
            f"the models folder {models} cannot be written: {error.strerror}"
        ) from None
