"""Networks in the wrapper of the package flow_matching: dx/dt with the data at time 1."""

from __future__ import annotations

from typing import Any

from .reading import (
    Condition,
    Given,
    Graph,
    Reading,
    batch_of,
    example_arguments,
    example_state,
    is_a,
    require_state,
)


def matches(net: Any) -> bool:
    """Whether this is a `flow_matching.utils.ModelWrapper`."""
    return is_a(net, "flow_matching.", "ModelWrapper")


def read(net: Any, given: Given) -> Reading:
    """Reads the velocity. Further entries of the example are passed by name, and are conditions."""
    import torch

    arguments = example_arguments(net, given.example)
    x = batch_of(require_state(example_state(net, given, "x"), "a ModelWrapper"))
    extras = {n: batch_of(a) for n, a in arguments.items() if n not in ("", "x", "t")}

    def call(net: Any, x: Any, t: Any, *values: Any) -> Any:
        return net(x, t, **dict(zip(extras, values, strict=True)))

    inputs = {"x": x, "t": torch.tensor([0.1, 0.5, 0.9]), **extras}
    graph = Graph("velocity.onnx", net, call, inputs, "velocity")
    path = {"kind": "flow-matching", "data_at": 1}
    conditions = {name: Condition(name) for name in extras}
    return Reading(graph, "x", "t", "velocity", path, {"feed": "t"}, conditions)
