import contextlib
import dataclasses
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bundle import BundleCorrupt
from app.bundle.golden import (
    Golden,
    RawExample,
    Run,
    chosen_labels,
    compare,
    lead,
    load_golden,
    max_abs_error,
    replay,
    row_dependence,
    save_golden,
)
from app.bundle.manifest import Tolerance
from tests.bundle.small import GOLDEN, manifest

EXACT = {"scores": Tolerance(atol=0, rtol=0)}


def shifted(by: float, above_rows: int = 0) -> Run:
    """The golden answers, with every score off by `by` in larger batches than `above_rows`."""

    def run(inputs):
        rows = np.searchsorted(GOLDEN.inputs["x"][:, 0], inputs["x"][:, 0])
        off = np.float32(by if len(rows) > above_rows else 0)
        return {
            "label": GOLDEN.outputs["label"][rows],
            "scores": GOLDEN.outputs["scores"][rows] + off,
        }

    return run


def test_golden_survives_its_archive():
    raw = (RawExample("image", b"\x00PNG:\xff", np.arange(4, dtype=np.uint8).reshape(2, 2)),)
    inputs = {"a:b": np.array([["", "Größe"], ["x", "日本"]], dtype=object)}
    golden = Golden(inputs, {"y": np.array([np.nan, 1], dtype=np.float32)}, raw)

    read = load_golden(save_golden(golden))

    assert read.inputs["a:b"].dtype == object
    assert read.inputs["a:b"].tolist() == inputs["a:b"].tolist()
    np.testing.assert_array_equal(read.outputs["y"], golden.outputs["y"])
    assert read.outputs["y"].dtype == np.float32
    (example,) = read.raw
    assert (example.field, example.encoded) == ("image", b"\x00PNG:\xff")
    np.testing.assert_array_equal(example.row, raw[0].row)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"no archive at all"])
def test_what_is_no_archive_is_corrupt(data: bytes):
    with pytest.raises(BundleCorrupt):
        load_golden(data)


@given(place=st.integers(0, len(save_golden(GOLDEN)) - 1), value=st.integers(0, 255))
def test_damaged_archive_is_corrupt_or_reads(place: int, value: int):
    data = bytearray(save_golden(GOLDEN))
    data[place] = value
    with contextlib.suppress(BundleCorrupt):
        load_golden(bytes(data))


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ({}, {"y": np.zeros(1)}),
        ({"x": np.zeros(1)}, {}),
        ({"x": np.zeros(2)}, {"y": np.zeros(3)}),
        ({"x": np.zeros(0)}, {"y": np.zeros(0)}),
        ({"x": np.zeros(())}, {"y": np.zeros(())}),
    ],
)
def test_archive_without_equal_rows_is_corrupt(inputs, outputs):
    with pytest.raises(BundleCorrupt, match="same rows"):
        load_golden(save_golden(Golden(inputs, outputs)))


def test_tiling_repeats_from_the_start():
    assert GOLDEN.tiled(5).inputs["x"][:, 0].tolist() == [0.0, 0.5, 2.0, 0.0, 0.5]
    assert GOLDEN.tiled(2).rows == 2


@pytest.mark.parametrize(
    ("by", "numeric_class"), [(0, "fp32"), (5e-6, "fp32"), (1e-3, "reduced"), (0.1, None)]
)
def test_replay_names_the_strictest_class_that_is_met(by: float, numeric_class: str | None):
    found = replay(shifted(by), GOLDEN, manifest(), sizes=(1, 3, 8))

    assert found.numeric_class == numeric_class
    assert found.passed is (numeric_class is not None)
    assert found.max_abs_error["scores"] == pytest.approx(by, abs=1e-6)


def test_replay_gives_the_worst_of_all_sizes():
    found = replay(shifted(1e-3, above_rows=2), GOLDEN, manifest(), sizes=(1, 3, 2))

    assert found.numeric_class == "reduced"


def test_replay_says_which_size_failed():
    found = replay(shifted(0.1, above_rows=2), GOLDEN, manifest(), sizes=(1, 3))

    assert "batch of 3" in found.reason
    assert "'scores' by 0.1" in found.reason


def answer(**changes: object):
    return {**GOLDEN.outputs, **changes}


