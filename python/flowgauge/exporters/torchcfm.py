"""Networks of torchcfm: dx/dt with the data at time 1."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .reading import Condition, Given, Graph, Reading, batch_of, example_state, is_a

PATH = {"kind": "flow-matching", "data_at": 1}


def matches(net: Any) -> bool:
    """Whether this is torchcfm's U-Net, in its wrapper or without, or its perceptron."""
    return is_a(net, "torchcfm.", "UNetModel", "MLP")


def read(net: Any, given: Given) -> Reading:
    """Reads the velocity."""
    return read_mlp(net, given) if is_a(net, "torchcfm.", "MLP") else read_unet(net, given)


def read_mlp(net: Any, given: Given) -> Reading:
    """The perceptron takes the time as a last column of the state."""
    import torch

    width = net.net[0].in_features - (1 if net.time_varying else 0)
    inputs = {"x": torch.randn(3, width)}
    if net.time_varying:
        inputs["t"] = torch.tensor([0.1, 0.5, 0.9])

    def call(net: Any, x: Any, t: Any = None) -> Any:
        return net(x if t is None else torch.cat([x, t[:, None]], -1))

    graph = Graph("velocity.onnx", net, call, inputs, "velocity")
    time = "t" if net.time_varying else None
    return Reading(graph, "x", time, "velocity", dict(PATH), {"feed": "t"} if time else {})


def read_unet(net: Any, given: Given) -> Reading:
    """The U-Net takes (t, x, y)."""
    import torch

    state = example_state(net, given, "x")
    if state is None:
        state = torch.randn(3, net.in_channels, net.image_size, net.image_size)
    x = batch_of(state)
    inputs = {"x": x, "t": torch.tensor([0.1, 0.5, 0.9])}
    conditions = {}
    if net.num_classes is not None:
        inputs["y"] = torch.arange(3) % net.num_classes
        conditions["label"] = Condition("y")

    def call(net: Any, x: Any, t: Any, y: Any = None) -> Any:
        return net(t, x) if y is None else net(t, x, y)

    graph = Graph("velocity.onnx", net, call, inputs, "velocity", within=without_checkpoints)
    channels = [0, x.shape[1]] if net.out_channels == 2 * x.shape[1] else None
    return Reading(
        graph, "x", "t", "velocity", dict(PATH), {"feed": "t"}, conditions, channels=channels
    )


@contextmanager
def without_checkpoints() -> Iterator[None]:
    """Calls blocks directly.

    Attention recomputes its activations in the backward pass by an autograd function, which cannot
    be traced.
    """
    library: Any = sys.modules["torchcfm.models.unet.unet"]
    kept = library.checkpoint
    library.checkpoint = lambda function, inputs, params, flag: function(*inputs)
    try:
        yield
    finally:
        library.checkpoint = kept
