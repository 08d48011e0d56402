"""The Python of README.md and of docs/: each block runs as it stands there, or is compiled."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flowgauge

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)

# Blocks that are only compiled, by a part of their text, each with the reason.
COMPILED_ONLY = {
    "torch.onnx.export(net, (x, sigma)": "a network of the reader, exported by torch alone",
    "path=..., prediction=...": "it shows the form of a call",
    'condition={"label": labels}': "a conditional network of the reader",
    "cifar-10-batches-py": "images that are not part of this repository",
}


def blocks() -> list[Any]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in BLOCK.finditer(text):
            line = text.count("\n", 0, block.start()) + 1
            imported = re.findall(r"^import (pandas|polars|wandb|mlflow)", block.group(1), re.M)
            marks = [pytest.mark.needs(*imported)] if imported else []
            if "import torch" in block.group(1):
                marks = [pytest.mark.torch, pytest.mark.needs("torch", "onnx", "onnxscript")]
            name = f"{page.relative_to(ROOT)}:{line}"
            found.append(pytest.param(block.group(1), id=name, marks=marks))
    return found


def test_pages_have_python() -> None:
    assert len(blocks()) >= 5


@pytest.mark.parametrize("code", blocks())
def test_block_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = compile(code, "<docs>", "exec")
    if any(part in code for part in COMPILED_ONLY):
        return
    # The reader's own model and data are those of the moons.
    for file in (ROOT / "models/moons").iterdir():
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    data = np.load("heldout.npy")[:64]
    if '"run/tables' in code:
        entry = {"model": "card.yaml", "data": data[:16]}
        settings = {"estimators": ["exact"], "solvers": [{"heun": {"steps": 4}}]}
        config = {"name": "run", **settings, "likelihood": [entry]}
        flowgauge.run(config, out="run", quiet=True)
    names = {"flowgauge": flowgauge, "card": "card.yaml", "X": data, "data": data}
    exec(compiled, names)
