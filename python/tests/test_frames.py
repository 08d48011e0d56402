"""Tables of the program as data frames of whichever library there is."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from flowgauge import _frames

TABLE = """model,n,nats,note
digits,12,-1.5,
"a,b",3,,"late"
"""

FIND = importlib.util.find_spec


@pytest.fixture
def table(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text(TABLE)
    return file


def without(monkeypatch, *packages):
    monkeypatch.setattr(
        _frames.importlib.util, "find_spec", lambda n: None if n in packages else FIND(n)
    )


def check(frame):
    assert list(frame["n"]) == [12, 3]
    assert list(frame["model"]) == ["digits", "a,b"]
    assert list(frame["note"]) == ["", "late"]
    nats = np.asarray(frame["nats"], dtype=float)
    assert nats[0] == -1.5
    assert np.isnan(nats[1])


@pytest.mark.needs("pandas")
def test_pandas_comes_first(table):
    import pandas

    frame = _frames.read_frame(table)
    assert isinstance(frame, pandas.DataFrame)
    check(frame)


@pytest.mark.needs("polars")
def test_polars_comes_second(table, monkeypatch):
    import polars

    without(monkeypatch, "pandas")
    frame = _frames.read_frame(table)
    assert isinstance(frame, polars.DataFrame)
    check(frame)


def test_without_both_it_is_a_dictionary(table, monkeypatch):
    without(monkeypatch, "pandas", "polars")
    frame = _frames.read_frame(table)
    assert isinstance(frame, dict)
    assert frame.columns == ["model", "n", "nats", "note"]
    check(frame)
    assert repr(frame).splitlines()[0].split() == ["model", "n", "nats", "note"]


def test_a_table_without_rows_has_its_columns(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n")
    columns = _frames.read_columns(tmp_path / "t.csv")
    assert columns.columns == ["a", "b"]
    assert len(columns["a"]) == 0


def test_a_frame_is_written_as_it_is_read(table, tmp_path, monkeypatch):
    for missing in ([], ["pandas"], ["pandas", "polars"]):
        without(monkeypatch, *missing)
        _frames.write_frame(_frames.read_frame(table), tmp_path / "again.csv")
        check(_frames.read_frame(tmp_path / "again.csv"))
