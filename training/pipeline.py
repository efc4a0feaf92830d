"""The road from raw data to a published bundle, in the order in which it is travelled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from app.bundle.manifest import GOLDEN_FILE, MODEL_FILE, Gate, Manifest, Provenance
from app.bundle.quality import Baseline
from app.bundle.store import Bundle
from app.bundle.tensors import Array, Tensors
from training.config import RunConfig
from training.data.dataset import Dataset, Rows
from training.data.split import Split, split_dataset
from training.errors import Rejected
from training.evaluation.calibrate import settle
from training.evaluation.evidence import quality_of
from training.evaluation.floor import bars_of, check_asked
from training.evaluation.predecessor import Compared, check_regression, compare_with_published
from training.evaluation.validate import Evaluation, check_gates, evaluate, gates_of
from training.export import runtime
from training.export.graph import describe_graph, export
from training.export.proof import Proof, golden_bytes, prove, prove_files
from training.export.provenance import provenance_of
from training.export.publish import build_manifest, check_writable, publish_bundle, signature_of
from training.export.variants import make_variants, prove_variants
from training.fit.checkpoints import Keep
from training.fit.curves import LoggedProgress
from training.fit.hardware import is_first_process, join_processes, part_with_others
from training.fit.train import make_repeatable
from training.models import AnyCandidate, Model
from training.papers.report import Findings, write_papers
from training.preprocess.tensors import Preprocess
from training.progress import Progress
from training.runs import Run, find_run
from training.selection.baselines import measure_baselines
from training.selection.select import (
    Selection,
    Trial,
    choose,
    prove_each,
    standard_error,
    train_candidates,
)

#: Checkpoints, in the folder of the models, where it can be written for sure.
CHECKPOINTS = ".checkpoints"


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
    def predictor(self) -> Model:
        """The chosen model: from the graph's inputs (strings looked up) to the answer."""
        return self.selection.chosen.predictor

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    @property
    def test(self) -> Rows:
        """The held-out rows; `.instances` are what a client sends, `.expected` the truth."""
        return self.split.test

    def reference(self, inputs: Tensors) -> dict[str, Array]:
        """What the chosen model answers to the graph's inputs, as the graph's outputs."""
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
    keep: Keep | None = None,
) -> Outcome:
    """Train a built-in run, prove the result and publish it under `models`.

    Raises:
        UsageError: no such run or setting, or a bad value.
        Rejected: the model is not good enough or its export not equal; nothing is published.
        EnvironmentTrouble: the folder cannot be written, or a data package is missing.
    """
    found = find_run(name)
    config = found.config.with_overrides(overrides or {})
    return travel(found, config, models, progress or Progress(), keep)


def travel(
    run: Run, config: RunConfig, models: Path, progress: Progress, keep: Keep | None = None
) -> Outcome:
    """The whole road. Errors as for `run`.

    Several processes that were started together train together; all but the first end after it.
    Checkpoints stay where it ends in any other way than by publishing or rejecting the model.
    """
    check_writable(models)
    join_processes(config)
    make_repeatable(config)
    if not is_first_process():
        progress = Progress()
    elif config.logs is not None:
        progress = LoggedProgress(progress, config.logs / run.name)
    keep = keep or Keep(models / CHECKPOINTS)
    try:
        outcome = _travel(_Journey(run, config, models, progress, keep))
    except Rejected:
        keep.clear(run.name)
        raise
    keep.clear(run.name)
    return outcome


@dataclass(frozen=True)
class _Journey:
    """What every stage needs."""

    run: Run
    config: RunConfig
    models: Path
    progress: Progress
    keep: Keep


