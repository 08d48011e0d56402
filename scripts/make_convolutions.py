"""Writes tests/data/convolutions: convolutions of one layer or two, as exporters write them, for the algorithms that
compute them from fewer products, and some that those algorithms must leave alone.

    python scripts/make_convolutions.py

Weights are a short pattern that repeats, so that the files can be packed.
"""

import numpy as np

from common import ROOT
from onnx_graph import Graph

HERE = ROOT / "tests" / "data" / "convolutions"
SAME = {"pads": [1, 1, 1, 1]}
TWICE = np.array([1.0, 1.0, 2.0, 2.0], dtype=np.float32)


def weights(g, shape, pace=7):
    """Constant weights of a shape."""
    count = int(np.prod(shape))
    pattern = np.arange(count) * pace % 61 % 16 - 7.3
    return g.constant((pattern * 0.2 / np.sqrt(count / shape[0])).reshape(shape))


def conv(g, image, shape, bias=True, operator="Conv", name=None, **attributes):
    """A convolution with weights of a shape and, if wanted, a bias."""
    inputs = [image, weights(g, shape)]
    if bias:
        inputs.append(weights(g, [shape[1 if operator == "ConvTranspose" else 0]], 11))
    return g(operator, *inputs, name=name, **attributes)


def save(name, size, outside, body):
    """Write the network that `body` appends to a graph, from images of a size to images of another one."""
    g = Graph()
    body(g)
    g.save(HERE / f"{name}.onnx", {"x": ["N", *size]}, {"y": ["N", *outside]})


def enlarged(name, sizes=False, also=False, **attributes):
    """A convolution of an image of twice the height and width."""

    def body(g):
        scale = ["", np.array([2, 32, 32, 32])] if sizes else [TWICE]
        large = g("Resize", "x", "", *scale, **attributes)
        made = conv(g, large, [32, 32, 3, 3], name=None if also else "y", **SAME)
        if also:
            g("Add", made, large, name="y")

    save(name, [32, 16, 16], [32, 32, 32], body)


def alone(name, size, outside, shape, **attributes):
    """One convolution."""
    save(name, size, outside, lambda g: conv(g, "x", shape, name="y", **attributes))


def shared(g):
    """Two convolutions by the same weights, the second one transposed."""
    filters = weights(g, [32, 32, 3, 3])
    hidden = g("Tanh", g("Conv", "x", filters, **SAME))
    hidden = g("Conv", hidden, filters, **SAME)
    g("ConvTranspose", hidden, filters, name="y", **SAME)


def computed(g):
    """Weights that depend on the image."""
    size = g("ReduceMax", "x", keepdims=0)
    g("Conv", "x", g("Mul", weights(g, [32, 32, 3, 3]), size), name="y", **SAME)


def main():
    image = [32, 32, 32]
    alone("four", image, image, [32, 32, 3, 3], **SAME)
    alone("two", [32, 22, 24], [32, 22, 24], [32, 32, 3, 3], bias=False, auto_pad="SAME_UPPER")
    alone("wide", [16, 12, 128], [48, 12, 128], [48, 16, 3, 3], **SAME)
    alone("tall", [32, 64, 32], [32, 64, 32], [32, 32, 3, 3], **SAME)
    alone("tall_two", [32, 34, 32], [32, 34, 32], [32, 32, 3, 3], **SAME)
    alone("transposed", image, [48, 32, 32], [32, 48, 3, 3], operator="ConvTranspose", **SAME)
    save("shared", image, image, shared)
    enlarged("enlarged", mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    enlarged("enlarged_also_read", also=True, mode="nearest")
    enlarged("enlarged_upwards", mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="ceil")
    enlarged("enlarged_smoothly", mode="linear")
    alone("few_channels", [8, 64, 64], [32, 64, 64], [32, 8, 3, 3], **SAME)
    alone("groups", image, image, [32, 16, 3, 3], group=2, **SAME)
    alone("steps", [32, 64, 64], image, [32, 32, 3, 3], strides=[2, 2], **SAME)
    alone("holes", image, image, [32, 32, 3, 3], dilations=[2, 2], pads=[2, 2, 2, 2])
    alone("no_margin", [32, 34, 34], image, [32, 32, 3, 3])
    alone("odd_height", [32, 33, 32], [32, 33, 32], [32, 32, 3, 3], **SAME)
    alone("small", [32, 8, 8], [32, 8, 8], [32, 32, 3, 3], **SAME)
    save("computed", image, image, computed)


if __name__ == "__main__":
    main()
