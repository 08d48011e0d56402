"""Tables as data frames: of pandas, else of polars, else a dictionary of NumPy arrays."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# A data frame of whichever library there is. Each has its columns by name: frame["nats"].
Frame = Any


class Columns(dict[str, "npt.NDArray[Any]"]):
    """A table as a dictionary from the names of its columns to NumPy arrays."""

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return list(self)

    def __repr__(self) -> str:
        return text_table(self)


def _array(values: list[str]) -> npt.NDArray[Any]:
    """Whole numbers, numbers with NaN for empty cells, or text.

    >>> _array(["1", ""]), _array(["1", "2"]).dtype.kind, _array(["ok", ""]).tolist()
    (array([ 1., nan]), 'i', ['ok', ''])
    """
    if any(values):
        try:
            return np.array([int(v) for v in values], dtype=np.int64)
        except (ValueError, OverflowError):
            pass
    try:
        return np.array([float(v) if v else np.nan for v in values], dtype=np.float64)
    except ValueError:
        return np.array(values, dtype=object)


def read_columns(path: Path) -> Columns:
    """Reads a CSV table that the program wrote."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    header, body = rows[0], rows[1:]
    return Columns({name: _array([row[i] for row in body]) for i, name in enumerate(header)})


def read_frame(path: Path) -> Frame:
    """Reads a CSV table as a data frame of pandas, else of polars, else as `Columns`."""
    columns = read_columns(path)
    if importlib.util.find_spec("pandas") is not None:
        import pandas

        return pandas.DataFrame(columns)
    if importlib.util.find_spec("polars") is not None:
        import polars

        return polars.DataFrame({name: column.tolist() for name, column in columns.items()})
    return columns


def write_frame(frame: Any, path: Path) -> None:
    """Writes a data frame, or a mapping from names to columns, as CSV."""
    names = list(frame.columns) if hasattr(frame, "columns") else list(frame)
    columns = [np.asarray(frame[name]).tolist() for name in names]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(
            ["" if value != value else value for value in row]  # NaN is an empty cell.
            for row in zip(*columns, strict=True)
        )


def cell_text(value: Any) -> str:
    """A cell as it is shown: floats with six digits, NaN as nothing.

    >>> cell_text(np.float64(2.15234567)), cell_text(float("nan")), cell_text(3)
    ('2.15235', '', '3')
    """
    if isinstance(value, (float, np.floating)):
        return "" if np.isnan(value) else f"{value:.6g}"
    return str(value)


def shown_cells(
    columns: Mapping[str, Sequence[Any] | npt.NDArray[Any]], limit: int
) -> tuple[list[str], list[list[str]], int]:
    """The names of the columns that hold anything, the first rows, and the number of all rows."""
    count = max((len(column) for column in columns.values()), default=0)
    cells = {name: [cell_text(v) for v in column[:limit]] for name, column in columns.items()}
    names = [name for name, column in cells.items() if any(column)]
    return names, [[cells[name][i] for name in names] for i in range(min(limit, count))], count


def text_table(columns: Mapping[str, Sequence[Any] | npt.NDArray[Any]], limit: int = 12) -> str:
    """A table for a terminal.

    >>> print(text_table({"model": ["digits"], "nats": [1.5]}))
    model   nats
    digits  1.5
    """
    names, rows, count = shown_cells(columns, limit)
    widths = [max(len(row[i]) for row in [names, *rows]) for i in range(len(names))]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in [names, *rows]
    ]
    if count > limit:
        lines.append(f"… {count} rows")
    return "\n".join(lines)
