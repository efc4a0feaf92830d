"""The proof that the exported graph answers as PyTorch does, and the golden rows that carry it."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from app.bundle.features import image_from_bytes
from app.bundle.golden import (
    Golden,
    RawExample,
    Run,
    compare,
    lead,
    load_golden,
    max_abs_error,
    row_dependence,
    save_golden,
)
from app.bundle.manifest import Manifest, NumericClass, Precision, Tolerance
from app.bundle.signature import CategoryField, ImageField, InputField, NumberField, SeriesField
from app.bundle.tensors import Array, Tensors, row_count, take_rows
from training.config import RunConfig
from training.data.dataset import Rows
from training.errors import ProofFailed
from training.export import runtime
from training.export.lengths import as_short, is_padded, of_other_lengths
from training.models import Model
from training.tasks import LABEL, Classification, MultiLabel, Regression, Task

#: Above this |difference| from PyTorch, in units of the answer's scale, it is wrong, not rounded.
PARITY_LIMIT = 1e-4
#: What is recorded is at least this, and at least `MARGIN` times what was observed.
FP32_FLOOR = Tolerance(atol=1e-5, rtol=1e-4)
MARGIN = 10
#: TF32, FP16 and BF16 inside an execution provider stay below this on scores of scale 1.
REDUCED = Tolerance(atol=2e-3, rtol=1e-2)
UNSEEN = "somewhere else"
RAW_EXAMPLES = 2


@dataclass(frozen=True)
class Proof:
    """What was shown of the exported graph.

    Attributes:
        tolerances: for each numeric class, for each float output.
        checked_rows: batch sizes at which parity held.
        max_abs_error: largest |difference| from PyTorch that was seen.
    """

    golden: Golden
    tolerances: Mapping[NumericClass, Mapping[str, Tolerance]]
    checked_rows: tuple[int, ...]
    max_abs_error: float


def prove(run: Run, predictor: Model, test: Rows, config: RunConfig) -> Proof:
    """Compare the graph with PyTorch, prove its rows independent, and choose the golden rows.

    Raises:
        ProofFailed: what differs, at which batch size, and by how much.
    """
    answer = predictor.task.answer
    scale = scale_of(test)
    golden = choose_golden(predictor, test, config.golden_rows)
    pool = {k: np.concatenate([golden.inputs[k], test.inputs[k]]) for k in golden.inputs}
    golden = replace(golden, inputs=as_short(golden.inputs, test.fields))
    sizes = tuple(sorted({1, 2, 7, config.max_rows}))
    error = max(parity_error(run, predictor, pool, size, scale) for size in sizes)
    for rows in of_other_lengths(pool, test.fields):
        error = max(error, parity_error(run, predictor, rows, 7, scale))
    floor = scaled(FP32_FLOOR, scale)
    fp32 = floor.model_copy(update={"atol": max(floor.atol, MARGIN * error)})
    mates = take_rows(pool, np.arange(config.max_rows) % row_count(pool))
    dependence = row_dependence(run, mates, {answer: floor})
    if dependence:
        raise ProofFailed(f"rows are not independent: {dependence}; nothing was published")
    tolerances: dict[NumericClass, dict[str, Tolerance]] = {
        "fp32": {answer: fp32},
        "reduced": {answer: scaled(REDUCED, scale)},
    }
    return Proof(golden, tolerances, sizes, error)


def scale_of(rows: Rows) -> float:
    """In what units an answer is off: 1 for scores, the targets' deviation for values."""
    if isinstance(rows.task, Regression):
        return float(rows.targets.std()) or 1.0
    return 1.0


def scaled(tolerance: Tolerance, scale: float) -> Tolerance:
    return tolerance.model_copy(update={"atol": tolerance.atol * scale})


def parity_error(run: Run, predictor: Model, pool: Tensors, size: int, scale: float = 1.0) -> float:
    """Largest |difference| of an answer over all rows of the pool, in batches of `size`.

    Args:
        scale: the unit of `PARITY_LIMIT`.
    Raises:
        ProofFailed: an answer is off by more than the limit, a shape or a label differs.
    """
    answer = predictor.task.answer
    rows = row_count(pool)
    expected = predictor.reference(pool)
    worst = 0.0
    for start in range(0, rows, size):
        index = np.arange(start, start + size) % rows
        batch, want = take_rows(pool, index), take_rows(expected, index)
        try:
            got = run(batch)
        except Exception as error:
            raise ProofFailed(f"parity failed at batch {size}: {error}") from error
        problem = _difference(want, got, predictor.task, PARITY_LIMIT * scale)
        if problem:
            raise ProofFailed(f"parity failed at batch {size}: {problem}; nothing was published")
        worst = max(worst, max_abs_error(want[answer], got[answer]))
    return worst


def _difference(want: Tensors, got: Mapping[str, Array], task: Task, limit: float) -> str | None:
    for name, array in want.items():
        if name not in got or got[name].shape != array.shape:
            shape = got[name].shape if name in got else "nothing"
            return f"output {name!r} has shape {shape} instead of {array.shape}"
    answer = task.answer
    error = max_abs_error(want[answer], got[answer])
    if not error <= limit:
        return f"{answer} differ from PyTorch by {error:.3g}, more than {limit:g}"
    if not isinstance(task, Classification):
        return None
    clear = lead(want[answer], task.threshold) > 2 * limit
    wrong = int(((want[LABEL] != got[LABEL]) & clear).sum())
    return f"{wrong} labels differ from PyTorch's" if wrong else None


