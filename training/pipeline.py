"""The road from raw data to a published bundle, in the order in which it is travelled."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app.bundle.manifest import Manifest
from app.bundle.store import Bundle
from app.bundle.tensors import Array, Tensors
from training import runtime
from training.config import RunConfig
from training.data.dataset import Dataset, Rows
from training.data.split import Split, split_dataset
from training.export import describe_graph, export
from training.models import Predictor
from training.progress import Progress
from training.proof import Proof, golden_bytes, prove, prove_files
from training.provenance import provenance_of
from training.publish import build_manifest, check_writable, publish_bundle
from training.report import Findings, write_papers
from training.runs import Run, find_run
from training.select import Selection, choose, train_candidates
from training.train import make_repeatable
from training.validate import Evaluation, check_gates, evaluate, gates_of


@dataclass(frozen=True)
class Outcome:
    """What a run leaves behind: the bundle on disk, and in memory all that led to it."""

    run: Run
    config: RunConfig
    dataset: Dataset
    split: Split
    selection: Selection
    evaluations: Mapping[str, Evaluation]
    proof: Proof
    bundle: Bundle

    @property
    def predictor(self) -> Predictor:
        """The chosen module: from the graph's inputs (strings looked up) to the answer."""
        return self.selection.chosen.predictor

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    @property
    def test(self) -> Rows:
        """The held-out rows; `.instances` are what a client sends, `.expected` the truth."""
        return self.split.test

    def reference(self, inputs: Tensors) -> dict[str, Array]:
        """What PyTorch answers to the graph's inputs, as the graph's outputs."""
        return self.predictor.reference(inputs)


def held_out(name: str, overrides: Mapping[str, object] | None = None) -> Rows:
    """The test rows of a built-in run, without training it.

    Raises:
        UsageError, EnvironmentTrouble: see `run`.
    """
    found = find_run(name)
    config = found.config.with_overrides(overrides or {})
    return split_dataset(found.collect(), config).test


def run(
    name: str,
    models: Path,
    overrides: Mapping[str, object] | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Train a built-in run, prove the result and publish it under `models`.

    Raises:
        UsageError: no such run or setting, or a bad value.
        Rejected: the model is not good enough or its export not equal; nothing is published.
        EnvironmentTrouble: the folder cannot be written, or a data package is missing.
    """
    found = find_run(name)
    return travel(
        found, found.config.with_overrides(overrides or {}), models, progress or Progress()
    )


def travel(run: Run, config: RunConfig, models: Path, progress: Progress) -> Outcome:
    """The whole road. Errors as for `run`."""
    check_writable(models)
    make_repeatable(config)

    progress.stage("Collect and split the data")
    dataset = run.collect()
    split = split_dataset(dataset, config)
    progress.note(
        f"{len(dataset.targets):,} rows, {dataset.task.kind}: "
        f"{len(split.train)} train, {len(split.validation)} validation, {len(split.test)} test"
    )

    progress.stage("Train the candidates")
    preprocess = run.fit_preprocess(split.train.inputs)
    trained = train_candidates(run.candidates, preprocess, split, config, progress)
    selection = choose(trained, dataset.task)
    chosen = selection.chosen
    progress.note(f"chosen: {chosen.candidate.name} ({selection.reason})")

    progress.stage("Measure it on the test rows and check the gates")
    test = evaluate(chosen.predictor.answers(split.test.inputs), split.test)
    evaluations = {"validation": chosen.validation, "test": test}
    gates = tuple(gates_of(config.gates, test))
    check_gates(gates)

    progress.stage("Export to ONNX and prove it against PyTorch")
    graph = export(chosen.predictor, split.test.inputs)
    model = graph.SerializeToString(deterministic=True)
    proof = prove(runtime.open_run(model), chosen.predictor, split.test, config)
    progress.note(
        f"largest difference of an answer {proof.max_abs_error:.2g} at batches of "
        f"{', '.join(str(size) for size in proof.checked_rows)} rows; rows are independent"
    )

    progress.stage("Replay the finished files in a fresh process and publish them")
    manifest = build_manifest(
        run=run,
        config=config,
        dataset=dataset,
        split=split,
        evaluations=evaluations,
        gates=gates,
        proof=proof,
        graph=describe_graph(graph),
        provenance=provenance_of(run.name, dataset, config, chosen.predictor),
    )
    golden = golden_bytes(proof)
    prove_files(model, golden, manifest)
    findings = Findings(dataset, split, selection, test, proof)
    bundle = publish_bundle(models, manifest, model, golden, lambda m: write_papers(m, findings))
    return Outcome(run, config, dataset, split, selection, evaluations, proof, bundle)
