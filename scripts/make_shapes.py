"""Writes tests/data/shapes: networks of images in which every number has its own distribution.

    python scripts/make_shapes.py

So no two axes can be exchanged without a change of the result.

- `denoiser.onnx` is the denoiser of N(m, diag s^2) over [3, 8, 8], with m and s different at every number.
- `map.onnx` has the ports of a flow map.
- `features.onnx` takes linear features of images in [-1, 1].
- The others take the same features of bytes, which they scale themselves: `features_255.onnx` by x/255*2 - 1,
  `features_mean.onnx` by (x - 127.5)/127.5 with one mean and deviation per channel, after a cast and a transposition
  from channels last, and `features_flat.onnx` those of flat images.
"""

from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save

HERE = Path(__file__).parent.parent / "tests" / "data" / "shapes"
SHAPE = [3, 8, 8]


def law():
    """Mean and standard deviation, as the test computes them."""
    place = np.arange(192).reshape(SHAPE)
    return (place % 7 - 3) / 16, 0.05 + (place % 11) / 100


def write(name, nodes, inputs, outputs, constants):
    port = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    stored = [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()]
    graph = helper.make_graph([helper.make_node(op, i, o, **a) for op, i, o, a in nodes], name,
                              [port(*i) for i in inputs], [port(*o) for o in outputs], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9,
                              producer_name="flowgauge scripts")
    checker.check_model(model)
    save(model, HERE / f"{name}.onnx")


def floats(values):
    return np.asarray(values, np.float32)


def denoiser():
    """D = (s^2 x + sigma^2 m) / (s^2 + sigma^2)."""
    mean, std = law()
    write("denoiser", [
        ("Unsqueeze", ["sigma", "axes"], ["t"], {}),
        ("Mul", ["t", "t"], ["noise"], {}),
        ("Mul", ["x", "variance"], ["a"], {}),
        ("Mul", ["noise", "mean"], ["b"], {}),
        ("Add", ["a", "b"], ["sum"], {}),
        ("Add", ["noise", "variance"], ["all"], {}),
        ("Div", ["sum", "all"], ["denoised"], {}),
    ], [("x", ["N", *SHAPE]), ("sigma", ["N"])], [("denoised", ["N", *SHAPE])],
        {"axes": np.array([1, 2, 3]), "variance": floats(std**2), "mean": floats(mean)})


def flow_map():
    """u = -x (t + s) and d = -192 (t + s): no true map, but one with the ports of one."""
    write("map", [
        ("Add", ["t", "s"], ["sum"], {}),
        ("Neg", ["sum"], ["minus"], {}),
        ("Unsqueeze", ["minus", "axes"], ["column"], {}),
        ("Mul", ["x", "column"], ["u"], {}),
        ("Mul", ["minus", "size"], ["d"], {}),
    ], [("x", ["N", *SHAPE]), ("t", ["N"]), ("s", ["N"])], [("u", ["N", *SHAPE]), ("d", ["N"])],
        {"axes": np.array([1, 2, 3]), "size": floats(192)})


def features():
    """Four linear features of an image in [-1, 1]."""
    weights = floats(np.sin(np.arange(192 * 4)).reshape(192, 4) / 8)
    last = [("Flatten", ["scaled"], ["flat"], {"axis": 1}), ("MatMul", ["flat", "weights"], ["features"], {})]
    out = [("features", ["N", 4])]
    write("features", [("Identity", ["x"], ["scaled"], {}), *last], [("x", ["N", *SHAPE])], out, {"weights": weights})
    write("features_flat", [("Identity", ["x"], ["scaled"], {}), *last], [("x", ["N", 192])], out, {"weights": weights})
    write("features_255", [
        ("Div", ["x", "levels"], ["share"], {}),
        ("Mul", ["two", "share"], ["double"], {}),
        ("Sub", ["double", "one"], ["scaled"], {}),
        *last,
    ], [("x", ["N", 3, "H", "W"])], out, {"weights": weights, "levels": floats(255), "two": floats(2), "one": floats(1)})
    channels = floats([127.5] * 3)
    write("features_mean", [
        ("Cast", ["x"], ["cast"], {"to": TensorProto.FLOAT}),
        ("Sub", ["cast", "mean"], ["centred"], {}),
        ("Div", ["centred", "std"], ["normed"], {}),
        ("Transpose", ["normed"], ["scaled"], {"perm": [0, 3, 1, 2]}),
        *last,
    ], [("x", ["N", 8, 8, 3])], out, {"weights": weights, "mean": channels, "std": channels})


if __name__ == "__main__":
    HERE.mkdir(parents=True, exist_ok=True)
    denoiser()
    flow_map()
    features()
