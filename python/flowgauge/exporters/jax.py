"""Functions of JAX arrays, by the package jax2onnx."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from .._errors import ExportError
from .plain import read
from .reading import Given, Graph, Reading, is_a


def is_jax(net: Any, example: Any) -> bool:
    """Whether the example has arrays of JAX, or the network is a module of flax or equinox."""
    values = example.values() if isinstance(example, dict) else example
    values = values if isinstance(example, (dict, tuple, list)) else [example]
    arrays = any(type(v).__module__.split(".")[0] in ("jax", "jaxlib") for v in values)
    return arrays or is_a(net, "flax.", "Module") or is_a(net, "equinox.", "Module")


def read_jax(net: Any, given: Given) -> Reading:
    """Reads a function with the path and the prediction that the caller says."""
    if importlib.util.find_spec("jax2onnx") is None:
        raise ExportError(
            "networks of JAX are exported by jax2onnx; install with `pip install jax2onnx`", 2
        )
    example = given.example
    if isinstance(example, (tuple, list)):
        given.example = tuple(np.array(value) for value in example)
    elif isinstance(example, dict):
        given.example = {name: np.array(value) for name, value in example.items()}
    return read(net, given)


def write_jax(graph: Graph, file: Path, opset: int) -> None:
    """Writes the function with an open batch axis."""
    import jax2onnx
    import onnx

    inputs = [
        value.shape if name in graph.scalar else ("N", *value.shape[1:])
        for name, value in graph.inputs.items()
    ]
    try:
        model = jax2onnx.to_onnx(
            lambda *values: graph.call(graph.net, *values),
            inputs,
            opset=opset,
            input_names=list(graph.inputs),
            output_names=[graph.output],
        )
    except Exception as error:
        raise ExportError(f"{file.name}: the network cannot be traced: {error}") from error
    onnx.save(model, str(file))
