"""Writes tests/data/gaussian_map: the flow map of a Gaussian in closed form, as ONNX graphs in double precision.

    python scripts/make_gaussian_map.py

Data N(m, diag C) at time 1 of x_t = t x_1 + (1 - t) eps (flow matching, data at 1), so x_t ~ N(t m, S_t) with
S_t = t^2 C + (1 - t)^2. The flow keeps (x - t m) / sqrt(S_t). Hence with r = sqrt(S_s / S_t)

    u(x, t, s) = m + k (x - t m),   k = (r - 1) / (s - t) = ((C + 1)(s + t) - 2) / (S_t (r + 1))
    D(x, t, s) = (1 / (s - t)) sum log(1 + (s - t) k) = sum k l((s - t) k),   l(z) = log(1 + z) / z

The only 0/0 at s = t is that of l, and the graph uses its series there. The same map is written with the field's
three conventions for the second time: the time itself, the signed step, and a duration towards the data.
"""

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from common import ROOT, save, sha256, write_card

HERE = ROOT / "tests" / "data" / "gaussian_map"
MEAN, VARIANCE = np.array([0.5, -1.0, 0.0]), np.array([0.25, 1.0, 4.0])
SECOND = {"two_time": "s", "step": "dt", "duration": "dt"}


class Graph:
    """Nodes by operator, named by what they hold; numbers are constants."""

    def __init__(self):
        self.nodes, self.initializers = [], {}

    def constant(self, value):
        name = f"c{len(self.initializers)}"
        self.initializers[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def __call__(self, operator, *inputs, to=None, **attributes):
        inputs = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        output = to or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def save(self, path, inputs, outputs):
        port = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.DOUBLE, shape)
        graph = helper.make_graph(self.nodes, path.stem, [port(*i) for i in inputs], [port(*o) for o in outputs],
                                  list(self.initializers.values()))
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


def variance(g, t):
    """S_t = t^2 C + (1 - t)^2 for a column of times."""
    noise = g("Sub", 1.0, t)
    return g("Add", g("Mul", g("Mul", t, t), VARIANCE[None]), g("Mul", noise, noise))


def averages(g, t, s, step, shift=None):
    """u and D for columns t, s and s - t; `shift` is added to u."""
    at_t, at_s = variance(g, t), variance(g, s)
    ratio = g("Sqrt", g("Div", at_s, at_t))
    rise = g("Sub", g("Mul", g("Add", s, t), (VARIANCE + 1.0)[None]), 2.0)
    k = g("Div", rise, g("Mul", at_t, g("Add", ratio, 1.0)))
    gap = g("Sub", "x", g("Mul", t, MEAN[None]))
    mean = g("Add", MEAN[None], shift) if shift else MEAN[None]
    g("Add", g("Mul", k, gap), mean, to="u")
    z = g("Mul", step, k)
    near = g("Less", g("Abs", z), 1e-5)
    safe = g("Where", near, 1.0, z)
    far = g("Div", g("Log", g("Add", 1.0, safe)), safe)
    series = g("Add", g("Sub", 1.0, g("Mul", z, 0.5)), g("Div", g("Mul", z, z), 3.0))
    g("ReduceSum", g("Mul", k, g("Where", near, series, far)), np.array([1], np.int64), to="d", keepdims=0)


def write_map(kind):
    g = Graph()
    column = lambda name: g("Unsqueeze", name, np.array([1], np.int64))
    t = column("t")
    if kind == "two_time":
        s = column("s")
        step = g("Sub", s, t)
    else:
        step = column("dt")
        s = g("Add", t, step)
    averages(g, t, s, step)
    g.save(HERE / f"{kind}.onnx", [("x", ["N", 3]), ("t", ["N"]), (SECOND[kind], ["N"])], [("u", ["N", 3]), ("d", ["N"])])


