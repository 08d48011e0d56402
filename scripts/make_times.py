"""Makes tests/data/times: small ONNX graphs with special time inputs or further inputs.

    python scripts/make_times.py

Every graph takes x [N,4] and gives y [N,4] and d [N]. N(0, I) stays N(0, I) on a variance-preserving path, and its
noise prediction is sigma x. So `indexed` and `smooth` are exact models of a known distribution.

    indexed       y = sigma_t x with sigma from a table of 1000, by an index t (int64), as DDPM's networks take it
    smooth        the same with sigma as a piecewise linear function of a float t, between the indices
    indexed_map   two indices t and s: y = (sigma_t + sigma_s) x
    heeding       y = t x, of a float t; also with x and y in float64 and float16, and `heeding_cast`, which takes and
                  gives float32 and computes in float16, as converters to half precision leave it
    ignoring      y = x / 4 for any t: a field that does not depend on time
    heeding_map   y = (t + 2 s) x
    ignoring_map  y = t x for any s
    wide          y = t x + w, w from a one-hot class of ten (`class`), an embedding [3,5] (`context`) and a label [N]
    wide_map      the same with (t + 2 s) x
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).resolve().parent.parent / "tests/data/times"
D = 4
BETAS = np.linspace(1e-4, 0.02, 1000)
SIGMA = np.sqrt(1 - np.cumprod(1 - BETAS)).astype(np.float32)


class Graph:
    """A graph of x [N,4] and further inputs: constants by value, nodes by operator."""

    def __init__(self, kind=TensorProto.FLOAT, **inputs):
        self.kind, self.inputs, self.nodes, self.constants = kind, inputs, [], {}

    def __call__(self, operator, *inputs, name=None, **attributes):
        inputs = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        output = name or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def constant(self, value):
        value = np.asarray(value)
        name = f"c{len(self.constants)}"
        kind = np.int64 if value.dtype.kind == "i" else np.float32
        self.constants[name] = numpy_helper.from_array(value.astype(kind), name)
        return name

    def column(self, value):
        return self("Unsqueeze", value, np.array([1]))

    def save(self, name, y):
        self("Identity", y, name="y")
        self("ReduceSum", y, np.array([1]), keepdims=0, name="d")
        inputs = [("x", self.kind, ["N", D])] + [(n, k, s) for n, (k, s) in self.inputs.items()]
        outputs = [("y", self.kind, ["N", D]), ("d", self.kind, ["N"])]
        port = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes, name, [port(*i) for i in inputs], [port(*o) for o in outputs], list(self.constants.values()))
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(proto, full_check=True)
        onnx.save(proto, HERE / f"{name}.onnx")


WHOLE, REAL = (TensorProto.INT64, ["N"]), (TensorProto.FLOAT, ["N"])


def main():
    HERE.mkdir(parents=True, exist_ok=True)
    g = Graph(t=WHOLE)
    g.save("indexed", g("Mul", "x", g.column(g("Gather", SIGMA, "t"))))
    g = Graph(t=REAL)
    below = g("Floor", g("Clip", "t", 0.0, 998.0))
    low, high = (g("Gather", SIGMA, g("Cast", g("Add", below, shift), to=TensorProto.INT64)) for shift in (0.0, 1.0))
    weight = g("Sub", "t", below)
    g.save("smooth", g("Mul", "x", g.column(g("Add", low, g("Mul", weight, g("Sub", high, low))))))
    g = Graph(t=WHOLE, s=WHOLE)
    g.save("indexed_map", g("Mul", "x", g.column(g("Add", g("Gather", SIGMA, "t"), g("Gather", SIGMA, "s")))))
    g = Graph(t=REAL)
    g.save("heeding", g("Mul", "x", g.column("t")))
    for kind, name in [(TensorProto.DOUBLE, "float64"), (TensorProto.FLOAT16, "float16")]:
        g = Graph(kind=kind, t=(kind, ["N"]))
        g.save(f"heeding_{name}", g("Mul", "x", g.column("t")))
    g = Graph(t=REAL)
    half = g("Mul", g("Cast", "x", to=TensorProto.FLOAT16), g.column(g("Cast", "t", to=TensorProto.FLOAT16)))
    g.save("heeding_cast", g("Cast", half, to=TensorProto.FLOAT))
    g = Graph(t=REAL)
    g.save("ignoring", g("Mul", "x", 0.25))
    g = Graph(t=REAL, s=REAL)
    g.save("heeding_map", g("Mul", "x", g.column(g("Add", "t", g("Mul", "s", 2.0)))))
    g = Graph(t=REAL, s=REAL)
    g.save("ignoring_map", g("Mul", "x", g.column("t")))
    for name, times in [("wide", {"t": REAL}), ("wide_map", {"t": REAL, "s": REAL})]:
        more = {"class": (TensorProto.FLOAT, ["N", 10]), "context": (TensorProto.FLOAT, ["N", 3, 5]), "label": WHOLE}
        g = Graph(**times, **more)
        time = "t" if name == "wide" else g("Add", "t", g("Mul", "s", 2.0))
        of_class = g("MatMul", "class", np.linspace(-1, 1, 10 * D).reshape(10, D))
        of_context = g("ReduceSum", "context", np.array([1, 2]), keepdims=0)
        rest = g("Add", g.column(of_context), g.column(g("Cast", "label", to=TensorProto.FLOAT)))
        g.save(name, g("Add", g("Mul", "x", g.column(time)), g("Add", of_class, rest)))


if __name__ == "__main__":
    main()
