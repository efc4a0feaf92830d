"""Which values of a category are known: those that the training rows have often enough."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from app.bundle.signature import CategoryField, InputField
from app.bundle.tensors import Array, Tensors

#: Rows that a value needs, in the training split, to be worth a slot of its own.
FEWEST: Final = 5
#: Values of one column; the least frequent of more are unknown.
MOST: Final = 100


def most_frequent(values: Iterable[str], fewest: int = FEWEST, most: int = MOST) -> tuple[str, ...]:
    """The frequent values by their letters; at least one, and never the empty text."""
    counts = Counter(value for value in values if value)
    ranked = sorted(counts, key=lambda value: (-counts[value], value))
    kept = [value for value in ranked[:most] if counts[value] >= fewest] or ranked[:1]
    return tuple(sorted(kept))


def fitted_fields(fields: Sequence[InputField], train_inputs: Tensors) -> tuple[InputField, ...]:
    """The same fields, where open vocabularies hold what the training rows have often enough.

    A closed vocabulary says what may be sent, and stays as it is.
    """
    return tuple(_fitted(field, train_inputs) for field in fields)


def _fitted(field: InputField, train_inputs: Tensors) -> InputField:
    if not isinstance(field, CategoryField) or not field.accept_unknown:
        return field
    tensor: Array = train_inputs[field.tensor]
    known = most_frequent(tensor if field.column is None else tensor[:, field.column])
    return field.model_copy(update={"vocabulary": known}) if known else field
