"""The table of a training, one row for each validation: `log.csv`."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from equipot.models.training.files import write_whole

LOG = "log.csv"
Row = Mapping[str, float]


class Log:
    """Rows in memory and on disk; the file is always whole."""

    def __init__(self, path: Path, up_to_step: int) -> None:
        self.path = path
        self.rows: list[Row] = [row for row in read_log(path) if row["step"] <= up_to_step]

    def add(self, row: Row) -> None:
        """Append a row and write the table."""
        self.rows.append(row)
        text = io.StringIO()
        names = list(dict.fromkeys(name for each in self.rows for name in each))
        writer = csv.DictWriter(text, fieldnames=names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_whole(self.path, text.getvalue().encode())


def read_log(path: Path) -> list[Row]:
    """The rows of a table; none if there is no table. Empty cells are left out."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{name: _number(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def _number(text: str) -> float:
    return int(text) if text.isdigit() else float(text)