def choose_golden(predictor: Model, test: Rows, rows: int) -> Golden:
    """Held-out rows of every kind, then made-up gaps where a field allows them."""
    chosen = take_rows(test.inputs, spread_over_targets(test, rows))
    gaps = gap_rows(chosen, test.fields)
    inputs = {name: np.concatenate([chosen[name], gaps[name]]) for name in chosen}
    return Golden(inputs, predictor.reference(inputs), raw_examples(test))


def spread_over_targets(rows: Rows, count: int) -> Array:
    """Row numbers, int64 [at most count]: the first of each class, the second of each, …; where
    the answer is a number, from the lowest target to the highest."""
    match rows.task:
        case Classification(labels):
            order = [np.flatnonzero(rows.targets == index) for index in range(len(labels))]
        case MultiLabel(labels):
            order = [np.flatnonzero(rows.targets[:, index]) for index in range(len(labels))]
            order.append(np.flatnonzero(rows.targets.sum(axis=1) == 0))
        case Regression():
            ascending = np.argsort(rows.targets, kind="stable")
            places = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(np.int64)
            return np.asarray(ascending[places], dtype=np.int64)
    longest = max(len(one) for one in order)
    turns = [int(one[turn]) for turn in range(longest) for one in order if turn < len(one)]
    return np.array(list(dict.fromkeys(turns))[:count], dtype=np.int64)


def gap_rows(inputs: Tensors, fields: Sequence[InputField]) -> dict[str, Array]:
    """Copies of the first rows, one for each gap that serving must bear.

    Each nullable number and category is missing once, each open vocabulary meets an unseen value
    once, each text is empty once, each series as short as may be, and one row lacks everything
    that may be missing. No rows where nothing may be missing.
    """
    changes: list[list[tuple[str, int | slice, object]]] = []
    everything: list[tuple[str, int | slice, object]] = []
    for field in fields:
        if isinstance(field, SeriesField):
            changes.append([(field.tensor, slice(field.minimum_length, None), np.nan)])
        elif is_padded(field, inputs[field.tensor]):
            changes.append([(field.tensor, slice(None), 0)])
        if field.column is None:
            continue
        if field.nullable and isinstance(field, NumberField):
            everything.append((field.tensor, field.column, np.nan))
        if field.nullable and isinstance(field, CategoryField):
            everything.append((field.tensor, field.column, ""))
        if isinstance(field, CategoryField) and field.accept_unknown:
            changes.append([(field.tensor, field.column, UNSEEN)])
    changes += [[one] for one in everything] + ([everything] if everything else [])
    index = np.arange(len(changes)) % row_count(inputs)
    rows = {name: array.copy() for name, array in take_rows(inputs, index).items()}
    for row, cells in enumerate(changes):
        for tensor, column, value in cells:
            rows[tensor][row, column] = value
    return rows


def raw_examples(test: Rows) -> tuple[RawExample, ...]:
    """Encoded pictures with the array row that each must become, for every image field."""
    return tuple(
        RawExample(field.name, encoded, image_from_bytes(encoded, field))
        for field in test.fields
        if isinstance(field, ImageField)
        for encoded in (encode_png(row, field) for row in test.inputs[field.tensor][:RAW_EXAMPLES])
    )


def encode_png(row: Array, field: ImageField) -> bytes:
    """A PNG file of uint8 [height, width(, 3)] with values 0–maximum, stretched to 0–255."""
    pixels = (row.reshape(field.shape).astype(np.uint32) * 255) // field.maximum
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def prove_files(
    model: bytes, golden: bytes, manifest: Manifest, precision: Precision = "fp32"
) -> None:
    """Replay golden by the very bytes to be published, in a process that has only ONNX Runtime.

    Args:
        model: the graph of this precision, held to its own tolerances.

    Raises:
        ProofFailed: they do not load there, or answer otherwise.
    """
    try:
        answer = runtime.run_in_child(model, golden)
    except runtime.SessionTrouble as error:
        raise ProofFailed(f"the finished files do not work: {error}") from error
    with np.load(io.BytesIO(answer), allow_pickle=False) as archive:
        got = {k: v.astype(object) if v.dtype.kind == "U" else v for k, v in archive.items()}
    found = compare(load_golden(golden).outputs, got, manifest.variant(precision))
    if found.numeric_class != ("fp32" if precision == "fp32" else "reduced"):
        raise ProofFailed(f"the finished files answer otherwise than PyTorch: {found.reason}")


def tie_margin(task: Task) -> float:
    """Rows whose label leads by less may differ in it: each of two scores near where the choice
    turns may be off by the reduced tolerance, in opposite directions."""
    turns = task.threshold if isinstance(task, Classification) and task.threshold else 0.5
    return 2 * (REDUCED.atol + REDUCED.rtol * max(turns, 0.5))


def golden_bytes(proof: Proof) -> bytes:
    return save_golden(proof.golden)
