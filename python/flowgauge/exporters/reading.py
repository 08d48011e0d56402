"""How a network is read: what it is called with, what it predicts and on which path."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .._errors import ExportError

PREDICTIONS = ["denoised", "noise", "velocity", "score", "v"]
PATHS = ["edm", "ve", "vp", "sub-vp", "cosine", "flow-matching", "discrete"]


@dataclass
class Given:
    """What the caller said: an example of the arguments, and keys of the card."""

    example: Any = None
    keys: dict[str, Any] = field(default_factory=dict)
    scheduler: Any = None
    vae: Any = None

    def says_path(self) -> bool:
        """Whether the caller names both the path and the prediction."""
        return self.keys.get("path") is not None and self.keys.get("prediction") is not None


@dataclass
class Condition:
    """An input with one value per sample, and the value that stands for none."""

    input: str
    null: Any = None


@dataclass
class Graph:
    """One ONNX file: the function `call(net, *inputs)` with an example of its inputs by name.

    Every input has the batch as its first axis. `scalar` names inputs without that axis.
    """

    file: str
    net: Any
    call: Callable[..., Any]
    inputs: dict[str, Any]
    output: str
    scalar: tuple[str, ...] = ()
    # What must hold while the network is traced or called.
    within: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass
class Reading:
    """A network as its card describes it."""

    graph: Graph
    x: str
    time: str | None
    prediction: str
    path: dict[str, Any]
    time_keys: dict[str, Any] = field(default_factory=dict)
    conditions: dict[str, Condition] = field(default_factory=dict)
    channels: list[int] | None = None
    prior: dict[str, Any] | None = None
    data: dict[str, Any] | None = None
    # Further files: the parts of an autoencoder.
    parts: list[Graph] = field(default_factory=list)
    # Arrays that the card names, by the name of their file.
    arrays: dict[str, Any] = field(default_factory=dict)
    # Sentences for the top of the card.
    remarks: list[str] = field(default_factory=list)
    guesses: list[str] = field(default_factory=list)
    # Writes the configs from which the program drafts the card, instead of the keys above.
    configs: Callable[[Path], None] | None = None

    @property
    def shape(self) -> list[int]:
        """The shape of one sample."""
        return list(self.graph.inputs[self.x].shape[1:])


def is_a(net: Any, package: str | None, *names: str) -> bool:
    """Whether the class of `net`, or a class that it is derived from, has one of these names.

    `package` is the beginning of the name of the class's module, or `None` for any: classes that
    were loaded from a pickle have modules of their own.
    """
    return any(
        base.__name__ in names and (package is None or f"{base.__module__}.".startswith(package))
        for base in type(net).__mro__
    )


def as_tensor(value: Any) -> Any:
    """A tensor on the CPU, of a tensor or anything that NumPy reads; floats in single precision.

    It is an array of NumPy where torch is not there, as it may be with JAX.
    """
    if importlib.util.find_spec("torch") is None:
        array = np.asarray(value)
        return array.astype(np.float32) if is_float(array) else array
    import torch

    tensor = value.detach().cpu() if isinstance(value, torch.Tensor) else torch.as_tensor(value)
    return tensor.float() if is_float(tensor) else tensor


def is_float(array: Any) -> bool:
    """Whether a tensor or an array holds floating-point numbers."""
    return "float" in str(array.dtype)


def example_arguments(net: Any, example: Any) -> dict[str, Any]:
    """The tensors of an example by the names of the network's parameters.

    A tuple has them in the order in which the network takes them, a dictionary by name. A single
    tensor is the state, under the name "".
    """
    if example is None:
        return {}
    if isinstance(example, Mapping):
        return {str(name): as_tensor(value) for name, value in example.items()}
    if not isinstance(example, (tuple, list)):
        return {"": as_tensor(example)}
    call = getattr(net, "flowgauge_function", net.forward) if hasattr(net, "forward") else net
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        names = [p.name for p in inspect.signature(call).parameters.values() if p.kind in kinds]
    except (TypeError, ValueError):
        names = []
    names += [f"input_{i}" for i in range(len(names), len(example))]
    return {name: as_tensor(value) for name, value in zip(names, example, strict=False)}


def example_state(net: Any, given: Given, *names: str) -> Any | None:
    """The state in the example, found by the name of the network's parameter; `None` if absent."""
    arguments = example_arguments(net, given.example)
    for name in ("", *names):
        if name in arguments:
            return arguments[name]
    return None


def batch_of(state: Any, count: int = 3) -> Any:
    """A batch of `count` samples, by repetition: tracing needs more than one."""
    return state[[i % len(state) for i in range(count)]]


def require_state(state: Any | None, what: str) -> Any:
    """The state, or an error that asks for it."""
    if state is None:
        raise ExportError(
            f"{what} does not say the shape of a sample; give `example`, a batch of states", 2
        )
    return state


def path_of(value: Any) -> dict[str, Any]:
    """The card's path, of its name or its keys."""
    path = {"kind": value} if isinstance(value, str) else dict(value)
    if path.get("kind") == "flow-matching" and "data_at" not in path:
        raise ExportError(
            "path flow-matching: data_at is not given, and both conventions are in use; expected "
            '{"kind": "flow-matching", "data_at": 1} with the data at time 1 and noise at time 0, '
            "or 0 for the reverse",
            2,
        )
    return path
