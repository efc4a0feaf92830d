"""Golden rows: inputs with the outputs that PyTorch gave, and how others compare with them.

Everything here works over a `run` callable (named arrays in, named arrays out) and knows no
runtime, so training proves an export and serving proves an execution provider by the same code.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from app.bundle.manifest import NUMERIC_CLASSES, Manifest, NumericClass, Tolerance
from app.bundle.signature import LabelPrediction
from app.bundle.tensors import Array, Tensors, row_count, take_rows
from app.errors import BundleCorrupt

Run = Callable[[Tensors], Mapping[str, Array]]
#: What an output is held to when the manifest gives it no tolerance.
EXACT = Tolerance(atol=0.0, rtol=0.0)


@dataclass(frozen=True)
class RawExample:
    """An encoded input as a client would send it, and the array row that it must become."""

    field: str
    encoded: bytes
    row: Array


@dataclass(frozen=True)
class Golden:
    """Rows of every input and output tensor; string tensors are object arrays of `str`."""

    inputs: Tensors
    outputs: Tensors
    raw: tuple[RawExample, ...] = ()

    @property
    def rows(self) -> int:
        return row_count(self.inputs)

    def tiled(self, rows: int, start: int = 0) -> "Golden":
        """`rows` rows from `start` on, going round where there are fewer."""
        index = (start + np.arange(rows)) % self.rows
        return Golden(take_rows(self.inputs, index), take_rows(self.outputs, index))


@dataclass(frozen=True)
class Comparison:
    """What a replay showed: the strictest numeric class that was met, or None and why."""

    numeric_class: NumericClass | None
    reason: str
    max_abs_error: Mapping[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.numeric_class is not None


def save_golden(golden: Golden) -> bytes:
    """An .npz archive without pickled objects: strings become fixed-width unicode.

    Raises:
        ValueError: a string ends in NUL, which fixed-width unicode cannot say.
    """
    arrays: dict[str, Array] = {}
    for side, tensors in (("input", golden.inputs), ("output", golden.outputs)):
        for name, array in tensors.items():
            plain = array.astype(np.str_) if array.dtype == object else array
            if array.dtype == object and (plain != array).any():
                raise ValueError(f"{side} {name!r} has a string that ends in NUL")
            arrays[f"{side}:{name}"] = plain
    for index, example in enumerate(golden.raw):
        arrays[f"raw:{example.field}:{index}"] = np.frombuffer(example.encoded, dtype=np.uint8)
        arrays[f"row:{example.field}:{index}"] = example.row
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def load_golden(data: bytes) -> Golden:
    """Read what `save_golden` wrote.

    Raises:
        BundleCorrupt: not such an archive, or it has no rows.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except Exception:  # zipfile, zlib and numpy raise many kinds for damaged archives
        raise BundleCorrupt("golden.npz is not a readable archive of plain arrays") from None
    inputs = _with_prefix(arrays, "input:")
    outputs = _with_prefix(arrays, "output:")
    rows = {array.shape[0] if array.ndim else 0 for array in (*inputs.values(), *outputs.values())}
    if not inputs or not outputs or len(rows) != 1 or 0 in rows:
        raise BundleCorrupt("golden.npz does not hold the same rows of inputs and outputs")
    return Golden(inputs, outputs, _raw_examples(arrays))


def _raw_examples(arrays: Mapping[str, Array]) -> tuple[RawExample, ...]:
    examples = []
    for key, array in arrays.items():
        side, _, place = key.partition(":")
        if side != "raw":
            continue
        if f"row:{place}" not in arrays:
            raise BundleCorrupt(f"golden.npz has an encoded input {place!r} without its row")
        examples.append(
            RawExample(place.partition(":")[0], array.tobytes(), arrays[f"row:{place}"])
        )
    return tuple(examples)


