"""Holds an ONNX file against its module, in single and in double precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ._double import double_copy, in_double
from ._errors import ExportError
from ._onnx import module_of
from .exporters.reading import Graph, Reading

BATCHES = (1, 2, 5)


def compare(
    graph: Graph, reading: Reading, file: Path, tolerance: float, jax: bool
) -> dict[str, float | None]:
    """The largest differences between the file and the module in both precisions.

    Raises `ExportError` where that in single precision is above the tolerance.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])
    used = {port.name for port in session.get_inputs()}
    rng = np.random.default_rng(0)
    cases = [check_inputs(graph, reading, count, rng) for count in BATCHES]
    single = jax_outputs(graph, cases) if jax else _outputs(graph, cases)
    double = None if jax else _double_outputs(graph, cases)
    singles, doubles = [], []
    for i, case in enumerate(cases):
        feeds = {name: value for name, value in case.items() if name in used}
        try:
            got = session.run(None, feeds)[0]
        except Exception as error:
            raise ExportError(
                f"{file}: the ONNX file does not run on a batch of {BATCHES[i]}. Where the network "
                "takes the batch size as a number, such as by len(x), it is fixed in the graph: "
                f"expected x.shape[0]. ONNX Runtime says: {error}"
            ) from error
        if got.shape != single[i].shape:
            raise ExportError(
                f"{file}: the output has shape {got.shape}, expected {single[i].shape}"
            )
        if graph is reading.graph:
            _check_shape(file, got.shape, case[reading.x].shape, reading.channels)
        singles.append(difference(got, single[i]))
        if double is not None:
            doubles.append(difference(got, double[i]))
    gap = float(np.max(singles))  # NaN where one of them is.
    gap64 = float(np.max(doubles)) if doubles else None
    if np.isnan(gap):
        raise ExportError(f"{file}: the network or its file gives NaN for random states and times")
    if gap > tolerance:
        raise ExportError(
            f"{file}: it differs from the module by {gap:.1e} of the output's largest value, "
            f"expected at most {tolerance:.1e}; the difference to the module in double precision "
            f"is {gap64}"
        )
    return {"float32": gap, "float64": gap64}


def _check_shape(
    file: Path, got: Sequence[int], state: Sequence[int], channels: Sequence[int] | None
) -> None:
    """Refuses an output that has not the shape of the state."""
    expected = list(state)
    if channels is not None:
        expected[1] = channels[1] - channels[0]
        got = [got[0], min(channels[1], got[1]) - channels[0], *got[2:]] if len(got) > 1 else got
    if list(got) != expected:
        hint = "" if channels is not None else "; `channels` names the part that is the prediction"
        raise ExportError(
            f"{file}: the output has shape {list(got)}, and the state has {list(state)}{hint}", 2
        )


def difference(got: Any, want: Any) -> float:
    """The largest difference relative to the largest value."""
    scale = float(np.abs(want).max(initial=0.0))
    gap = float(np.abs(got.astype(np.float64) - want).max(initial=0.0))
    return gap / scale if scale > 0 else gap


def check_inputs(
    graph: Graph, reading: Reading, count: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Random states and times, and the conditions of the example, for one batch."""
    inputs: dict[str, Any] = {}
    times = None
    for name, example in graph.inputs.items():
        values = np.asarray(example)
        timely = graph is reading.graph and name == reading.time
        if timely and name in graph.scalar:
            times = np.repeat(fed_times(reading, 1, rng), count)
            times = times if values.dtype.kind == "f" else np.round(times)
            inputs[name] = np.asarray(times[0], dtype=values.dtype)
        elif name in graph.scalar:
            inputs[name] = values
        elif timely:
            times = fed_times(reading, count, rng)
            rounded = times if values.dtype.kind == "f" else np.round(times)
            shape = (count, *values.shape[1:])
            inputs[name] = np.broadcast_to(
                rounded.reshape(count, *[1] * (values.ndim - 1)), shape
            ).astype(values.dtype)
        elif graph is not reading.graph or name == reading.x:
            inputs[name] = rng.standard_normal((count, *values.shape[1:])).astype(values.dtype)
        else:
            inputs[name] = values[np.arange(count) % len(values)]
    if times is not None and reading.path.get("kind") in ("edm", "ve"):
        # The states of these paths are as large as their noise.
        levels = np.sqrt(1 + noise_levels(reading, times) ** 2)
        x = inputs[reading.x]
        inputs[reading.x] = (x * levels.reshape(-1, *[1] * (x.ndim - 1))).astype(x.dtype)
    return {name: np.array(value, order="C") for name, value in inputs.items()}


def fed_times(reading: Reading, count: int, rng: np.random.Generator) -> Any:
    """Values of the time input, spread over the path as the card feeds them."""
    path, keys = reading.path, reading.time_keys
    kind = path.get("kind", "discrete")
    u = rng.uniform(size=count)
    feed = keys.get("feed") or ("index" if kind == "discrete" else "t")
    if kind in ("edm", "ve"):
        low, high = _levels(path)
        t = low * (high / low) ** u if kind == "edm" or feed != "t" else u
        value = np.log(t) / 4 if feed == "log-sigma-over-4" else t
    elif feed == "index":
        value = np.floor(u * int(path.get("steps", 1000)))
    else:
        low, high = float(path.get("t_min", 0.0)), float(path.get("t_max", 1.0))
        value = low + (high - low) * u
        if feed == "log-sigma-over-4":
            value = np.log(value + 1e-3) / 4
    return value * float(keys.get("scale", 1.0)) + float(keys.get("offset", 0.0))


def _levels(path: Mapping[str, Any]) -> tuple[float, float]:
    low, high = (0.002, 80.0) if path["kind"] == "edm" else (0.01, 50.0)
    return float(path.get("sigma_min", low)), float(path.get("sigma_max", high))


def noise_levels(reading: Reading, fed: Any) -> Any:
    """The noise levels of fed times on the paths edm and ve."""
    keys, (low, high) = reading.time_keys, _levels(reading.path)
    value = (fed - float(keys.get("offset", 0.0))) / float(keys.get("scale", 1.0))
    feed = keys.get("feed") or "t"
    if feed == "log-sigma-over-4":
        return np.exp(4 * value)
    return low * (high / low) ** value if feed == "t" and reading.path["kind"] == "ve" else value


def _outputs(graph: Graph, cases: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The module's outputs in single precision."""
    import torch

    module = module_of(graph)
    with torch.no_grad(), graph.within():
        return [module(*map(torch.from_numpy, case.values())).numpy() for case in cases]


def _double_outputs(graph: Graph, cases: Sequence[Mapping[str, Any]]) -> list[Any] | None:
    """The outputs of a copy in double precision; `None` where it cannot be called so."""
    import torch

    def wide(value: Any) -> Any:
        tensor = torch.from_numpy(value)
        return tensor.double() if tensor.is_floating_point() else tensor

    try:
        module = double_copy(module_of(graph))
        inputs = [[wide(value) for value in case.values()] for case in cases]
        with torch.no_grad(), graph.within(), in_double():
            outputs = [module(*values) for values in inputs]
        return [output.numpy() for output in outputs]
    except Exception:
        return None


def jax_outputs(graph: Graph, cases: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The outputs of a function of JAX arrays."""
    return [np.asarray(graph.call(graph.net, *case.values())) for case in cases]
