"""What a run can be told: frozen, checked on construction, hashed into the manifest."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from training.errors import UsageError, hint_of
from training.evaluation.names import KNOWN, bar_problem
from training.evaluation.rules import check_rule
from training.wording import check_budget, check_split, check_variants

_BAR: Final = re.compile(r"(?P<metric>\w+)\s*(?P<sign>[<>]=)\s*(?P<bound>[-+.0-9eE]+)")


class Bar(BaseModel):
    """What a test metric must reach, written `accuracy>=0.97` or `rmse<=12`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    metric: str
    minimum: float | None = None
    maximum: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: object) -> object:
        if not isinstance(given, str):
            return given
        found = _BAR.fullmatch(given.strip())
        if found is None:
            raise ValueError(f"{given!r} is not like accuracy>=0.9 or rmse<=12")
        side = "minimum" if found["sign"] == ">=" else "maximum"
        return {"metric": found["metric"], side: found["bound"]}

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        if self.metric not in KNOWN:
            hint = hint_of(self.metric, KNOWN)
            raise ValueError(f"no metric {self.metric!r}{hint}; there are {', '.join(KNOWN)}")
        if self.minimum is None and self.maximum is None:
            raise ValueError(f"the bar of {self.metric} needs a minimum or a maximum")
        for sign, bound in ((">=", self.minimum), ("<=", self.maximum)):
            problem = None if bound is None else bar_problem(self.metric, sign, bound)
            if problem:
                raise ValueError(f"{self} makes no sense, {problem}")
        return self

    @model_serializer
    def __str__(self) -> str:
        if self.minimum is not None:
            return f"{self.metric}>={self.minimum:g}"
        return f"{self.metric}<={self.maximum:g}"


