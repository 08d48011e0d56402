"""Writes the small ONNX files under tests/data/hostile/ that the command line's tests refuse or survive.

Needs `onnx` and `numpy`; run from the repository's root: python scripts/make_hostile.py
"""

import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OUT = pathlib.Path("tests/data/hostile")
HALF = numpy_helper.from_array(np.array([0.5], "f4"), "c")


def port(name, shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def write(name, nodes, inputs=None, outputs=None, initializers=(HALF,)):
    inputs = inputs or [port("x", ["N", 2]), port("t", ["N"])]
    outputs = outputs or [port("y", ["N", 2])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(initializers))
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    (OUT / f"{name}.onnx").write_bytes(model.SerializeToString())


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    node = helper.make_node
    half = node("Mul", ["x", "c"], ["y"], name="half")
    write("toy", [half])
    write("baked", [half], [port("x", [4, 2]), port("t", [4])], [port("y", [4, 2])])
    four = numpy_helper.from_array(np.array([4, 2], "i8"), "four")
    inside = [node("Reshape", ["x", "four"], ["r"], name="fixed"), node("Mul", ["r", "c"], ["y"], name="half")]
    write("baked_inside", inside, initializers=[HALF, four])
    label = [half, node("Identity", ["label"], ["z"], name="copy")]
    ports = [port("x", ["N", 2]), port("t", ["N"]), port("label", ["N"])]
    write("extra_input", label, ports, [port("y", ["N", 2]), port("z", ["N"])])
    write("nan", [half], initializers=[numpy_helper.from_array(np.array([np.nan], "f4"), "c")])
    mean = node("ReduceMean", ["x"], ["m"], name="over_the_batch", axes=[0], keepdims=1)
    write("leak", [mean, node("Add", ["x", "m"], ["y"], name="add")], initializers=[])
    write("unknown_operator", [node("Frobnicate", ["x"], ["y"], name="frob")], initializers=[])
    write("scalar_output", [node("ReduceSum", ["x"], ["y"], name="sum", keepdims=0)], outputs=[port("y", None)])
    # An initializer that claims 2^40 numbers and holds one.
    model = onnx.load(OUT / "toy.onnx")
    model.graph.initializer[0].dims[0] = 1 << 40
    (OUT / "huge_claim.onnx").write_bytes(model.SerializeToString())


if __name__ == "__main__":
    main()
