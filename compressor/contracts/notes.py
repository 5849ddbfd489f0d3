"""What a pass or task wants shown in the report: curves, bars, tables, pictures, remarks."""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from compressor.foreign import shown


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    def shown(self) -> Self:
        """The same with every text in it safe to show: rows, labels and plans are not ours."""
        return type(self).model_validate(shown(self.model_dump()))


class Series(Record):
    """Curves over one axis: losses over steps, sparsity over steps."""

    kind: Literal["series"] = "series"
    title: str
    x: str
    y: str
    curves: dict[str, tuple[tuple[float, float], ...]]


class Bars(Record):
    """One value per label, some with 95 % intervals: sensitivities, widths, sizes. `marked` labels are drawn apart, explained by `mark`."""

    kind: Literal["bars"] = "bars"
    title: str
    unit: str
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]] = {}
    marked: tuple[str, ...] = ()
    mark: str = ""


class Table(Record):
    kind: Literal["table"] = "table"
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | int | None, ...], ...]


MOST_PICTURES = 2**18
"""Characters of one strip: 190 kB of PNG."""


class Images(Record):
    """Pictures side by side: a strip for each model, in which what stands in one column was made from the same."""

    kind: Literal["images"] = "images"
    title: str
    strips: dict[str, Annotated[str, Field(max_length=MOST_PICTURES, pattern=r"^[A-Za-z0-9+/]+={0,2}$")]]
    """By name, one PNG in base64 that holds the pictures of a model from left to right."""
    columns: tuple[str, ...]
    """What each picture of a strip is to show, from left to right."""
    caption: str = ""


class Remark(Record):
    kind: Literal["remark"] = "remark"
    text: str
    warns: bool = False
    """Whether it stands at the head of the report too."""


Note: TypeAlias = Annotated[Series | Bars | Table | Images | Remark, Field(discriminator="kind")]