def test_label_may_differ_in_a_tie_only():
    tie = answer(label=np.array(["no", "no", "yes"], dtype=object))
    clear = answer(label=np.array(["yes", "yes", "yes"], dtype=object))

    assert compare(GOLDEN.outputs, tie, manifest()).passed
    found = compare(GOLDEN.outputs, clear, manifest())
    assert not found.passed
    assert "'label' differs from golden in 1 rows" in found.reason


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"scores": np.zeros((2, 2), dtype=np.float32)}, "has shape"),
        ({"scores": np.full((3, 2), np.nan, dtype=np.float32)}, "beyond tolerance"),
        ({"scores": np.full((3, 2), np.inf, dtype=np.float32)}, "beyond tolerance"),
    ],
)
def test_wrong_output_is_told(changed: dict[str, object], reason: str):
    found = compare(GOLDEN.outputs, answer(**changed), manifest())

    assert not found.passed
    assert reason in found.reason


def test_missing_output_is_told():
    found = compare(GOLDEN.outputs, {"label": GOLDEN.outputs["label"]}, manifest())

    assert found.reason == "output 'scores' is missing"


def test_output_without_a_tolerance_must_be_equal():
    strict = manifest().model_copy(update={"tolerances": {"fp32": {}, "reduced": {}}})

    assert compare(GOLDEN.outputs, answer(), strict).passed
    off = answer(scores=np.nextafter(GOLDEN.outputs["scores"], np.float32(9)))
    assert not compare(GOLDEN.outputs, off, strict).passed


@pytest.mark.parametrize(
    ("want", "got", "error"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.5),
        ([np.nan], [np.nan], 0.0),
        ([np.inf], [np.inf], 0.0),
        ([np.inf], [1.0], np.inf),
        ([1.0], [np.nan], np.inf),
        ([], [], 0.0),
    ],
)
def test_largest_error(want: list[float], got: list[float], error: float):
    assert max_abs_error(np.array(want, np.float32), np.array(got, np.float32)) == error


def test_independent_rows_are_recognised():
    assert row_dependence(shifted(0), GOLDEN.inputs, EXACT) is None


def test_row_that_depends_on_its_mates_is_found():
    def mean_of_batch(inputs):
        return {"scores": inputs["x"] - inputs["x"].mean()}

    found = row_dependence(mean_of_batch, GOLDEN.inputs, EXACT)

    assert found == "output 'scores' of row 0 changes when it runs alone"


def test_output_that_is_not_by_row_is_found():
    def total(inputs):
        return {"scores": inputs["x"].sum(axis=0)}

    assert "for 3 rows" in str(row_dependence(total, GOLDEN.inputs, EXACT))


def test_golden_without_raw_examples_is_the_default():
    assert dataclasses.replace(GOLDEN).raw == ()


def test_an_encoded_input_without_its_row_is_refused():
    raw = (RawExample("image", b"PNG", np.zeros((2, 2), dtype=np.uint8)),)
    saved = save_golden(dataclasses.replace(GOLDEN, raw=raw))
    with np.load(io.BytesIO(saved)) as archive:
        kept = {key: archive[key] for key in archive.files if not key.startswith("row:")}
    buffer = io.BytesIO()
    np.savez(buffer, **kept)

    with pytest.raises(BundleCorrupt, match="without its row"):
        load_golden(buffer.getvalue())


def test_a_label_behind_a_single_score_has_no_ties():
    labels = np.array(["a", "b"], dtype=object)
    scores = np.array([[0.4], [0.6]], dtype=np.float32)

    found = compare(
        {"label": labels, "scores": scores}, {"label": labels[::-1], "scores": scores}, manifest()
    )

    assert not found.passed
    assert "differs from golden in 2 rows" in found.reason


# A share of labels that may differ


