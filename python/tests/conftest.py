"""Finds the program and the models that come with the repository."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

import flowgauge
from flowgauge._binary import find_program

ROOT = Path(__file__).resolve().parents[2]
# The networks need torch, and have no examples.
collect_ignore = ["networks.py"]
# One thread: the networks are tiny.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_report_header() -> str:
    try:
        return f"flowgauge: {find_program()}, package {Path(flowgauge.__file__).parent}"
    except flowgauge.ProgramNotFound as error:
        raise pytest.UsageError(str(error)) from error


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for marker in item.iter_markers("needs"):
            missing = [p for p in marker.args if importlib.util.find_spec(p) is None]
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"not installed: {', '.join(missing)}"))


@pytest.fixture
def models() -> Path:
    return ROOT / "models"
