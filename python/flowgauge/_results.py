"""What the verbs return: the files that the program wrote, read when they are asked for."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import weakref
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _html
from ._frames import Columns, Frame, read_columns, read_frame, text_table

# What the tables of a run show in a terminal or a notebook, where it is there.
SUMMARY = ["model", "dataset", "estimator", "solver", "kind", "n", "failed", "bits_per_dim"]
SUMMARY += ["bits_per_dim_stderr", "nats", "nats_stderr", "bias", "bias_stderr", "correlation"]
SUMMARY += ["cost"]
METRICS = ["model", "sampler", "metric", "value", "stderr", "n_generated", "n_reference", "note"]


class Temporary:
    """A folder that is removed when nothing refers to this object any more."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="flowgauge-"))
        self._removal = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)

    def leave(self) -> None:
        """Lets the folder stay."""
        self._removal.detach()


class Result:
    """Something that the program wrote.

    `path` is the file or the folder, `text` what the program printed, and `returncode` its exit
    status. Files in a temporary folder live as long as this object.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        text: str = "",
        returncode: int = 0,
        keep: Temporary | None = None,
    ) -> None:
        self.path = Path(path)
        self.text = text.strip("\n")
        self.returncode = returncode
        self._keep = keep

    @property
    def document(self) -> dict[str, Any]:
        """What the program found, as it was printed with `json=True`; see docs/terminal.md.

        Raises `ValueError` where the call was without it.
        """
        if not self.text.startswith("{"):
            raise ValueError("the program printed no document; expected a call with json=True")
        # A message of the program may stand behind the document.
        found: dict[str, Any] = json.JSONDecoder().raw_decode(self.text)[0]
        return found

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return self.text or f"{type(self).__name__}({str(self.path)!r})"

    def _repr_html_(self) -> str:
        return _html.preformatted(repr(self))


class TextResult(Result):
    """What the program printed; see `text`."""


class TableResult(Result):
    """One CSV table at `path`."""

    @cached_property
    def table(self) -> Frame:
        """The table as a data frame of pandas, else of polars, else a dictionary of arrays."""
        return read_frame(self.path)

    @cached_property
    def _columns(self) -> Columns:
        return read_columns(self.path)

    def __repr__(self) -> str:
        return "\n".join(filter(None, [self.text, text_table(self._columns)]))

    def _repr_html_(self) -> str:
        return _html.paragraph(self.text) + _html.table(self._columns)


class LikelihoodResult(TableResult):
    """Log-likelihoods, one row per sample.

    `text` is the program's summary: the mean and its standard error in nats.
    """

    @property
    def samples(self) -> Frame:
        """One row per sample. `log_likelihood` is in nats, and NaN where `status` is not `ok`."""
        return self.table


class MetricsResult(TableResult):
    """Statistics of generated samples, one row per metric."""

    @property
    def metrics(self) -> Frame:
        """The columns `metric`, `value`, `stderr`, `n_generated`, `n_reference` and `note`."""
        return self.table

    @cached_property
    def floor(self) -> Frame | None:
        """The same statistics of data against data, where `floor` was given."""
        file = self.path.with_name(self.path.stem + ".floor" + self.path.suffix)
        return read_frame(file) if file.exists() else None


class ReweightResult(TableResult):
    """Quantities of samples that were reweighted: `ess`, `log_z`, `khat` and means."""

    @property
    def quantities(self) -> Frame:
        """The columns `quantity`, `value`, `stderr`, `low`, `high` and `n`."""
        return self.table


class SampleResult(Result):
    """Samples in a file `.npy`. `numpy.asarray` gives them too."""

    @cached_property
    def array(self) -> npt.NDArray[Any]:
        """The samples, with the shape of one sample behind their number."""
        return np.asarray(np.load(self.path, allow_pickle=False))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        array = self.array if dtype is None else self.array.astype(dtype)
        return array.copy() if copy else array

    @cached_property
    def samples(self) -> Frame | None:
        """One row per sample with its log-density in nats, where `density` was given."""
        file = self.path.with_suffix(".csv")
        return read_frame(file) if file.exists() else None


class GateResult(TableResult):
    """The verdict of every claim."""

    @property
    def verdict(self) -> str:
        """`pass`, `fail` or `inconclusive` for all claims together."""
        return {0: "pass", 1: "fail"}.get(self.returncode, "inconclusive")

    @property
    def claims(self) -> Frame:
        """One row per claim, with the column `verdict`."""
        return self.table


class VerifyResult(TableResult):
    """The verdict of every row that was computed again."""

    @property
    def ok(self) -> bool:
        """Whether no row has a mismatch."""
        return self.returncode == 0


class InspectResult(TextResult):
    """What `flowgauge inspect` prints."""

    @property
    def ok(self) -> bool:
        """Whether the network runs as its card says, and the data agree where they were given."""
        return self.returncode == 0


class Figure:
    """One figure of a run, shown by notebooks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.stem

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"Figure({str(self.path)!r})"

    @property
    def svg(self) -> bytes:
        """The figure as SVG."""
        return self.path.read_bytes()

    @property
    def png(self) -> bytes:
        """The figure as PNG."""
        return self.path.with_suffix(".png").read_bytes()

    def _repr_html_(self) -> str:
        return _html.picture(self.path)


class RunResult(Result):
    """A run directory: tables, figures and the page.

    `path` is the directory, and `text` the tables that the program printed.
    """

    def table(self, name: str) -> Frame:
        """One of the tables in the folder `tables`, such as `"pairs"` or `"budget"`."""
        return read_frame(self._table_file(name))

    def _table_file(self, name: str) -> Path:
        file = self.path / "tables" / f"{name}.csv"
        if not re.fullmatch(r"[\w-]+", name) or not file.exists():
            raise KeyError(f"there is no table {name!r} in {self.path}; there are {self.tables}")
        return file

    @property
    def tables(self) -> list[str]:
        """The names of the tables."""
        return sorted(file.stem for file in (self.path / "tables").glob("*.csv"))

    @cached_property
    def summary(self) -> Frame:
        """One row per model, estimator and solver, with means and standard errors."""
        return self.table("summary")

    @cached_property
    def samples(self) -> Frame:
        """One row per sample and estimator: `log_likelihood` in nats, and its parts."""
        return self.table("samples")

    @cached_property
    def metrics(self) -> Frame:
        """One row per sampler and metric."""
        return self.table("metrics")

    @property
    def page(self) -> Path:
        """The report, one file that opens in any browser."""
        return self.path / "index.html"

    @property
    def figures(self) -> list[Figure]:
        """The figures, in the order of their names."""
        return [Figure(file) for file in sorted((self.path / "plots").glob("*.svg"))]

    def _shown(self) -> list[Columns]:
        shown = []
        for name, wanted in [("summary", SUMMARY), ("metrics", METRICS)]:
            if name in self.tables:
                columns = read_columns(self._table_file(name))
                if any(len(column) for column in columns.values()):
                    shown.append(Columns({n: columns[n] for n in wanted if n in columns}))
        return shown

    def __repr__(self) -> str:
        return "\n\n".join([*(text_table(t) for t in self._shown()), f"report: {self.page}"])

    def _repr_html_(self) -> str:
        tables = "".join(_html.table(columns) for columns in self._shown())
        return tables + _html.paragraph(f"report: {self.page}")
