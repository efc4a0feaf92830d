import asyncio
import io
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.bundle.features import image_from_bytes
from app.bundle.golden import Golden, RawExample, load_golden, save_golden
from app.bundle.manifest import GOLDEN_FILE, MODEL_FILE
from app.bundle.signature import ImageField
from app.bundle.store import Bundle, publish
from app.bundle.tensors import Array, Tensors, datatype_of
from app.engine.model import Model, ModelLimits, plain_row
from app.engine.proof.evidence import check_raw_examples
from app.engine.proof.prover import Proved
from app.engine.providers.candidates import CPU_PROVIDER, Candidate
from app.engine.providers.ranking import rank
from app.engine.scheduling.workers import Workers
from app.errors import (
    BundleCorrupt,
    BundleIncomplete,
    DeadlineExceeded,
    Draining,
    ModelportError,
    Overloaded,
    PayloadTooLarge,
    ProofFailed,
    SessionFailed,
)
from tests.engine.conftest import HANG_S, on_loop, skip, until
from tests.support import models
from tests.support.bundles import MAX_ROWS, RECIPES, make_golden, make_manifest
from tests.support.opening import open_model as open_here
from tests.support.opening import prove

BundleOf = Callable[..., Bundle]

CPU = Candidate(CPU_PROVIDER, "cpu")
LIMITS = ModelLimits(queue_rows=256, max_request_rows=100)


