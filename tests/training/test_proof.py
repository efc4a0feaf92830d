import numpy as np
import pytest

from app.bundle.features import image_from_bytes
from app.bundle.golden import Run, replay, save_golden
from app.bundle.signature import ImageField
from training.config import RunConfig
from training.errors import ProofFailed
from training.export import runtime
from training.export.proof import UNSEEN, encode_png, parity_error, prove, prove_files
from training.pipeline import Outcome

pytestmark = pytest.mark.training

CONFIG = RunConfig()


def wrong_above(rows: int, by: float, outcome: Outcome) -> Run:
    """PyTorch's own answers, off by a little in batches of more than `rows` rows."""

    def run(inputs):
        answer = outcome.reference(inputs)
        if len(answer["scores"]) > rows:
            answer["scores"] = answer["scores"] + np.float32(by)
        return answer

    return run


def test_difference_from_pytorch_says_at_which_batch_and_by_how_much(digits: Outcome):
    run = wrong_above(2, 0.01, digits)

    with pytest.raises(ProofFailed, match=r"at batch 7: scores differ from PyTorch by 0\.01"):
        prove(run, digits.predictor, digits.test, CONFIG)


def test_tolerance_follows_what_was_observed(digits: Outcome):
    exact = prove(wrong_above(10**6, 0, digits), digits.predictor, digits.test, CONFIG)
    rounded = prove(wrong_above(0, 5e-5, digits), digits.predictor, digits.test, CONFIG)

    assert exact.tolerances["fp32"]["scores"].atol == 1e-5
    assert 4e-4 < rounded.tolerances["fp32"]["scores"].atol < 6e-4
    assert exact.tolerances["reduced"]["scores"].atol == 2e-3


def test_wrong_label_is_no_parity(digits: Outcome):
    def run(inputs):
        answer = digits.reference(inputs)
        return {**answer, "label": np.roll(answer["label"], 1)}

    with pytest.raises(ProofFailed, match="labels differ"):
        parity_error(run, digits.predictor, digits.test.inputs, 64)


def test_frozen_batch_size_is_no_parity(digits: Outcome):
    def run(inputs):
        return {name: array[:1] for name, array in digits.reference(inputs).items()}

    with pytest.raises(ProofFailed, match="at batch 2: output 'label' has shape"):
        prove(run, digits.predictor, digits.test, CONFIG)


def test_rows_that_influence_each_other_are_refused(digits: Outcome):
    def run(inputs):
        answer = digits.reference(inputs)
        last = 5e-5 * (np.arange(len(answer["label"])) % 7 == 6)[:, None]
        return {**answer, "scores": (answer["scores"] + last).astype(np.float32)}

    # Within the parity limit, yet a row's answer depends on its place in the batch.
    with pytest.raises(ProofFailed, match="rows are not independent: output 'scores' of row 6"):
        prove(run, digits.predictor, digits.test, CONFIG)


def test_golden_rows_are_held_out_and_cover_every_class(outcome: Outcome):
    golden = outcome.bundle.golden()

    assert 16 <= golden.rows <= 32
    name = next(iter(golden.inputs))
    held = {row.tobytes() for row in outcome.test.inputs[name]}
    count = outcome.config.golden_rows
    assert all(row.tobytes() in held for row in golden.inputs[name][:count])
    assert set(outcome.manifest.signature.predictions[0].labels) == set(outcome.dataset.task.labels)
    assert len(set(golden.outputs["label"])) == len(outcome.dataset.task.labels)


def test_golden_rows_of_penguins_hold_every_kind_of_gap(penguins: Outcome):
    golden = penguins.bundle.golden()
    numbers, categories = golden.inputs["numbers"], golden.inputs["categories"]

    assert np.isnan(numbers).any(axis=0).all()
    assert (categories == "").any(axis=0).all()
    assert UNSEEN in categories[:, 0]
    assert (np.isnan(numbers).all(axis=1) & (categories == "").all(axis=1)).any()


def test_golden_rows_of_digits_hold_encoded_pictures(digits: Outcome):
    golden = digits.bundle.golden()
    (field,) = digits.manifest.signature.fields
    assert isinstance(field, ImageField)

    assert len(golden.raw) == 2
    for index, example in enumerate(golden.raw):
        assert example.encoded.startswith(b"\x89PNG")
        assert np.array_equal(image_from_bytes(example.encoded, field), example.row)
        assert np.array_equal(example.row, digits.test.inputs["image"][index])


@pytest.mark.parametrize(("maximum", "channels"), [(16, 1), (255, 1), (16, 3)])
def test_every_value_survives_the_way_through_a_png(maximum: int, channels: int):
    field = ImageField(
        name="image", tensor="image", height=4, width=8, channels=channels, maximum=maximum
    )
    shape = (4, 8) if channels == 1 else (4, 8, 3)
    row = (np.arange(np.prod(shape)) % (maximum + 1)).astype(np.uint8).reshape(shape)

    assert np.array_equal(image_from_bytes(encode_png(row, field), field), row)


def test_golden_is_what_pytorch_gave_and_replays(outcome: Outcome):
    golden = outcome.bundle.golden()
    want = outcome.reference(golden.inputs)
    found = replay(
        runtime.open_run(outcome.bundle.model()), golden, outcome.manifest, sizes=(1, 3, 64)
    )

    assert np.array_equal(golden.outputs["scores"], want["scores"])
    assert golden.outputs["label"].tolist() == want["label"].tolist()
    assert found.numeric_class == "fp32"


def test_damaged_file_does_not_pass_the_fresh_process(digits: Outcome):
    golden = (digits.bundle.path / "golden.npz").read_bytes()

    with pytest.raises(ProofFailed, match="the finished files do not work"):
        prove_files(b"not a model", golden, digits.manifest)


def test_golden_of_another_model_does_not_pass_the_fresh_process(digits: Outcome):
    golden = digits.bundle.golden()
    rolled = {k: np.roll(v, 1, axis=0) for k, v in golden.outputs.items()}
    with_wrong_answers = type(golden)(golden.inputs, rolled)

    with pytest.raises(ProofFailed, match="otherwise than PyTorch"):
        prove_files(digits.bundle.model(), save_golden(with_wrong_answers), digits.manifest)
