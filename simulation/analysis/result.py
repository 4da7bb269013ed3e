"""What every analysis gives back: numbers, a table, a figure, and the files of each."""

from __future__ import annotations

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from equipot.simulation.analysis.figures import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


ALL = "all"  # of curves by element: that of all atoms
T = TypeVar("T")


def one_or_all(curves: Mapping[str, T]) -> dict[str, T]:
    """Without what is said twice: with one element only, all atoms are those of it."""
    return {name: curve for name, curve in curves.items() if name != ALL or len(curves) > 2}


@dataclass(frozen=True, eq=False, kw_only=True)
class Analysis(ABC):
    """A frozen result. `remarks` are what a reader of the numbers must know; `provenance` is of the run, if known."""

    name: ClassVar[str]
    remarks: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @abstractmethod
    def summary(self) -> dict[str, Any]:
        """The few numbers one quotes, with their units in their names; `x_error` is the standard error of `x`."""

    @abstractmethod
    def columns(self) -> dict[str, np.ndarray]:
        """The table, all columns of one length, with units in their names."""

    @abstractmethod
    def draw(self, figure: Figure) -> None:
        """Put the curves onto an empty figure."""

    def plot(self, path: str | Path) -> Path:
        """A figure of one column's width, 300 dots per inch; the ending says the format (.png, .pdf, .svg)."""
        figure = new_figure()
        self.draw(figure)
        return save_figure(figure, Path(path))

    def to_csv(self, path: str | Path) -> Path:
        """The table as CSV, numbers with all their digits."""
        columns = self.columns()
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*(values.tolist() for values in columns.values()), strict=True))
        return Path(path)

    def to_json(self, path: str | Path) -> Path:
        """Everything: numbers, table, remarks, provenance. What is not finite is null."""
        document = {
            "analysis": self.name,
            "summary": self.summary(),
            "remarks": list(self.remarks),
            "provenance": dict(self.provenance),
            "columns": {name: values.tolist() for name, values in self.columns().items()},
        }
        Path(path).write_text(json.dumps(finite(document), indent=1) + "\n", encoding="utf-8")
        return Path(path)


def finite(value: Any) -> Any:
    """The value for JSON: what is not finite is None."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    if isinstance(value, np.generic):
        return finite(value.item())
    return None if isinstance(value, float) and not np.isfinite(value) else value
