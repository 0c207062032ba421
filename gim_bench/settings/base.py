"""The base class of all tables of settings: frozen, strict, without unknown keys."""

from enum import StrEnum
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(gt=0, lt=1)]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[int, Field(ge=0)]
# Suites and methods: the folders of their records are named after them.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Names = Annotated[tuple[Name, ...], Field(min_length=1)]


class Precision(StrEnum):
    """Number format of the matrix products in training or feature extraction."""

    AUTO = "auto"  # bf16 where the hardware multiplies in it, else fp32
    FP32 = "fp32"
    TF32 = "tf32"  # a GPU's: fp32 whose factors are rounded to 10 bits of mantissa
    BF16 = "bf16"


class Settings(BaseModel):
    """Frozen settings that refuse keys they do not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def entries(self) -> dict[str, Any]:
        """The settings by name, as the table in a suite's file has them."""
        return {name: getattr(self, name) for name in type(self).model_fields}

    def is_default(self, name: str) -> bool:
        """Whether the setting has the value that it has in a file which leaves it out."""
        field = type(self).model_fields[name]
        return bool(
            not field.is_required()
            and getattr(self, name) == field.get_default(call_default_factory=True)
        )


Model = TypeVar("Model", bound=Settings)
