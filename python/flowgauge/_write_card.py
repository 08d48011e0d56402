"""Writes the card of a network that was read, or lets the program draft it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ._arguments import plain_value, to_array
from ._card import FIRST_LINE, card_text, with_keys, wrapped
from ._errors import ExportError, FlowgaugeError
from ._process import call
from .exporters.reading import Condition, Reading


def write_card(card: Path, name: str, reading: Reading, keys: Mapping[str, Any]) -> None:
    """Writes the card, with the files that it names."""
    folder = card.parent
    comments = [*reading.remarks, *(f"Guessed: {guess}." for guess in reading.guesses)]
    comments.append("flowgauge inspect CARD --data X.npy tells whether data agree with it.")
    if reading.configs is not None:
        _draft_card(card, name, reading, keys, comments)
        return
    for file, array in reading.arrays.items():
        np.save(folder / file, array)
    inputs = {"x": reading.x, **({"time": reading.time} if reading.time else {})}
    network: dict[str, Any] = {
        "file": reading.graph.file,
        "sha256": hashlib.sha256((folder / reading.graph.file).read_bytes()).hexdigest(),
        "inputs": inputs,
        "output": reading.graph.output,
        "prediction": reading.prediction,
    }
    if reading.channels is not None:
        network["channels"] = list(reading.channels)
    if reading.time_keys and reading.time:
        network["time"] = reading.time_keys
    if keys["preconditioning"] is not None:
        network["preconditioning"] = keys["preconditioning"]
    if reading.conditions:
        network["conditions"] = {
            condition: _condition(value, condition, folder)
            for condition, value in reading.conditions.items()
        }
    content: dict[str, Any] = {
        "name": name,
        "shape": reading.shape,
        "network": network,
        "path": reading.path,
    }
    optional = {key: keys[key] for key in ("guidance", "provenance")}
    for key, value in {"prior": reading.prior, "data": reading.data, **optional}.items():
        if value is not None:
            content[key] = value
    card.write_text(card_text(plain_value(content), comments), encoding="utf-8")


def _condition(condition: Condition, name: str, folder: Path) -> dict[str, Any]:
    """The entry of a condition. A null value of many numbers becomes a file."""
    if condition.null is None:
        return {"input": condition.input}
    null, array = condition.null, to_array(condition.null)
    if array is None and isinstance(null, (list, tuple)):
        array = np.asarray(null, dtype=np.float32)
    if array is not None and array.ndim and (array.ndim > 1 or len(array) > 16):
        file = re.sub(r"\W", "_", f"null_{name}") + ".npy"
        np.save(folder / file, array)
        return {"input": condition.input, "null": file}
    return {"input": condition.input, "null": array.tolist() if array is not None else null}


def _draft_card(
    card: Path, name: str, reading: Reading, keys: Mapping[str, Any], comments: list[str]
) -> None:
    """Lets the program draft the card of a folder of diffusers, and adds what the caller said."""
    write_configs = reading.configs
    assert write_configs is not None
    # The program takes the null value of a text from the file null.npy beside the configs.
    conditions = dict(keys["conditions"] or {})
    context = conditions.pop("context", {})
    null = to_array(context.get("null")) if isinstance(context, Mapping) else None
    unused = [k for k in ("time", "channels", "preconditioning") if keys[k] is not None]
    unused += [f"conditions.{name}" for name in conditions]
    unused += ["conditions.context"] if context and null is None else []
    if unused:
        raise ExportError(
            f"{', '.join(unused)}: the card of a network with a scheduler is drafted from the "
            "configs of diffusers; give path and prediction instead of the scheduler, or edit "
            f"{card}",
            2,
        )
    write_configs(card.parent)
    (card.parent / "null.npy").unlink(missing_ok=True)
    if null is not None:
        np.save(card.parent / "null.npy", null)
    draft = ["card", "--from=diffusers", f"--out={card}", "--force", "--quiet", str(card.parent)]
    try:
        call(draft)
    except FlowgaugeError as error:
        raise ExportError(f"{card}: {error}", error.returncode) from error
    added = {k: keys[k] for k in ("prior", "data", "guidance", "provenance") if keys[k] is not None}
    text = with_keys(card.read_text("utf-8"), plain_value({"name": name, **added}))
    head = "".join(f"# {line}\n" for comment in comments for line in wrapped(comment))
    card.write_text(f"{FIRST_LINE}\n{head}{text}", encoding="utf-8")