def _with_prefix(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {
        key.removeprefix(prefix): array.astype(object) if array.dtype.kind == "U" else array
        for key, array in arrays.items()
        if key.startswith(prefix)
    }


def replay(run: Run, golden: Golden, manifest: Manifest, sizes: Sequence[int]) -> Comparison:
    """Run golden rows at each batch size; the verdict is the worst of them.

    At the largest size every golden row is run, however many batches that takes; at the others the
    first rows are. Labels must agree in the manifest's share of all rows, not of each batch.

    Args:
        run: named arrays in, named arrays out; what it raises is not caught here.
        sizes: batch sizes in rows, at least one.
    """
    replayed = _Replay(run, manifest)
    largest = max(sizes)
    for size in sizes:
        if size != largest:
            replayed.check(golden.tiled(size))
    every_row = manifest.batching.row_independent
    for start in range(0, golden.rows if every_row else 1, largest):
        replayed.check(golden.tiled(largest, start), counts=True)
    return replayed.verdict(golden.rows)


class _Replay:
    """Batches so far; after the first that is wrong nothing more is run."""

    def __init__(self, run: Run, manifest: Manifest) -> None:
        self._run = run
        self._manifest = manifest
        #: A batch alone may differ in any label where some rows may.
        strict = manifest.agreement == 1
        self._of_a_batch = manifest if strict else manifest.model_copy(update={"agreement": 0.0})
        self._worst = Comparison(NUMERIC_CLASSES[0], "golden outputs met")
        self._wanted: list[Tensors] = []
        self._got: list[Mapping[str, Array]] = []

    def check(self, part: Golden, *, counts: bool = False) -> None:
        """Run a batch; those that count are the ones whose labels are taken together."""
        if not self._worst.passed:
            return
        got = self._run(part.inputs)
        found = compare(part.outputs, got, self._of_a_batch)
        if not found.passed:
            found = replace(found, reason=f"batch of {part.rows}: {found.reason}")
        self._worst = worse(self._worst, found)
        if counts and self._of_a_batch is not self._manifest:
            self._wanted.append(part.outputs)
            self._got.append(got)

    def verdict(self, rows: int) -> Comparison:
        if not self._worst.passed or not self._got:
            return self._worst
        want, got = _joined(self._wanted, rows), _joined(self._got, rows)
        return worse(self._worst, compare(want, got, self._manifest))


def _joined(parts: Sequence[Mapping[str, Array]], rows: int) -> dict[str, Array]:
    """The first rows of several batches in a line."""
    return {name: np.concatenate([part[name] for part in parts])[:rows] for name in parts[0]}


def worse(one: Comparison, other: Comparison) -> Comparison:
    """The stricter verdict of two, with the larger error of each output."""
    errors = {
        name: max(one.max_abs_error.get(name, 0.0), other.max_abs_error.get(name, 0.0))
        for name in {**one.max_abs_error, **other.max_abs_error}
    }
    chosen = other if _severity(other) > _severity(one) else one
    return replace(chosen, max_abs_error=errors)


def _severity(found: Comparison) -> int:
    if found.numeric_class is None:
        return len(NUMERIC_CLASSES)
    return NUMERIC_CLASSES.index(found.numeric_class)


def compare(want: Tensors, got: Mapping[str, Array], manifest: Manifest) -> Comparison:
    """Compare outputs with golden ones of the same rows.

    Floats must meet the tolerance of a numeric class; everything else must be equal, except that
    a label may differ in rows whose two best golden scores are within `tie_margin`, and in the
    share of rows that the manifest's `agreement` leaves.
    """
    errors: dict[str, float] = {}
    for name, wanted in want.items():
        problem = _shape_problem(name, wanted, got)
        if problem:
            return Comparison(None, problem, errors)
        if wanted.dtype.kind == "f":
            errors[name] = max_abs_error(wanted, got[name])
        else:
            differ = _differing_rows(name, wanted, got[name], want, manifest)
            if differ > _may_differ(len(wanted), manifest.agreement):
                return Comparison(
                    None, f"output {name!r} differs from golden in {differ} rows", errors
                )
    for numeric_class in NUMERIC_CLASSES:
        tolerances = manifest.tolerances.get(numeric_class)
        if tolerances is not None and all(
            within(want[name], got[name], tolerances.get(name, EXACT)) for name in errors
        ):
            return Comparison(numeric_class, f"golden outputs met as {numeric_class}", errors)
    off = ", ".join(f"{name!r} by {error:.3g}" for name, error in errors.items())
    return Comparison(None, f"outputs differ from golden beyond tolerance: {off}", errors)


def _may_differ(rows: int, agreement: float) -> int:
    """So many rows may differ; 0.9 of ten rows leaves one, whatever 1 - 0.9 is in binary."""
    return math.floor(round((1 - agreement) * rows, 9))


def _shape_problem(name: str, wanted: Array, got: Mapping[str, Array]) -> str | None:
    if name not in got:
        return f"output {name!r} is missing"
    if got[name].shape != wanted.shape:
        return f"output {name!r} has shape {got[name].shape}, golden has {wanted.shape}"
    return None


def _differing_rows(name: str, wanted: Array, got: Array, want: Tensors, manifest: Manifest) -> int:
    differs = np.asarray(wanted != got).reshape(len(wanted), -1).any(axis=1)
    for prediction in manifest.signature.predictions:
        if isinstance(prediction, LabelPrediction) and prediction.tensor == name:
            scores = want.get(prediction.scores_tensor or "")
            if scores is not None and scores.size > len(wanted):
                rows = scores.reshape(len(wanted), -1)
                differs &= lead(rows, prediction.threshold) > manifest.tie_margin
            break
    return int(differs.sum())


def lead(scores: Array, threshold: float | None) -> Array:
    """By how much the chosen label of each row leads, float [rows]; near 0 it may flip.

    The difference of the two best scores; with a threshold, twice the distance of the second
    label's score from it, which is the same where two scores of sum 1 meet a threshold of 0.5.
    """
    if threshold is not None:
        return np.asarray(2 * np.abs(scores[:, 1] - threshold))
    ranked = np.sort(scores, axis=1)
    return np.asarray(ranked[:, -1] - ranked[:, -2])


def chosen_labels(scores: Array, threshold: float | None) -> Array:
    """Index of each row's label, int64 [rows]; compared in float32, as graphs do."""
    if threshold is not None:
        return np.asarray(scores[:, 1] >= np.float32(threshold), dtype=np.int64)
    return np.asarray(scores.argmax(axis=1), dtype=np.int64)


def max_abs_error(want: Array, got: Array) -> float:
    """Largest |got - want|; infinite where only one of them is finite. 0 for no elements."""
    same = (want == got) | (np.isnan(want) & np.isnan(got))
    if bool(same.all()):
        return 0.0
    with np.errstate(invalid="ignore"):
        error = np.abs(got.astype(np.float64) - want.astype(np.float64))[~same]
    return float(np.nan_to_num(error, nan=np.inf, posinf=np.inf).max())


def within(want: Array, got: Array, tolerance: Tolerance) -> bool:
    return bool(np.allclose(got, want, rtol=tolerance.rtol, atol=tolerance.atol, equal_nan=True))


def row_dependence(run: Run, inputs: Tensors, tolerances: Mapping[str, Tolerance]) -> str | None:
    """Whether batch-mates change a row: runs each row alone and compares it with the whole batch.

    Returns:
        None where every row is independent, else what differs.
    """
    whole = run(inputs)
    rows = row_count(inputs)
    for name, array in whole.items():
        if array.ndim == 0 or array.shape[0] != rows:
            return f"output {name!r} has shape {array.shape} for {rows} rows"
    for row in range(rows):
        alone = run(take_rows(inputs, slice(row, row + 1)))
        for name, array in whole.items():
            difference = _row_difference(array[row : row + 1], alone[name], tolerances.get(name))
            if difference:
                return f"output {name!r} of row {row} {difference} when it runs alone"
    return None


def _row_difference(batched: Any, alone: Any, tolerance: Tolerance | None) -> str | None:
    if batched.shape != alone.shape:
        return f"has shape {alone.shape} instead of {batched.shape}"
    if batched.dtype.kind == "f" and tolerance is not None:
        same = within(batched, alone, tolerance)
    else:
        same = bool((batched == alone).all())
    return None if same else "changes"