class Watched:
    """Hands every run on to a real session; notes the rows and waits while its gate is shut."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.gate = threading.Event()
        self.gate.set()
        self.rows: list[int] = []
        self.closed = 0
        #: What a run gives instead of the session's outputs.
        self.instead: Callable[[Tensors], Mapping[str, Array]] | None = None

    def run(self, inputs: Tensors) -> Mapping[str, Array]:
        self.rows.append(len(next(iter(inputs.values()))))
        assert self.gate.wait(HANG_S)
        outputs: Mapping[str, Array] = (self.instead or self._session.run)(inputs)
        return outputs

    def close(self) -> None:
        self.closed += 1
        self._session.close()


@asynccontextmanager
async def open_model(
    bundle: Bundle, limits: ModelLimits = LIMITS, slots: int = 1
) -> AsyncIterator[Model]:
    workers = Workers(slots, asyncio.get_running_loop())
    try:
        model = open_here(bundle, rank([CPU]), workers, limits)
        yield model
        await model.close(HANG_S)
    finally:
        workers.close()


@asynccontextmanager
async def watched_model(
    bundle: Bundle, limits: ModelLimits = LIMITS, slots: int = 1
) -> AsyncIterator[tuple[Model, Watched]]:
    """A model whose runs can be held and counted."""
    workers = Workers(slots, asyncio.get_running_loop())
    proved = prove(bundle, rank([CPU]), 1)
    watched = Watched(proved.session)
    try:
        model = Model(bundle, Proved(watched, proved.plan), workers, limits)  # type: ignore[arg-type]
        yield model, watched
        watched.gate.set()
        await model.close(HANG_S)
    finally:
        watched.gate.set()
        workers.close()


def numbers(rows: int) -> Tensors:
    return {"x": np.random.default_rng(rows).normal(size=(rows, 3)).astype(np.float32)}


def assert_close(got: Mapping[str, Array], want: Tensors) -> None:
    assert got.keys() == want.keys()
    for name, array in want.items():
        assert (got[name].shape, datatype_of(got[name])) == (array.shape, datatype_of(array))
        if array.dtype.kind == "f":
            np.testing.assert_allclose(got[name], array, atol=1e-5)
        else:
            assert got[name].tolist() == array.tolist()


# Predictions.


@pytest.mark.parametrize("name", sorted(RECIPES))
@on_loop
async def test_predictions_are_what_numpy_computes(name: str, bundle_of: BundleOf) -> None:
    recipe = RECIPES[name]()
    async with open_model(bundle_of(name)) as model:
        outputs = await model.predict(recipe.inputs, 6)

    assert_close(outputs, recipe.compute(recipe.inputs))


@on_loop
async def test_a_model_says_who_it_is(bundle_of: BundleOf) -> None:
    bundle_of("affine")
    bundle = bundle_of("affine")
    async with open_model(bundle) as model:
        assert (model.name, model.version, model.digest) == ("affine", 2, bundle.digest)
        assert model.ref == {"name": "affine", "version": 2, "digest": bundle.digest}
        assert model.plan.provider == CPU_PROVIDER
        assert model.plan.intra_op_threads == 1


@on_loop
async def test_many_requests_at_once_each_get_their_own_rows(bundle_of: BundleOf) -> None:
    async with watched_model(bundle_of("affine"), slots=2) as (model, watched):
        requests = [numbers(rows) for rows in (1, 5, 2, 1, 7, 3, 16, 1, 40)]
        answers = await asyncio.gather(*(model.predict(r, len(r["x"])) for r in requests))

        for request, answer in zip(requests, answers, strict=True):
            assert_close(answer, models.affine(request))
        assert max(watched.rows) == MAX_ROWS
        assert len(watched.rows) < len(requests)


@pytest.mark.parametrize("rows", [15, 16, 17, 32, 33, 99, 100])
@on_loop
async def test_requests_over_max_rows_are_split_and_joined_in_order(
    rows: int, bundle_of: BundleOf
) -> None:
    async with watched_model(bundle_of("affine"), slots=2) as (model, watched):
        outputs = await model.predict(numbers(rows), rows)

        assert_close(outputs, models.affine(numbers(rows)))
        parts = [MAX_ROWS] * (rows // MAX_ROWS) + [rows % MAX_ROWS] * bool(rows % MAX_ROWS)
        assert sorted(watched.rows, reverse=True) == parts


@on_loop
async def test_string_outputs_of_a_split_request_are_joined(bundle_of: BundleOf) -> None:
    colours = np.array(["red", "green", "grün", ""] * 10, dtype=object)
    async with open_model(bundle_of("strings")) as model:
        outputs = await model.predict({"colour": colours}, 40)

    assert_close(outputs, models.strings({"colour": colours}))


@on_loop
async def test_over_max_request_rows_is_too_large(bundle_of: BundleOf) -> None:
    async with watched_model(bundle_of("affine")) as (model, watched):
        with pytest.raises(PayloadTooLarge, match=r"^101 rows in one request, at most 100$"):
            await model.predict(numbers(101), 101)

        assert watched.rows == []
        assert model.queued_rows == 0


@on_loop
async def test_max_request_rows_holds_below_max_rows_too(bundle_of: BundleOf) -> None:
    async with open_model(bundle_of("affine"), ModelLimits(256, 4)) as model:
        outputs = await model.predict(numbers(4), 4)
        with pytest.raises(PayloadTooLarge, match=r"^5 rows in one request, at most 4$"):
            await model.predict(numbers(5), 5)

    assert_close(outputs, models.affine(numbers(4)))


# A model whose rows change each other.


@on_loop
async def test_dependent_rows_never_share_a_run(bundle_of: BundleOf) -> None:
    async with watched_model(bundle_of("mixer")) as (model, watched):
        requests = [numbers(rows) for rows in (1, 2, 3, 4)]
        answers = await asyncio.gather(*(model.predict(r, len(r["x"])) for r in requests))

        assert watched.rows == [1, 2, 3, 4]
        for request, answer in zip(requests, answers, strict=True):
            assert_close(answer, models.mixer(request))


@on_loop
async def test_dependent_rows_are_never_split(bundle_of: BundleOf) -> None:
    async with watched_model(bundle_of("mixer")) as (model, watched):
        await model.predict(numbers(16), 16)
        with pytest.raises(PayloadTooLarge, match=r"^17 rows in one request, at most 16$"):
            await model.predict(numbers(17), 17)

        assert watched.rows == [16]


# Failures.


@on_loop
async def test_only_the_bad_request_fails(bundle_of: BundleOf) -> None:
    async with watched_model(bundle_of("poison")) as (model, watched):
        indices = [[0], [1, 2], [3, 99], [-4], [3, 3, 3]]
        answers = await asyncio.gather(
            *(model.predict({"index": np.array(i, dtype=np.int64)}, len(i)) for i in indices),
            return_exceptions=True,
        )

        assert watched.rows[0] == 9
        for index, answer in zip(indices, answers, strict=True):
            if 99 in index:
                assert isinstance(answer, SessionFailed)
            else:
                assert not isinstance(answer, BaseException)
                assert_close(answer, models.poison({"index": np.array(index)}))


@on_loop
async def test_a_failed_part_cancels_the_rest(bundle_of: BundleOf) -> None:
    async with watched_model(bundle_of("poison")) as (model, watched):
        answers: list[object] = []
        index = np.zeros(80, dtype=np.int64)
        index[20] = 99
        watched.gate.clear()
        model.submit({"index": index}, 80, None, answers.append)
        await until(lambda: watched.rows)
        rows_waiting = model.queued_rows
        watched.gate.set()
        await until(lambda: answers)
        await until(lambda: not model.queued_rows)
        after = await model.predict({"index": np.array([1])}, 1)

        assert rows_waiting == 64
        assert [type(answer) for answer in answers] == [SessionFailed]
        assert watched.rows[:2] == [16, 16]
        # The second part failed while the third was at most running; the others never ran.
        assert watched.rows.count(16) <= 4
        assert_close(after, {"y": np.array([20], dtype=np.float32)})


@on_loop
async def test_a_split_request_is_refused_as_a_whole(bundle_of: BundleOf) -> None:
    async with watched_model(bundle_of("affine"), ModelLimits(40, 100)) as (model, watched):
        watched.gate.clear()
        answers: list[object] = []
        model.submit(numbers(1), 1, None, answers.append)
        await until(lambda: watched.rows)
        model.submit(numbers(8), 8, None, answers.append)

        with pytest.raises(Overloaded):
            model.submit(numbers(40), 40, None, answers.append)
        rows_waiting = model.queued_rows
        watched.gate.set()
        await until(lambda: len(answers) == 2)

        assert rows_waiting == 8
        assert sum(watched.rows) == 9
        assert not [answer for answer in answers if isinstance(answer, ModelportError)]


@on_loop
async def test_a_split_request_larger_than_the_queue_gets_in_when_nobody_waits(
    bundle_of: BundleOf,
) -> None:
    async with open_model(bundle_of("affine"), ModelLimits(20, 100)) as model:
        outputs = await model.predict(numbers(90), 90)

    assert_close(outputs, models.affine(numbers(90)))


@on_loop
async def test_parts_that_do_not_fit_together_are_a_failure(bundle_of: BundleOf) -> None:
    async with watched_model(bundle_of("affine")) as (model, watched):
        watched.instead = lambda inputs: {
            "y": np.zeros((len(inputs["x"]), len(watched.rows)), dtype=np.float32)
        }
        with pytest.raises(SessionFailed, match="outputs of different shapes"):
            await model.predict(numbers(32), 32)


@on_loop
async def test_a_time_limit_ends_the_wait(bundle_of: BundleOf) -> None:
    async with watched_model(bundle_of("affine")) as (model, watched):
        watched.gate.clear()
        waiting = asyncio.create_task(model.predict(numbers(40), 40, timeout_s=5))
        await until(lambda: watched.rows)

        skip(6)
        with pytest.raises(DeadlineExceeded):
            await waiting

        assert model.queued_rows == 0


@on_loop
async def test_a_caller_that_leaves_takes_all_its_parts_along(bundle_of: BundleOf) -> None:
    async with watched_model(bundle_of("affine")) as (model, watched):
        watched.gate.clear()
        leaving = asyncio.create_task(model.predict(numbers(90), 90))
        await until(lambda: watched.rows)
        staying = asyncio.create_task(model.predict(numbers(2), 2))
        await until(lambda: model.queued_rows == 76)

        leaving.cancel()
        await asyncio.wait([leaving])
        rows_waiting = model.queued_rows
        watched.gate.set()
        outputs = await staying

        assert leaving.cancelled()
        assert rows_waiting == 2
        assert watched.rows == [16, 2]
        assert_close(outputs, models.affine(numbers(2)))


@pytest.mark.parametrize("name", ["affine", "mixer", "strings", "poison", "conv"])
@on_loop
async def test_bad_requests_never_pause_a_sound_model(name: str, bundle_of: BundleOf) -> None:
    recipe = RECIPES[name]()
    async with watched_model(bundle_of(name)) as (model, watched):
        wrong = {"nonsense": np.zeros((1, 1))}
        for _ in range(12):
            with pytest.raises(SessionFailed):
                await model.predict(wrong, 1)
        await until(lambda: len(watched.rows) >= 14)  # twelve requests and two probes
        outputs = await model.predict(recipe.inputs, 6)

    assert_close(outputs, recipe.compute(recipe.inputs))


@on_loop
async def test_soundness_is_asked_at_a_batch_size_that_was_proved(bundle_of: BundleOf) -> None:
    async with watched_model(bundle_of("mixer")) as (model, watched):
        assert model.plan.checked_rows == (6,)

        for _ in range(5):
            with pytest.raises(SessionFailed):
                await model.predict({"nonsense": np.zeros((1, 1))}, 1)
        await until(lambda: len(watched.rows) == 6)

        assert watched.rows[-1] == 6


# Opening.


def spoil(bundle: Bundle, file_name: str, data: bytes) -> None:
    (bundle.path / file_name).write_bytes(data)


def opening(bundle: Bundle, limits: ModelLimits = LIMITS) -> ModelportError | None:
    """What opening refuses the bundle with."""

    async def attempt() -> ModelportError | None:
        try:
            async with open_model(bundle, limits):
                return None
        except ModelportError as error:
            return error

    return asyncio.run(attempt())


def test_a_truncated_file_is_refused(bundle_of: BundleOf) -> None:
    bundle = bundle_of("affine")
    spoil(bundle, "model.onnx", (bundle.path / "model.onnx").read_bytes()[:-1])

    error = opening(bundle)

    assert isinstance(error, BundleIncomplete)
    assert str(error).startswith("model.onnx has ")


def test_changed_bytes_are_refused(bundle_of: BundleOf) -> None:
    bundle = bundle_of("affine")
    data = bytearray((bundle.path / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    spoil(bundle, "model.onnx", bytes(data))

    error = opening(bundle)

    assert isinstance(error, BundleCorrupt)
    assert str(error) == "model.onnx has another sha256 than the manifest says"


def test_files_that_no_run_needs_are_checked_too(tmp_path: Path) -> None:
    files = {
        MODEL_FILE: models.model_bytes("affine"),
        GOLDEN_FILE: save_golden(make_golden("affine")),
        "card.md": b"made of wood",
    }
    bundle = publish(tmp_path, "m", files, lambda version: make_manifest("m", version))
    spoil(bundle, "card.md", b"made of wool")

    error = opening(bundle)

    assert str(error) == "card.md has another sha256 than the manifest says"


def test_wrong_golden_answers_are_refused(bundle_of: BundleOf) -> None:
    golden = make_golden("affine")
    wrong = Golden(golden.inputs, {**golden.outputs, "y": golden.outputs["y"] + 1})

    error = opening(bundle_of("affine", golden=wrong))

    assert isinstance(error, ProofFailed)


def test_no_thread_or_session_is_left_by_a_refusal(
    bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    proved: list[weakref.ref[Any]] = []

    def failing_init(model: Model, bundle: Bundle, found: Proved, *args: object) -> None:
        proved.append(weakref.ref(found.session))
        raise BundleCorrupt("late")

    monkeypatch.setattr(Model, "__init__", failing_init)

    error = opening(bundle_of("affine"))

    assert str(error) == "late"
    session = proved[0]()
    assert session is None or session._session is None


# Golden pictures.


def png(pixels: Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def picture_golden(change: int = 0, field: str = "pixels", encoded: bytes | None = None) -> Golden:
    """The golden rows of `conv` with one encoded picture; its decoded row is off by `change`."""
    if encoded is None:
        encoded = png(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4)
    image = next(f for f in RECIPES["conv"]().signature.fields if isinstance(f, ImageField))
    readable = encoded if encoded.startswith(b"\x89PNG") else png(np.zeros((8, 8), np.uint8))
    row = image_from_bytes(readable, image)
    golden = make_golden("conv")
    return replace(golden, raw=(RawExample(field, encoded, row + np.uint8(change)),))


def test_a_golden_picture_that_decodes_alike_is_served(bundle_of: BundleOf) -> None:
    assert opening(bundle_of("conv", golden=picture_golden())) is None


@pytest.mark.parametrize(
    ("golden", "message"),
    [
        (
            picture_golden(change=1),
            "a golden picture of 'pixels' decodes differently here than in training",
        ),
        (picture_golden(field="nobody"), "golden has encoded rows of 'nobody', not an image field"),
        (
            picture_golden(encoded=b"GIF89a"),
            "golden picture of 'pixels' is not a readable PNG, JPEG or WebP picture",
        ),
    ],
    ids=["differs", "no-field", "no-picture"],
)
def test_a_golden_picture_that_decodes_differently_refuses(
    golden: Golden, message: str, bundle_of: BundleOf
) -> None:
    error = opening(bundle_of("conv", golden=golden))

    assert isinstance(error, BundleCorrupt)
    assert str(error) == message


def test_encoded_rows_survive_the_archive() -> None:
    golden = load_golden(save_golden(picture_golden()))

    check_raw_examples(golden, RECIPES["conv"]().signature)

    assert len(golden.raw) == 1


# The example row.


def golden_of(*rows: Sequence[float]) -> Golden:
    x = np.array(rows, dtype=np.float32)
    return Golden({"x": x}, {"y": x.sum(axis=1)})


def test_the_example_row_has_nothing_missing() -> None:
    row = plain_row(golden_of([1, np.nan], [np.nan, 2], [3, 4], [5, 6]))

    assert row.inputs["x"].tolist() == [[3, 4]]
    assert row.outputs["y"].tolist() == [7]


def test_where_every_row_lacks_something_the_first_is_the_example() -> None:
    row = plain_row(golden_of([1, np.nan], [np.nan, 2]))

    assert row.inputs["x"][0, 0] == 1
    assert row.rows == 1


@on_loop
async def test_a_model_shows_an_example_row_with_nothing_missing(bundle_of: BundleOf) -> None:
    inputs = {"x": numbers(6)["x"].copy()}
    inputs["x"][0, 1] = np.nan
    golden = Golden(inputs, models.affine(inputs))
    async with open_model(bundle_of("affine", golden=golden)) as model:
        assert model.golden_row.inputs["x"].tolist() == inputs["x"][1:2].tolist()
        assert_close(model.golden_row.outputs, models.affine(model.golden_row.inputs))


# Closing.


@on_loop
async def test_close_finishes_what_waits_refuses_what_comes_and_frees_the_session(
    bundle_of: BundleOf,
) -> None:
    async with watched_model(bundle_of("affine")) as (model, watched):
        watched.gate.clear()
        waiting = [asyncio.create_task(model.predict(numbers(16), 16)) for _ in range(3)]
        await until(lambda: watched.rows)
        closing = asyncio.create_task(model.close(HANG_S))
        await asyncio.sleep(0)

        with pytest.raises(Draining):
            await model.predict(numbers(1), 1)
        closed_early = watched.closed
        watched.gate.set()
        await closing
        answers = await asyncio.gather(*waiting)

        assert closed_early == 0
        assert watched.closed == 1
        for answer in answers:
            assert_close(answer, models.affine(numbers(16)))


@on_loop
async def test_close_leaves_the_session_to_a_run_that_hangs(bundle_of: BundleOf) -> None:
    async with watched_model(bundle_of("affine")) as (model, watched):
        watched.gate.clear()
        hanging = asyncio.create_task(model.predict(numbers(1), 1))
        await until(lambda: watched.rows)

        await model.close(0.001)

        with pytest.raises(Draining):
            await hanging
        assert watched.closed == 0


@on_loop
async def test_a_closed_model_frees_its_session(bundle_of: BundleOf) -> None:
    async with open_model(bundle_of("affine")) as model:
        await model.predict(numbers(1), 1)
        runtime = weakref.ref(model._session._session)

        await model.close(HANG_S)

        await until(lambda: runtime() is None)