def write_classed():
    """The two-time map with a class beside it: of class 3 it is the map, of any other class u is shifted."""
    g = Graph()
    column = lambda name: g("Unsqueeze", name, np.array([1], np.int64))
    t, s = column("t"), column("s")
    averages(g, t, s, g("Sub", s, t), g("Sub", column("label"), 3.0))
    inputs = [("x", ["N", 3])] + [(name, ["N"]) for name in ("t", "s", "label")]
    g.save(HERE / "classed.onnx", inputs, [("u", ["N", 3]), ("d", ["N"])])


def write_velocity():
    """v = m + S'/(2 S) (x - t m), with S'/2 = t C - (1 - t)."""
    g = Graph()
    t = g("Unsqueeze", "t", np.array([1], np.int64))
    slope = g("Sub", g("Mul", t, (VARIANCE + 1.0)[None]), 1.0)
    gap = g("Sub", "x", g("Mul", t, MEAN[None]))
    g("Add", g("Mul", g("Div", slope, variance(g, t)), gap), MEAN[None], to="v")
    g.save(HERE / "velocity.onnx", [("x", ["N", 3]), ("t", ["N"])], [("v", ["N", 3])])


def check():
    """Hold every graph against the formulas with their quotients."""
    rng = np.random.default_rng(0)
    x, t, s = rng.normal(size=(256, 3)), rng.uniform(size=256), rng.uniform(size=256)
    s[:8] = t[:8]
    S = lambda t: t[:, None] ** 2 * VARIANCE + (1 - t[:, None]) ** 2
    there = s[:, None] * MEAN + np.sqrt(S(s) / S(t)) * (x - t[:, None] * MEAN)
    total = 0.5 * np.log(S(s) / S(t)).sum(1)
    slope = (t[:, None] * (VARIANCE + 1) - 1) / S(t)
    velocity = MEAN + slope * (x - t[:, None] * MEAN)
    run = lambda name, feeds: ort.InferenceSession(str(HERE / name), providers=["CPUExecutionProvider"]).run(None, feeds)
    gaps = [np.abs(run("velocity.onnx", {"x": x, "t": t})[0] - velocity).max()]
    for kind, second in SECOND.items():
        u, d = run(f"{kind}.onnx", {"x": x, "t": t, second: s if kind == "two_time" else s - t})
        gaps += [np.abs(x + (s - t)[:, None] * u - there).max(), np.abs((s - t) * d - total).max(),
                 np.abs(u[:8] - velocity[:8]).max(), np.abs(d[:8] - slope[:8].sum(1)).max()]
    print(f"largest difference from the formulas {max(gaps):.1e}")
    assert max(gaps) < 1e-12


def main():
    HERE.mkdir(parents=True, exist_ok=True)
    write_velocity()
    for kind in SECOND:
        write_map(kind)
    write_classed()
    check()
    inputs = {"two_time": {"to": "s"}, "step": {"step": "dt"}, "duration": {"duration": "dt"}}
    write_card(HERE / "card.yaml", {
        "name": "gaussian-map",
        "shape": [3],
        "network": {"file": "velocity.onnx", "sha256": sha256(HERE / "velocity.onnx"),
                    "inputs": {"x": "x", "time": "t"}, "output": "v", "prediction": "velocity"},
        "path": {"kind": "flow-matching", "data_at": 1},
        "flow_maps": {
            kind.replace("_", "-"): {
                "file": f"{kind}.onnx", "sha256": sha256(HERE / f"{kind}.onnx"),
                "inputs": {"x": "x", "from": "t", **inputs[kind]}, "outputs": {"velocity": "u", "divergence": "d"},
                **({"direction": "to-data"} if kind == "duration" else {}),
            } for kind in SECOND
        },
        "provenance": {"trained_on": "nothing: the closed form of a Gaussian", "licence": "MIT OR Apache-2.0",
                       "script": "scripts/make_gaussian_map.py"},
    })
    np.save(HERE / "points.npy", np.array([[0.7, 0.3, -2.0], [0.5, -1.0, 0.0], [-0.4, 0.9, 3.1]]))


if __name__ == "__main__":
    main()