def labelled(rows: int, wrong: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Golden outputs of so many clear rows, and an answer with other labels in the last ones."""
    want = np.array(["no"] * rows, dtype=object)
    got = want.copy()
    got[rows - wrong :] = "yes"
    scores = np.tile(np.array([[1.0, 0.0]], dtype=np.float32), (rows, 1))
    return {"label": want, "scores": scores}, {"label": got, "scores": scores}


@pytest.mark.parametrize(
    ("agreement", "rows", "wrong", "passed"),
    [
        (1.0, 10, 0, True),
        (1.0, 10, 1, False),
        (0.9, 10, 1, True),
        (0.9, 10, 2, False),
        (0.95, 20, 1, True),
        (0.95, 20, 2, False),
        (0.7, 10, 3, True),
        (0.7, 10, 4, False),
        (0.98, 50, 1, True),
        (0.98, 50, 2, False),
        (0.99, 50, 1, False),
        (0.0, 10, 10, True),
    ],
)
def test_labels_must_agree_in_the_share_that_is_asked_for(
    agreement: float, rows: int, wrong: int, passed: bool
):
    want, got = labelled(rows, wrong)
    held_to = manifest().model_copy(update={"agreement": agreement})

    found = compare(want, got, held_to)

    assert found.passed is passed
    if not passed:
        assert found.reason == f"output 'label' differs from golden in {wrong} rows"


@given(st.integers(1, 200), st.data())
def test_the_share_that_is_reached_is_enough(rows: int, data: st.DataObject):
    wrong = data.draw(st.integers(0, rows))
    want, got = labelled(rows, wrong)
    held_to = manifest().model_copy(update={"agreement": (rows - wrong) / rows})

    assert compare(want, got, held_to).passed


def test_the_share_is_of_all_golden_rows_not_of_one_batch():
    """One row in twenty may differ, and the first one does, in whichever batch it runs."""
    want, _ = labelled(20, 0)
    golden = Golden({"x": np.zeros((20, 1), dtype=np.float32)}, want)
    held_to = manifest().model_copy(update={"agreement": 0.95})

    def first_row_differs(inputs):
        label = want["label"][: len(inputs["x"])].copy()
        label[0] = "yes"
        return {"label": label, "scores": want["scores"][: len(inputs["x"])]}

    assert replay(first_row_differs, golden, held_to, sizes=(20,)).passed
    assert replay(first_row_differs, golden, held_to, sizes=(1, 7, 20)).passed


def test_every_golden_row_is_replayed_however_small_the_batches_are():
    def last_row_is_wrong(inputs):
        outputs = dict(shifted(0)(inputs))
        outputs["scores"] = np.where(inputs["x"] == 2.0, np.float32(5), outputs["scores"])
        return outputs

    found = replay(last_row_is_wrong, GOLDEN, manifest(), sizes=(1,))

    assert not found.passed


def test_agreement_excuses_no_number_that_is_off():
    off = answer(scores=GOLDEN.outputs["scores"] + np.float32(1))
    held_to = manifest().model_copy(update={"agreement": 0.0})

    assert not compare(GOLDEN.outputs, off, held_to).passed


def thresholded(threshold: float):
    """The small manifest, whose second label is chosen from a score on."""
    label, scores = manifest().signature.predictions
    label = label.model_copy(update={"threshold": threshold})
    signature = manifest().signature.model_copy(update={"predictions": (label, scores)})
    return manifest().model_copy(update={"signature": signature, "tie_margin": 0.02})


@pytest.mark.parametrize(
    ("second", "passed"), [(0.905, True), (0.895, True), (0.93, False), (0.5, False)]
)
def test_with_a_threshold_labels_may_differ_near_it_only(second: float, passed: bool):
    scores = np.array([[1 - second, second]], dtype=np.float32)
    want = {"label": np.array(["yes"], dtype=object), "scores": scores}
    got = {**want, "label": np.array(["no"], dtype=object)}

    assert compare(want, got, thresholded(0.9)).passed is passed


def test_lead_over_half_is_that_of_two_scores():
    scores = np.array([[0.3, 0.7], [0.5, 0.5], [0.9, 0.1]], dtype=np.float32)

    np.testing.assert_allclose(lead(scores, 0.5), lead(scores, None), atol=1e-6)
    np.testing.assert_allclose(lead(scores, 0.7), [0, 0.4, 1.2], atol=1e-6)


def test_threshold_is_reached_in_float32_as_in_graphs():
    scores = np.array([[0.9, 0.1], [0.91, 0.09], [0.1, 0.9]], dtype=np.float32)

    assert chosen_labels(scores, 0.1).tolist() == [1, 0, 1]
    assert chosen_labels(scores, None).tolist() == [0, 0, 1]
