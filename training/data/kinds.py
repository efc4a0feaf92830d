"""The words for what a column holds and for what is asked of a model, as their owner says them."""

from typing import Final, Literal, get_args

Kind = Literal["number", "category", "boolean", "date", "text", "series", "step", "image", "drop"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

TaskKind = Literal["auto", "classification", "regression", "multilabel"]
TASK_KINDS: Final[tuple[TaskKind, ...]] = get_args(TaskKind)
