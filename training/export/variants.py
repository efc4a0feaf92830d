"""Smaller graphs beside the exported one: made, compared with it, measured, and let in or not."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Final

import numpy as np

from app.bundle.golden import Golden, Run, max_abs_error, row_dependence
from app.bundle.manifest import Manifest, Tolerance, Variant, VariantName
from app.bundle.tensors import Array, Tensors, take_rows
from training.config import RunConfig
from training.data.dataset import Rows
from training.data.split import Split
from training.errors import GateFailed, ProofFailed
from training.evaluation.validate import evaluate
from training.export import quantize, runtime
from training.export.proof import Proof, prove_files, scale_of, spread_over_targets
from training.progress import Progress
from training.selection.latency import BATCH_ROWS, measure_latency
from training.tasks import LABEL

FILES: Final[Mapping[VariantName, str]] = {"int8": "model.int8.onnx", "fp16": "model.fp16.onnx"}
#: Training rows by which the ranges of activations are measured.
CALIBRATION_ROWS: Final = 256
#: A variant that nobody asked for must be this much faster in batches.
WORTH_IT: Final = 1.2
#: Under so many milliseconds a row there is little to gain.
QUICK_ENOUGH_MS: Final = 0.05
#: How long layers are tried one by one where INT8 loses too much.
SEARCH_S: Final = 60.0
#: How often a variant races the exported graph.
TURNS: Final = 3
#: Validation rows by which layers are told apart.
SEARCH_ROWS: Final = 256
#: Other processors round otherwise: what is recorded is this much of what was seen.
MARGIN: Final = 2.0
LEAST_TOLERANCE: Final = 1e-2
#: Rows in a run of a whole split.
_AT_ONCE: Final = 64


@dataclasses.dataclass(frozen=True)
class Made:
    """A graph that is published beside the exported one.

    Attributes:
        loss: of the chief metric on the validation rows, as `loss_of` has it.
        kept_float: layers that were left as they are.
    """

    name: VariantName
    model: bytes
    record: Variant
    loss: float
    kept_float: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Variants:
    """What became of the variants; `left_out` says why, by name."""

    made: tuple[Made, ...] = ()
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def files(self) -> dict[str, bytes]:
        return {one.record.file: one.model for one in self.made}

    @property
    def records(self) -> dict[VariantName, Variant]:
        return {one.name: one.record for one in self.made}


@dataclasses.dataclass(frozen=True)
class Exported:
    """The graph that variants are made from, and what they are held to."""

    model: bytes
    run: Run
    split: Split
    config: RunConfig
    golden: Golden

    def answers(self, run: Run, rows: Rows) -> Array:
        return runtime.answers(run, rows.inputs, rows.task.answer, _AT_ONCE)

    def loss(self, run: Run) -> float:
        """How much worse than the exported graph a variant is on the validation rows."""
        rows = self.split.validation
        return loss_of(rows, self.answers(self.run, rows), self.answers(run, rows))


def make_variants(
    model: bytes, proof: Proof, split: Split, config: RunConfig, progress: Progress
) -> Variants:
    """Make those that the run asks for, or that pay.

    Raises:
        GateFailed: a variant that was asked for by name loses too much, or cannot be had.
    """
    exported = Exported(model, runtime.open_run(model), split, config, proof.golden)
    asked = config.variants != "auto"
    made: list[Made] = []
    left_out: dict[str, str] = {}
    for name in wanted(config.variants):
        reason = _without_layers(exported) or (None if asked else nothing_to_gain(exported))
        found = reason or _try(name, exported, asked=asked)
        if isinstance(found, Made):
            made.append(found)
            progress.note(_account(found))
        else:
            left_out[name] = found
            progress.note(f"variant {name} is left out: {found}")
    return Variants(tuple(made), left_out)


def _try(name: VariantName, exported: Exported, *, asked: bool) -> Made | str:
    """The variant, or why it is left out.

    Raises:
        GateFailed: it was asked for, and must not be published.
    """
    limit = exported.config.variant_drop
    try:
        one = _make(name, exported)
    except (quantize.QuantizeTrouble, runtime.SessionTrouble, ProofFailed) as error:
        fault = f"cannot be had: {error}"
    else:
        faster = one.record.speedup[str(BATCH_ROWS)]
        if not one.loss <= limit:
            fault = f"loses {one.loss:.2f} on the validation rows, more than {limit:g}"
        elif asked or faster >= WORTH_IT:
            return one
        else:
            return f"is {faster:.2f} times as fast, less than {WORTH_IT:g}"
    if asked:
        raise GateFailed(f"gate failed: variant {name} {fault}; nothing was published")
    return fault


def prove_variants(variants: Variants, golden: bytes, manifest: Manifest) -> None:
    """Replay golden by each variant in a fresh process. Raises as `prove_files` does."""
    for one in variants.made:
        prove_files(one.model, golden, manifest, one.name)


def wanted(setting: str) -> tuple[VariantName, ...]:
    """The variants of a checked setting. FP16 is for GPUs: whether it pays cannot be measured on
    a processor, which computes it in FP32 with casts around, so that it is made when asked for."""
    if setting == "none":
        return ()
    if setting == "auto":
        return ("int8",)
    return tuple(name for name in FILES if name in setting.split(","))


def _without_layers(exported: Exported) -> str | None:
    """Trees are such graphs: nothing in them could have fewer bits."""
    return None if quantize.heavy_layers(exported.model) else "the graph has no layer with weights"


def nothing_to_gain(exported: Exported) -> str | None:
    """Why a variant is not worth trying, None where it is."""
    row_ms = measure_latency(exported.run, exported.split.test.inputs).batch_ms / BATCH_ROWS
    if row_ms < QUICK_ENOUGH_MS:
        return f"a row takes {row_ms * 1000:.0f} µs, there is little to gain"
    return None


def loss_of(rows: Rows, want: Array, got: Array) -> float:
    """How much worse answers are than the exported graph's: of a share such as accuracy in points
    (hundredths), of an error such as RMSE in per cent of it. Below 0 they are better."""
    chief = rows.task.chief
    before, after = (evaluate(answers, rows).metrics[chief.name] for answers in (want, got))
    if chief.goal == "highest":
        return 100 * (before - after)
    return 100 * (after - before) / max(before, float(np.finfo(float).tiny))


def _make(name: VariantName, exported: Exported) -> Made:
    kept: tuple[str, ...] = ()
    if name == "fp16":
        model = quantize.fp16(exported.model)
    else:
        model, kept = _int8(exported)
    run = runtime.open_run(model)
    _check_independence(name, run, exported)
    return Made(name, model, _record(name, run, exported), exported.loss(run), kept)


def _check_independence(name: VariantName, run: Run, exported: Exported) -> None:
    """As for the exported graph; a step of rounding may fall otherwise in another kernel.

    Raises:
        ProofFailed: batch-mates change a row.
    """
    test = exported.split.test
    mates = take_rows(test.inputs, np.arange(exported.config.max_rows) % len(test))
    step = Tolerance(atol=LEAST_TOLERANCE * scale_of(test), rtol=0.0)
    dependence = row_dependence(run, mates, {test.task.answer: step})
    if dependence:
        raise ProofFailed(f"rows of variant {name} are not independent: {dependence}")


def _int8(exported: Exported) -> tuple[bytes, tuple[str, ...]]:
    """The INT8 graph and the layers that were kept in float, as few as needed."""
    limit = exported.config.variant_drop
    train = exported.split.train
    rows = take_rows(train.inputs, spread_over_targets(train, CALIBRATION_ROWS))
    prepared = quantize.prepare(exported.model)
    # Whether a thin layer is quicker in float depends on what follows it: both are tried.
    choices = {kept: quantize.int8(prepared, rows, kept) for kept in ((), _thin(prepared))}
    kept = min(choices, key=lambda one: _batch_ms(choices[one], exported))
    model = choices[kept]
    if exported.loss(runtime.open_run(model)) <= limit:
        return model, kept
    until = time.monotonic() + SEARCH_S
    for layer in by_damage(prepared, rows, exported, kept, until):
        if time.monotonic() > until:
            break
        kept = (*kept, layer)
        model = quantize.int8(prepared, rows, kept)
        if exported.loss(runtime.open_run(model)) <= limit:
            break
    return model, kept


def _thin(prepared: bytes) -> tuple[str, ...]:
    """The thin layers, unless there are no others."""
    thin = quantize.thin_layers(prepared)
    return thin if len(thin) < len(quantize.heavy_layers(prepared)) else ()


def _batch_ms(model: bytes, exported: Exported) -> float:
    return measure_latency(runtime.open_run(model), exported.split.test.inputs).batch_ms


def by_damage(
    prepared: bytes, rows: Tensors, exported: Exported, kept: tuple[str, ...], until: float
) -> list[str]:
    """Layers by how far the answers are off where each alone is in INT8, furthest first; the last,
    without which nothing would be in INT8, is left out.

    Args:
        kept: layers that stay in float anyhow.
        until: time of the monotonic clock at which the rest are taken as harmless.
    """
    layers = [one for one in quantize.heavy_layers(prepared) if one not in kept]
    some = take_rows(exported.split.validation.inputs, slice(0, SEARCH_ROWS))
    answer = exported.split.validation.task.answer
    want = runtime.answers(exported.run, some, answer, _AT_ONCE)
    damage = dict.fromkeys(layers, 0.0)
    for layer in layers:
        if time.monotonic() > until:
            break
        others = [*kept, *(one for one in layers if one != layer)]
        run = runtime.open_run(quantize.int8(prepared, rows, others))
        damage[layer] = float(np.abs(runtime.answers(run, some, answer, _AT_ONCE) - want).mean())
    return sorted(layers, key=lambda layer: -damage[layer])[:-1]


def _record(name: VariantName, run: Run, exported: Exported) -> Variant:
    """What the manifest says of it; tolerances hold for all test rows, not for the golden alone."""
    split, golden = exported.split, exported.golden
    task = split.test.task
    answers = {part: exported.answers(run, rows) for part, rows in _parts(split).items()}
    of_golden = runtime.run_in_batches(run, golden.inputs, _AT_ONCE)
    error = max(
        max_abs_error(exported.answers(exported.run, split.test), answers["test"]),
        max_abs_error(golden.outputs[task.answer], of_golden[task.answer]),
    )
    scale = scale_of(split.test)
    atol = max(MARGIN * error, LEAST_TOLERANCE * scale)
    agreement = 1.0
    if LABEL in golden.outputs:
        same = int((of_golden[LABEL] == golden.outputs[LABEL]).sum())
        # One row more may differ elsewhere than did here.
        agreement = max(same - 1, 0) / golden.rows
    return Variant(
        file=FILES[name],
        tolerances={task.answer: Tolerance(atol=atol, rtol=0.0)},
        agreement=agreement,
        metrics={
            part: dict(evaluate(answers[part], rows).metrics)
            for part, rows in _parts(split).items()
        },
        speedup=_speedup(exported.run, run, split.test.inputs),
    )


def _parts(split: Split) -> dict[str, Rows]:
    return {"validation": split.validation, "test": split.test}


def _speedup(exported: Run, variant: Run, inputs: Tensors) -> dict[str, float]:
    """How many times as fast the variant is, by batch size, on one thread here."""
    # By turns, the best of each: whatever else runs here slows now one, now the other.
    turns = [[measure_latency(run, inputs) for run in (exported, variant)] for _ in range(TURNS)]
    before, after = zip(*turns, strict=True)
    return {
        "1": min(t.one_row_ms for t in before) / min(t.one_row_ms for t in after),
        str(BATCH_ROWS): min(t.batch_ms for t in before) / min(t.batch_ms for t in after),
    }


def _account(one: Made) -> str:
    speed = ", ".join(f"{ratio:.2f} × at {rows}" for rows, ratio in one.record.speedup.items())
    kept = f"; in float: {', '.join(one.kept_float)}" if one.kept_float else ""
    return f"variant {one.name}: loses {one.loss:.2f} on the validation rows, {speed} rows{kept}"
