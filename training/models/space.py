"""What a search may vary of a candidate."""

from collections.abc import Mapping
from dataclasses import dataclass

Setting = int | float


@dataclass(frozen=True)
class Between:
    """A number from `low` to `high`, both included; whole where both ends are.

    Attributes:
        log: equal factors are equally likely, not equal steps.
    """

    low: Setting
    high: Setting
    log: bool = False


@dataclass(frozen=True)
class OneOf:
    """One of some numbers."""

    values: tuple[Setting, ...]


#: By the setting's name.
Space = Mapping[str, Between | OneOf]
