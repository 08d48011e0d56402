"""Exports a network to ONNX with its card, and holds the file against the network."""

from __future__ import annotations

import copy
import importlib.util
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ._binary import find_program
from ._card import FIRST_LINE, Card
from ._compare import compare
from ._errors import ExportError, GuessWarning
from ._onnx import write_onnx
from ._verbs import inspect
from ._write_card import write_card
from .exporters import read_network
from .exporters.functions import as_module
from .exporters.jax import is_jax, read_jax, write_jax
from .exporters.reading import PREDICTIONS, Condition, Given, Reading, is_a, path_of


def export(
    net: Any,
    example: Any = None,
    *,
    path: str | Mapping[str, Any] | None = None,
    prediction: str | None = None,
    out: str | os.PathLike[str] = "model",
    name: str | None = None,
    inputs: Mapping[str, str] | None = None,
    output: str | None = None,
    channels: Sequence[int] | None = None,
    time: Mapping[str, Any] | None = None,
    conditions: Mapping[str, Any] | None = None,
    preconditioning: str | Mapping[str, Any] | None = None,
    prior: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    guidance: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    scheduler: Any = None,
    vae: Any = None,
    opset: int = 18,
    tolerance: float = 1e-5,
    force: bool = False,
) -> Card:
    """Writes `net` as ONNX and its card into the folder `out`, checks both, and returns the card.

    `net` is a `torch.nn.Module`, a function of torch tensors, or a function of JAX arrays. The
    networks of diffusers (and whole pipelines), EDM, flow_matching, torchcfm, sbi and
    denoising-diffusion-pytorch are known. For all others `path` and `prediction` must be given, and
    `example` is what the network takes: a tuple such as `(x, t)` in its order, or a dictionary of
    arguments by name. The first axis of each is the batch. For networks that are known `example`
    may be left out, or be a batch of states.

    `net` itself is not changed: a copy on the CPU, in single precision and in evaluation mode, is
    exported. The batch axis of the ONNX file is open.

    The other arguments are keys of the card: `path` and `prediction`; `inputs`, which names the
    arguments `x` and `time`; `output`, `channels`, `time`, `conditions` and `preconditioning` of
    the network; `prior`, `data`, `guidance`, `name` and `provenance`. Further arguments of the
    network become conditions. `null` in `conditions` may be an array.

    `scheduler` (an object of diffusers, its config or its file) and `vae` (an AutoencoderKL) belong
    to a network of diffusers that is given without its pipeline.

    The ONNX file is run on batches of 1, 2 and 5 with random states and times, and compared with
    the module in single and in double precision, relative to the output's largest value.

    Raises `ExportError` where something must be said, where the module cannot be traced, where the
    difference in single precision is above `tolerance`, or where `flowgauge inspect` finds a fault;
    and where `out` holds a card that was not written by this function, without `force`. Warns by
    `GuessWarning` where something was guessed.
    """
    keys = {
        "path": path,
        "prediction": prediction,
        "inputs": inputs,
        "output": output,
        "channels": list(channels) if channels is not None else None,
        "time": time,
        "conditions": conditions,
        "preconditioning": preconditioning,
        "prior": prior,
        "data": data,
        "guidance": guidance,
        "provenance": provenance,
    }
    if prediction is not None and prediction not in PREDICTIONS:
        raise ExportError(f"prediction {prediction!r}: expected one of {', '.join(PREDICTIONS)}", 2)
    if scheduler is not None and (path is not None or prediction is not None):
        raise ExportError("scheduler: it says path and prediction; expected it or these", 2)
    find_program()  # It is needed at the end, and should be missed at the beginning.
    folder = Path(out)
    card = folder / "card.yaml"
    if card.exists() and not force and not card.read_text("utf-8").startswith(FIRST_LINE):
        raise ExportError(f"{card}: it was not written by flowgauge.export; expected force=True", 2)

    given = Given(example, keys, scheduler, vae)
    jax = is_jax(net, example)
    if jax:
        reading = read_jax(net, given)
    else:
        _need("torch", "onnx", "onnxscript")
        given.vae = _ready(vae) if vae is not None else None
        reading = read_network(_ready(net), given)
    _override(reading, keys)
    differences = {}
    for graph in [reading.graph, *reading.parts]:
        (folder / graph.file).parent.mkdir(parents=True, exist_ok=True)
        if jax:
            write_jax(graph, folder / graph.file, opset)
        else:
            write_onnx(graph, folder / graph.file, opset)
        differences[graph.file] = compare(graph, reading, folder / graph.file, tolerance, jax)
    name = name or _plain_name(folder)
    for guess in reading.guesses:
        warnings.warn(guess, GuessWarning, stacklevel=2)
    write_card(card, name, reading, keys)
    result = inspect(card, quiet=True)
    if not result.ok:
        faults = [line.strip() for line in result.text.splitlines() if "FAILED" in line]
        raise ExportError(f"{card}: {'; '.join(faults) or result.text}", 1, result)
    shape = tuple(int(size) for size in reading.shape)
    return Card(card, name, shape, differences, tuple(reading.guesses), result.text)


