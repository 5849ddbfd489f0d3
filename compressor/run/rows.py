"""The rows of a plan as they are used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressor.model.sources import located
from compressor.tasks.data import load_data

if TYPE_CHECKING:
    from compressor.contracts import Data
    from compressor.plan.bound import Bound


def rows_in(bound: Bound) -> Data:
    """Read, cleaned and split; where the plan has no data, those that its task imagines of the source model.

    Raises:
        PlanError: rows lack a column.
        SourceError: they cannot be read, or cannot be imagined.
    """
    if bound.data is None:
        return bound.task.imagined(located(bound.model, bound.folder))
    with bound.naming_columns():
        read = load_data(bound.data, columns=bound.task.columns(), seed=bound.seed, folder=bound.folder)
        return bound.task.encoded(read)
