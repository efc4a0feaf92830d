"""The proof that the exported graph answers as PyTorch does, and the golden rows that carry it."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from app.bundle.features import image_from_bytes
from app.bundle.golden import (
    Golden,
    RawExample,
    Run,
    compare,
    load_golden,
    max_abs_error,
    row_dependence,
    save_golden,
)
from app.bundle.manifest import Manifest, NumericClass, Tolerance
from app.bundle.signature import CategoryField, ImageField, InputField, NumberField
from app.bundle.tensors import Array, Tensors, row_count, take_rows
from training import runtime
from training.config import RunConfig
from training.data.dataset import Rows
from training.errors import ProofFailed
from training.export import LABEL, SCORES
from training.models import Classifier

#: Above this |difference| from PyTorch a score is wrong, not rounded.
PARITY_LIMIT = 1e-4
#: What is recorded is at least this, and at least `MARGIN` times what was observed.
FP32_FLOOR = Tolerance(atol=1e-5, rtol=1e-4)
MARGIN = 10
#: TF32, FP16 and BF16 inside an execution provider stay below this on scores of scale 1.
REDUCED = Tolerance(atol=2e-3, rtol=1e-2)
#: Each of two scores near 0.5 may be off by the reduced tolerance, in opposite directions.
TIE_MARGIN = 2 * (REDUCED.atol + REDUCED.rtol * 0.5)
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


def prove(run: Run, classifier: Classifier, test: Rows, config: RunConfig) -> Proof:
    """Compare the graph with PyTorch, prove its rows independent, and choose the golden rows.

    Raises:
        ProofFailed: what differs, at which batch size, and by how much.
    """
    golden = choose_golden(classifier, test, config.golden_rows)
    pool = {k: np.concatenate([golden.inputs[k], test.inputs[k]]) for k in golden.inputs}
    sizes = tuple(sorted({1, 2, 7, config.max_rows}))
    error = max(parity_error(run, classifier, pool, size) for size in sizes)
    atol = max(FP32_FLOOR.atol, MARGIN * error)
    fp32 = {SCORES: Tolerance(atol=atol, rtol=FP32_FLOOR.rtol)}
    mates = take_rows(pool, np.arange(config.max_rows) % row_count(pool))
    dependence = row_dependence(run, mates, {SCORES: FP32_FLOOR})
    if dependence:
        raise ProofFailed(f"rows are not independent: {dependence}; nothing was published")
    return Proof(golden, {"fp32": fp32, "reduced": {SCORES: REDUCED}}, sizes, error)


def parity_error(run: Run, classifier: Classifier, pool: Tensors, size: int) -> float:
    """Largest |difference| of a score over all rows of the pool, in batches of `size`.

    Raises:
        ProofFailed: a score is off by more than `PARITY_LIMIT`, a shape or a label differs.
    """
    rows = row_count(pool)
    worst = 0.0
    for start in range(0, rows, size):
        batch = take_rows(pool, np.arange(start, start + size) % rows)
        want = classifier.reference(batch)
        try:
            got = run(batch)
        except Exception as error:
            raise ProofFailed(f"parity failed at batch {size}: {error}") from error
        problem = _difference(want, got)
        if problem:
            raise ProofFailed(f"parity failed at batch {size}: {problem}; nothing was published")
        worst = max(worst, max_abs_error(want[SCORES], got[SCORES]))
    return worst


def _difference(want: Tensors, got: Mapping[str, Array]) -> str | None:
    for name, array in want.items():
        if name not in got or got[name].shape != array.shape:
            shape = got[name].shape if name in got else "nothing"
            return f"output {name!r} has shape {shape} instead of {array.shape}"
    error = max_abs_error(want[SCORES], got[SCORES])
    if not error <= PARITY_LIMIT:
        return f"scores differ from PyTorch by {error:.3g}, more than {PARITY_LIMIT:g}"
    best_two = np.sort(want[SCORES], axis=1)[:, -2:]
    clear = best_two[:, 1] - best_two[:, 0] > PARITY_LIMIT
    wrong = int(((want[LABEL] != got[LABEL]) & clear).sum())
    return f"{wrong} labels differ from PyTorch's" if wrong else None


def choose_golden(classifier: Classifier, test: Rows, rows: int) -> Golden:
    """Held-out rows of every class in turn, then made-up gaps where a field allows them."""
    chosen = take_rows(test.inputs, spread_over_classes(test, rows))
    gaps = gap_rows(chosen, test.fields)
    inputs = {name: np.concatenate([chosen[name], gaps[name]]) for name in chosen}
    return Golden(inputs, classifier.reference(inputs), raw_examples(test))


def spread_over_classes(rows: Rows, count: int) -> Array:
    """Row numbers, int64 [at most count]: the first of each class, the second of each, …"""
    order = [np.flatnonzero(rows.targets == index) for index in range(len(rows.labels))]
    longest = max(len(one) for one in order)
    turns = [int(one[turn]) for turn in range(longest) for one in order if turn < len(one)]
    return np.array(turns[:count], dtype=np.int64)


def gap_rows(inputs: Tensors, fields: Sequence[InputField]) -> dict[str, Array]:
    """Copies of the first rows, one for each gap that serving must bear.

    Each nullable number and category is missing once, each open vocabulary meets an unseen value
    once, and one row lacks everything that may be missing. No rows where nothing may be missing.
    """
    changes: list[list[tuple[str, int, object]]] = []
    everything: list[tuple[str, int, object]] = []
    for field in fields:
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


def prove_files(model: bytes, golden: bytes, manifest: Manifest) -> None:
    """Replay golden by the very bytes to be published, in a process that has only ONNX Runtime.

    Raises:
        ProofFailed: they do not load there, or answer otherwise.
    """
    try:
        answer = runtime.run_in_child(model, golden)
    except runtime.SessionTrouble as error:
        raise ProofFailed(f"the finished files do not work: {error}") from error
    with np.load(io.BytesIO(answer), allow_pickle=False) as archive:
        got = {k: v.astype(object) if v.dtype.kind == "U" else v for k, v in archive.items()}
    found = compare(load_golden(golden).outputs, got, manifest)
    if found.numeric_class != "fp32":
        raise ProofFailed(f"the finished files answer otherwise than PyTorch: {found.reason}")


def golden_bytes(proof: Proof) -> bytes:
    return save_golden(proof.golden)