def _need(*packages: str) -> None:
    missing = [p for p in packages if importlib.util.find_spec(p) is None]
    if missing:
        raise ExportError(
            f"export needs {', '.join(missing)}; install with `pip install 'flowgauge[export]'`", 2
        )


def _ready(net: Any) -> Any:
    """A copy of a module on the CPU, in single precision and in evaluation mode.

    The modules inside a pipeline, a posterior or a function are copied in their places.
    """
    import torch

    net = _unwrapped(net)
    if isinstance(net, torch.nn.Module):
        return copy.deepcopy(net).cpu().float().eval().requires_grad_(False)
    if hasattr(net, "components"):
        return _with_copies(net)
    inside = getattr(getattr(net, "potential_fn", None), "vector_field_estimator", None)
    return _ready(as_module(net) if inside is None else inside)


def _unwrapped(net: Any) -> Any:
    """The module inside torch's wrappers: compiled, parallel, or averaged."""
    wrappers = ("AveragedModel", "DataParallel", "DistributedDataParallel")
    while True:
        if hasattr(net, "_orig_mod"):
            net = net._orig_mod
        elif is_a(net, "torch.", *wrappers):
            net = net.module
        else:
            return net


def _with_copies(pipeline: Any) -> Any:
    """A pipeline whose networks are copies, under the class of the pipeline."""
    import torch

    wanted = ("unet", "transformer", "vae", "vqvae")
    parts = {
        name: _ready(part) if isinstance(part, torch.nn.Module) and name in wanted else part
        for name, part in pipeline.components.items()
    }
    kind = type(pipeline)
    copied = type(kind.__name__, (kind,), {"__init__": lambda self: None, "components": parts})
    return copied()


def _override(reading: Reading, keys: Mapping[str, Any]) -> None:
    """Puts what the caller said in the place of what was read."""
    if keys["path"] is not None:
        reading.path = path_of(keys["path"])
    for key in ("prediction", "channels", "prior", "data"):
        if keys[key] is not None:
            setattr(reading, key, keys[key])
    if keys["time"] is not None:
        reading.time_keys = dict(keys["time"])
    conditions = {} if reading.configs is not None else keys["conditions"] or {}
    for name, value in conditions.items():
        condition = Condition(value) if isinstance(value, str) else Condition(**value)
        same = [n for n, c in reading.conditions.items() if c.input == condition.input]
        if not same:
            inputs = [c.input for c in reading.conditions.values()]
            raise ExportError(
                f"conditions.{name}: the network has no such input; it has {inputs}", 2
            )
        reading.conditions = {
            (name if n == same[0] else n): (condition if n == same[0] else c)
            for n, c in reading.conditions.items()
        }


def _plain_name(folder: Path) -> str:
    """The name of a folder in the letters that a card allows."""
    name = re.sub(r"[^A-Za-z0-9 _.,()\[\]+-]", "_", folder.absolute().name)[:100]
    return name if re.match(r"[A-Za-z0-9_]", name) else f"_{name}"[:100]