class RunConfig(BaseModel):
    """Settings of one run. The description of a field is what `--help` prints."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    seed: int = Field(
        default=0, ge=0, lt=2**32, description="seed of the split, the weights and the batches"
    )
    # The built-in networks are too small to divide: on idle cores more threads gain nothing, on
    # busy ones they wait for each other (100 times slower was measured), and one thread gives the
    # same weights whatever the number of cores.
    threads: int = Field(
        default=1,
        ge=1,
        le=256,
        description="threads of torch; weights repeat only for an equal number",
    )
    epochs: int = Field(default=100, ge=1, le=100_000, description="most epochs per candidate")
    patience: int = Field(
        default=20, ge=1, description="epochs without a better validation loss before stopping"
    )
    batch_size: int = Field(default=64, ge=1, description="rows in one training step")
    learning_rate: float = Field(default=3e-3, gt=0, description="peak step size of AdamW")
    weight_decay: float = Field(default=1e-2, ge=0, description="decay of AdamW")
    clip_norm: float = Field(
        default=5.0, gt=0, description="longest gradient; a longer one is shortened to it"
    )
    warmup_share: float = Field(
        default=0.05, ge=0, le=0.5, description="share of the steps in which the step size rises"
    )
    device: Literal["auto", "cpu"] = Field(
        default="auto", description="auto takes a GPU where torch sees one"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="of training; auto is bf16 for pictures on hardware that has it"
    )
    resident_mib: int = Field(
        default=2048,
        ge=0,
        description="a split of more MiB is not kept on the device but fetched batch by batch",
    )
    # Of this machine, so neither hashed nor published.
    logs: Path | None = Field(
        default=None, exclude=True, description="folder for learning curves that TensorBoard reads"
    )
    missing_rate: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="share of the nullable training values masked as missing, anew every step",
    )
    shift_pixels: int = Field(
        default=0,
        ge=0,
        le=64,
        description="training pictures are shifted by up to this, anew every step",
    )
    flip: bool = Field(
        default=False, description="half of the training pictures are mirrored, left to right"
    )
    image_size: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="longer side of a user's pictures; 0 takes it from the data, at most 128",
    )
    broken_share: float = Field(
        default=0.02, ge=0, le=0.5, description="pictures that may be unreadable; more end the run"
    )
    budget: str = Field(
        default="",
        description="time or trials to search settings in, such as 30s, 10m, 2h or trials=50; "
        "without one, candidates are taken as they are",
    )
    folds: int = Field(
        default=0,
        ge=0,
        le=20,
        description="parts of the rows by turns held out in a search; 0 is 5 under 2,000 rows and "
        "none above, 1 is none",
    )
    faster_by: float = Field(
        default=3.0,
        ge=0,
        description="a candidate as good within chance is taken where it is served so many times "
        "as fast; 0 is never",
    )
    validation_share: float = Field(
        default=0.2, ge=0.05, le=0.4, description="share of the rows kept for choosing"
    )
    test_share: float = Field(
        default=0.2, ge=0.05, le=0.4, description="share of the rows kept for the gates"
    )
    split: str = Field(
        default="auto",
        description="how rows are divided: auto, random, stratified, group:COLUMN, time:COLUMN",
    )
    gates: tuple[Bar, ...] = Field(
        default=(),
        description="bars of test metrics, such as accuracy>=0.9,log_loss<=0.3; below, nothing is "
        "published; without any the model must do better than the trivial answer",
    )
    max_regression: float | None = Field(
        default=None,
        ge=0,
        description="loss of the chief metric against the published version that is let pass, "
        "relative for an error; unset is 0.01, or 0.02 for an error",
    )
    calibrate: bool = Field(
        default=True, description="scores are made honest by a temperature, where that helps"
    )
    threshold: str = Field(
        default="0.5",
        description="score from which the second of two classes is chosen: a number, f1, "
        "recall>=0.9 or precision>=0.9",
    )
    variants: str = Field(
        default="auto",
        description="smaller graphs beside the exported one: auto, none, int8, fp16 or int8,fp16",
    )
    variant_drop: float = Field(
        default=0.5,
        ge=0,
        le=100,
        description="what a variant may lose of the chief metric, in points, or in per cent of an "
        "error",
    )
    max_rows: int = Field(
        default=64, ge=1, le=4096, description="largest batch that is proved, in rows"
    )
    golden_rows: int = Field(
        default=20, ge=4, le=64, description="held-out rows recorded as golden, in rows"
    )

    @field_validator("gates", mode="before")
    @classmethod
    def _several_in_a_line(cls, given: object) -> object:
        if isinstance(given, str):
            return [part for part in given.split(",") if part.strip()]
        return given

    @field_validator("budget")
    @classmethod
    def _known_budget(cls, given: str) -> str:
        return check_budget(given)

    @field_validator("split")
    @classmethod
    def _known_split(cls, given: str) -> str:
        return check_split(given)

    @field_validator("variants")
    @classmethod
    def _known_variants(cls, given: str) -> str:
        return check_variants(given)

    @field_validator("threshold")
    @classmethod
    def _known_rule(cls, given: str) -> str:
        return check_rule(given)

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> Self:
        if self.validation_share + self.test_share > 0.7:
            raise ValueError("validation_share and test_share leave less than 0.3 for training")
        return self

    def with_overrides(self, overrides: Mapping[str, object]) -> Self:
        """The same settings with some replaced; text is converted to each setting's type.

        Raises:
            UsageError: an unknown setting, or a value that it cannot take.
        """
        unknown = sorted(set(overrides) - set(type(self).model_fields))
        if unknown:
            known = list(type(self).model_fields)
            hint = hint_of(unknown[0], known)
            raise UsageError(f"unknown setting {unknown[0]!r}{hint}; known are {', '.join(known)}")
        try:
            return type(self).model_validate({**dict(self), **overrides})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            said = first["msg"].removeprefix("Value error, ")
            if not first["loc"]:
                raise UsageError(said) from None
            name = str(first["loc"][0])
            raise UsageError(
                f"setting {name}={overrides.get(name)}: {_lower_first(said)}"
            ) from None

    def own(self) -> dict[str, str]:
        """The settings that differ from the defaults, as `--set` takes them."""
        usual, own = type(self)().model_dump(), self.model_dump()
        return {name: _as_text(value) for name, value in own.items() if value != usual[name]}

    def sha256(self) -> str:
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def parse_overrides(pairs: Sequence[str]) -> dict[str, str]:
    """`["epochs=5"]` -> `{"epochs": "5"}`.

    Raises:
        UsageError: a pair without `=` or given twice.
    """
    overrides: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--set takes key=value, got {pair!r}")
        if key in overrides:
            raise UsageError(f"--set {key} is given twice")
        overrides[key] = value
    return overrides


def _as_text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
