"""What is asked: a network, and the form in which its rows travel."""

from dataclasses import dataclass
from typing import Final, Literal

#: `oip-json` and `oip-binary` are the Open Inference Protocol's, `typed` has named fields, `jpeg`
#: is the file alone.
Form = Literal["oip-json", "oip-binary", "typed", "jpeg"]
Precision = Literal["fp32", "int8"]


@dataclass(frozen=True)
class Case:
    """One row a request.

    Args:
        steady_per_s: rate of the open loop; one that the slowest server here can take.
    """

    name: str
    network: str
    form: Form
    steady_per_s: float
    precision: Precision = "fp32"


CASES: Final = {
    case.name: case
    for case in (
        Case("mlp-json", "mlp", "oip-json", 250),
        Case("mlp-binary", "mlp", "oip-binary", 250),
        Case("mlp-typed", "mlp", "typed", 250),
        Case("cnn28-json", "cnn28", "oip-json", 150),
        Case("cnn28-binary", "cnn28", "oip-binary", 150),
        Case("cnn224-binary", "cnn224", "oip-binary", 15),
        Case("cnn224-jpeg", "cnn224", "jpeg", 15),
        Case("cnn224-int8-binary", "cnn224", "oip-binary", 15, "int8"),
    )
}