def _travel(journey: _Journey) -> Outcome:
    run, config, progress = journey.run, journey.config, journey.progress
    dataset, split = _collect(journey)
    preprocess = run.fit_preprocess(split.train.inputs)
    selection = _select(journey, dataset, split, preprocess)
    chosen = selection.chosen.predictor

    progress.stage("Calibrate it on the validation rows")
    settled = settle(chosen, dataset, split, config, progress)
    dataset, split = settled.dataset, settled.split

    progress.stage("Measure it on the test rows and check the gates")
    verdict = _judge(journey, chosen, dataset, split, preprocess)

    progress.stage("Export to ONNX and prove it against " + chosen.framework)
    graph = export(chosen, split.test.inputs)
    model = graph.SerializeToString(deterministic=True)
    proof = prove(runtime.open_run(model), chosen, split.test, config)
    progress.note(
        f"largest difference of an answer {proof.max_abs_error:.2g} at batches of "
        f"{', '.join(str(size) for size in proof.checked_rows)} rows; rows are independent"
    )

    progress.stage("Make smaller variants")
    variants = make_variants(model, proof, split, config, progress)

    progress.stage("Replay the finished files in a fresh process and publish them")
    manifest = build_manifest(
        run=run,
        config=config,
        dataset=dataset,
        split=split,
        evaluations=verdict.evaluations,
        gates=verdict.gates,
        proof=proof,
        variants=variants,
        quality=quality_of(
            evaluations=verdict.evaluations,
            split=split,
            seed=config.seed,
            calibration=settled.calibration,
            predecessor=verdict.compared.record,
            left_out=variants.left_out,
            baselines=verdict.baselines,
        ),
        graph=describe_graph(graph),
        provenance=verdict.provenance,
    )
    golden = golden_bytes(proof)
    prove_files(model, golden, manifest)
    prove_variants(variants, golden, manifest)
    findings = Findings(config, dataset, split, selection, verdict.evaluations["test"], proof)
    files = {MODEL_FILE: model, GOLDEN_FILE: golden, **variants.files}
    bundle = publish_bundle(journey.models, manifest, files, lambda m: write_papers(m, findings))
    return Outcome(run, config, dataset, split, selection, verdict.evaluations, proof, bundle)


def _collect(journey: _Journey) -> tuple[Dataset, Split]:
    progress = journey.progress
    progress.stage("Collect and split the data")
    dataset = journey.run.collect()
    split = split_dataset(dataset, journey.config)
    check_asked(journey.config, split.test)
    progress.note(
        f"{len(dataset.targets):,} rows, {dataset.task.kind}: "
        f"{len(split.train)} train, {len(split.validation)} validation, {len(split.test)} test"
    )
    # With the vocabularies of the training rows.
    return replace(dataset, fields=split.train.fields), split


def _select(journey: _Journey, dataset: Dataset, split: Split, preprocess: Preprocess) -> Selection:
    run, config, progress, keep = journey.run, journey.config, journey.progress, journey.keep
    candidates: Sequence[AnyCandidate] = run.candidates
    trials: tuple[Trial, ...] = ()
    if config.budget:
        progress.stage("Search for settings")
        from training.selection.search import search  # noqa: PLC0415 (Optuna takes long to import)

        storage = keep.search_file(run.name, dataset, config)
        found = search(candidates, run.fit_preprocess, split, config, progress, storage)
        candidates, trials = found.candidates, found.trials

    progress.stage("Train the candidates")
    checkpoints = keep.checkpoints(run.name, dataset, config)
    if checkpoints.are_there and not checkpoints.resume:
        progress.note(f"an interrupted run in {checkpoints.folder} is not resumed but replaced")
    trained = train_candidates(
        candidates, preprocess, split, config, progress, checkpoints=checkpoints
    )
    if not part_with_others():
        raise SystemExit(0)

    progress.stage("Export each, prove it, time it, and choose")
    selection = choose(
        prove_each(trained, split, config, progress),
        dataset.task,
        faster_by=config.faster_by,
        doubt=standard_error(split.validation, config.seed),
        trials=trials,
    )
    progress.note(f"chosen: {selection.chosen.candidate.name} ({selection.reason})")
    return selection


@dataclass(frozen=True)
class _Verdict:
    """What the test rows say of a model that passed."""

    evaluations: Mapping[str, Evaluation]
    gates: tuple[Gate, ...]
    baselines: tuple[Baseline, ...]
    provenance: Provenance
    compared: Compared


def _judge(
    journey: _Journey, chosen: Model, dataset: Dataset, split: Split, preprocess: Preprocess
) -> _Verdict:
    config, progress = journey.config, journey.progress
    parts = {"validation": split.validation, "test": split.test}
    evaluations = {
        name: evaluate(chosen.answers(rows.inputs), rows) for name, rows in parts.items()
    }
    test = evaluations["test"]
    gates = tuple(gates_of(bars_of(config, split, progress), test))
    check_gates(gates)
    baselines = measure_baselines(test.answers, preprocess, split, config, progress)
    provenance = provenance_of(journey.run.name, dataset, split, config, chosen)
    compared = compare_with_published(
        journey.models,
        journey.run.name,
        signature=signature_of(dataset),
        provenance=provenance,
        test=split.test,
        new=test,
        limit=config.max_regression,
    )
    check_regression(compared, progress)
    return _Verdict(evaluations, gates, baselines, provenance, compared)
